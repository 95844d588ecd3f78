# What can be done here; `make` alone lists it. Everything uses one environment, .venv.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# The networks of the tests are tiny: more threads than cores would only be in the way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
# Here the shapes and types of every call are checked as it runs, by jaxtyping. In the tests of whole
# jobs that would take as long as the jobs; plain `pytest` and `make test-slow` check there, too.
CHECKED := $(addprefix tests/,config data laws search storage student synthesis teachers) src

.PHONY: help demo test test-slow test-gpu servers lint docs package

help: ## List what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(STAMP) ## A digit classifier teaches a network by answers alone (2 minutes); runs/demo
	$(BIN)/python examples/demo.py

test: lint ## Lint, types and every test that needs nothing but this folder
	$(PYTEST) -n 2 --dist worksteal $(CHECKED)
	$(PYTEST) -n 2 --dist worksteal --jaxtyping-packages= tests $(addprefix --ignore=,$(CHECKED))

test-slow: $(STAMP) ## The tests that take minutes
	$(PYTEST) -m "slow and not gpu" --timeout 1800

test-gpu: $(STAMP) ## The tests that need a CUDA device
	$(PYTEST) -m gpu --timeout 1800

servers: .venv-servers/.installed ## Real servers for the slow tests, in .venv-servers (650 MB)

lint: $(STAMP) ## Style, types and spelling (ruff, mypy, codespell)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(STAMP) ## Write docs/cli.md and docs/recipe.md anew, then build the site into site/
	$(BIN)/python tests/test_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

package: $(STAMP) ## Build the wheel and the sdist into dist/
	$(BIN)/python -m build

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "db3kd needs Python 3.11 or newer, and $(PYTHON) is not; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@echo "installing into .venv, once; a few minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

.venv-servers/.installed: tests/servers/requirements.txt
	$(PYTHON) -m venv .venv-servers
	.venv-servers/bin/python -m pip install --disable-pip-version-check --progress-bar off -r $<
	@touch $@
