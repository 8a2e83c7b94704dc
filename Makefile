# Sets up .venv with podar and everything that its tests use, then runs the demo, the tests or the linters in it.
#
#   make demo    the whole story on real data, in minutes        make lint    style, types and import directions
#   make test    everything that must pass before a commit       make clean   remove .venv and caches
#   make test-native  the sparse engine over thousands of shapes     make check-spills   reads its disassembly
#   make sanitize, make test-aarch64   its C++ tests, otherwise built
#   make test-zoo    every model of the zoo, by the oracle        make demo-yolo   YOLO26 on composed scenes
#   make lock    writes the pinned set anew       make audit   asks for known faults in it (needs the network)
#   make test-kill   every run killed before every file operation, and resumed: half an hour
#   make test-yolo   every task and generation of YOLO            make test-yolo-oldest   with the oldest release
#
# Needs Python 3.11 or newer with venv. Another interpreter: make test PYTHON=python3.12

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := $(VENV)/.native
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# One thread that sleeps while it waits: OpenMP threads that spin slow a shared machine a hundredfold.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive

.PHONY: test-hostile lock audit check-spills engine test-native sanitize test-aarch64 demo test lint clean install demo-yolo test-kill test-yolo test-yolo-oldest test-zoo

install: $(INSTALLED) $(NATIVE)

PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps
LOCKED := $(PIP) --require-hashes --requirement

# The pinned set, every file of it by its hash, and then podar itself, built with what the set holds. torch: its CPU build
# where pip finds one, else the registry's, which may need CUDA's libraries beside it.
# The stamp is touched last, so an installation that broke off is taken up again.
$(INSTALLED): pyproject.toml constraints.txt constraints-cpu.txt constraints-cuda.txt
	@test -n "$(PYTHON)" || { echo "podar needs Python 3.11 or newer with venv; none found (name one: make PYTHON=...)"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "installing podar and the pinned set into $(VENV): a few minutes"
	@$(LOCKED) constraints-cpu.txt 2>/dev/null || true
	@$(LOCKED) constraints.txt
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(LOCKED) constraints-cuda.txt
	@$(PIP) --no-build-isolation --editable .
	@touch $@

# The sparse engine needs a C++ compiler and Python's headers; podar works without it, and its tests are skipped.
$(NATIVE): $(INSTALLED) $(wildcard native/*.* native/src/* native/include/* native/podar_native/*.py)
	@echo "building the sparse engine (native/): a minute"
	@if ! command -v c++ >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then \
		echo "no C++ compiler: podar.accelerate will not work here, and its tests are skipped"; \
	elif ! PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation ./native 2>$(VENV)/native.log; then \
		echo "the sparse engine could not be built ($(VENV)/native.log says why): its tests are skipped"; fi
	@touch $@

demo: $(INSTALLED) $(NATIVE)
	env -u OMP_NUM_THREADS $(BIN)/podar demo

lint: $(INSTALLED) $(NATIVE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# In two processes, each a file at a time.
test: lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

# Prune, sparsify, ticket and export runs, killed before each of their file operations (some thousand in all) and resumed
# in a fresh process: each must end with the same bits and a clean folder. make test tries a sample.
test-kill: $(INSTALLED)
	$(BIN)/python -m pytest tests/killing

demo-yolo: $(INSTALLED)
	env -u OMP_NUM_THREADS $(BIN)/python examples/yolo_demo.py

test-yolo: $(INSTALLED)
	$(BIN)/python -m pytest tests/libraries/ultralytics tests/data/test_scenes.py

# The oldest release that has YOLO26, in an environment of its own that sees the packages of .venv.
test-yolo-oldest: $(INSTALLED)
	test -x .venv-yolo-oldest/bin/python || $(BIN)/python -m venv .venv-yolo-oldest
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' > .venv-yolo-oldest/lib/$$($(BIN)/python -c 'import sys; print("python%d.%d" % sys.version_info[:2])')/site-packages/podar-rest.pth
	.venv-yolo-oldest/bin/python -m pip install -qq --no-deps ultralytics==8.4.0
	.venv-yolo-oldest/bin/python -m pytest -m "not slow" tests/libraries/ultralytics

# A thousand broken and hostile files of every kind: one sentence, no code of theirs, limits on time and memory.
test-hostile: $(INSTALLED)
	PODAR_HOSTILE_CASES=70 $(BIN)/python -m pytest tests/test_hostile.py

test-zoo: $(INSTALLED)
	$(BIN)/python -m tests.zoo.run

# The engine's C++ tests, alone (and then torch beside it over thousands of shapes), under the address and
# undefined-behaviour sanitizers, and as aarch64 under qemu (Debian: g++-aarch64-linux-gnu and qemu-user-static).
test-native: $(INSTALLED) $(NATIVE) engine
	build/native/test_engine
	$(BIN)/python -m pytest -m slow tests/engine

engine:
	cmake -S native -B build/native -DPODAR_PYTHON=OFF -DPODAR_TESTS=ON >/dev/null
	cmake --build build/native

# The disassembly of the vector kernels: no sum of an innermost loop may live on the stack (x86-64, binutils).
check-spills: engine
	$(PYTHON) native/tests/spills.py build/native/CMakeFiles/podar_engine.dir/src/kernels_avx2.cpp.o build/native/CMakeFiles/podar_engine.dir/src/kernels_avx512.cpp.o

sanitize:
	cmake -S native -B build/sanitized -DPODAR_PYTHON=OFF -DPODAR_TESTS=ON -DPODAR_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug >/dev/null
	cmake --build build/sanitized && build/sanitized/test_engine

test-aarch64:
	cmake -S native -B build/aarch64 -DPODAR_PYTHON=OFF -DPODAR_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux \
		-DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ >/dev/null
	cmake --build build/aarch64 && qemu-aarch64-static -L /usr/aarch64-linux-gnu build/aarch64/test_engine

# The pinned set anew from pyproject.toml: pins stay where they can; UPGRADE=1 takes the newest of everything.
lock:
	test -x .venv-lock/bin/uv || { "$(PYTHON)" -m venv .venv-lock && .venv-lock/bin/python -m pip install -qq uv; }
	.venv-lock/bin/python tools/lock.py $(if $(UPGRADE),--upgrade)

# Known faults in the pinned set. The list of them comes from the network.
audit:
	@test -x .venv-audit/bin/pip-audit || { "$(PYTHON)" -m venv .venv-audit && .venv-audit/bin/python -m pip install -qq pip-audit; } || \
		{ echo "pip-audit could not be installed: nothing was audited"; exit 1; }
	@.venv-audit/bin/python tools/audit.py

clean:
	rm -rf $(VENV) .venv-lock .venv-audit .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
