# Sets up .venv with podar and everything that its tests use, then runs the demo, the tests or the linters in it.
#
#   make demo    the whole story on real data, in minutes        make lint    style, types and import directions
#   make test    everything that must pass before a commit       make clean   remove .venv and caches
#   make test-zoo    every model of the zoo, by the oracle        make demo-yolo   YOLO26 on composed scenes
#   make test-yolo   every task and generation of YOLO            make test-yolo-oldest   with the oldest release
#
# Needs Python 3.10 or newer with venv. Another interpreter: make test PYTHON=python3.12

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python3.10 python
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done)

# One thread that sleeps while it waits: OpenMP threads that spin slow a shared machine a hundredfold.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test lint clean install demo-yolo test-yolo test-yolo-oldest test-zoo

install: $(INSTALLED)

# The stamp is touched last, so an installation that broke off is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "podar needs Python 3.10 or newer with venv; none found (name one: make PYTHON=...)"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "installing podar and the pinned set into $(VENV): a few minutes"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

demo: $(INSTALLED)
	env -u OMP_NUM_THREADS $(BIN)/podar demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -m "not slow"

demo-yolo: $(INSTALLED)
	env -u OMP_NUM_THREADS $(BIN)/python examples/yolo_demo.py

test-yolo: $(INSTALLED)
	$(BIN)/python -m pytest tests/integrations/ultralytics tests/data/test_scenes.py

# The oldest release that has YOLO26, in an environment of its own that sees the packages of .venv.
test-yolo-oldest: $(INSTALLED)
	test -x .venv-yolo-oldest/bin/python || $(BIN)/python -m venv .venv-yolo-oldest
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > .venv-yolo-oldest/lib/$$($(BIN)/python -c 'import sys; print("python%d.%d" % sys.version_info[:2])')/site-packages/podar-rest.pth
	.venv-yolo-oldest/bin/python -m pip install -qq --no-deps ultralytics==8.4.0
	.venv-yolo-oldest/bin/python -m pytest -m "not slow" tests/integrations/ultralytics

test-zoo: $(INSTALLED)
	$(BIN)/python -m tests.zoo.run

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
