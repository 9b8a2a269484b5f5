# make run: start the yard.  make test: run every test.  make check: the habit between commits.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The tests start hundreds of processes: none of them shall compile the yard anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: bench bench-downloads engines run test check endurance setup clean

run: $(VENV)/.run
	@exec $(BIN)/yard up

test: $(VENV)/.dev check
	$(BIN)/pytest -n 2 --dist worksteal tests/integration
	$(BIN)/pytest -n 2 --dist worksteal tests/e2e

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	$(BIN)/pytest -q -n 2 tests/unit tests/contract

# What kills and repeats, more often than every run has time for; half an hour.
endurance: $(VENV)/.dev
	YARD_ENDURANCE=1 $(BIN)/pytest -s --timeout 1200 \
		tests/integration/test_killed_downloads.py tests/e2e/test_accounts.py tests/e2e/test_cycles.py

bench: $(VENV)/.dev
	$(BIN)/python -m bench

bench-downloads: $(VENV)/.dev
	$(BIN)/python -m bench.downloads

# llama-server and its RPC server, built from source into .engines/bin; takes minutes, once.
engines: | $(VENV)/bin/python
	$(BIN)/python tools/build_engines.py

setup: $(VENV)/.dev

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Modelyard needs Python 3.11 or newer; say which with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Modelyard into $(VENV), once; this takes a minute."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.run
