# Sets up .venv with podar and everything that its tests use, then runs the demo, the tests or the linters in it.
#
#   make demo    the whole story on real data, in minutes        make lint    style, types and import directions
#   make test    everything that must pass before a commit       make clean   remove .venv and caches
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

.PHONY: demo test lint clean install

install: $(INSTALLED)

# The stamp is touched last, so an installation that broke off is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "podar needs Python 3.10 or newer with venv; none found (name one: make PYTHON=...)"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "installing podar and the pinned set into $(VENV): a few minutes"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

demo: $(INSTALLED)
	OMP_NUM_THREADS= $(BIN)/podar demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -m "not slow"

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
