# make run: start the yard.  make test: run every test.  make check: the habit between commits.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: bench bench-downloads engines run test check kill-rounds setup clean

run: $(VENV)/.run
	@exec $(BIN)/yard up

test: $(VENV)/.dev check
	$(BIN)/pytest

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	$(BIN)/pytest -q tests/unit tests/contract

# Downloads whose processes are killed at random moments, more of them than a test run has time for.
kill-rounds: $(VENV)/.dev
	KILL_ROUNDS=50 $(BIN)/pytest -s --timeout 900 tests/integration/test_killed_downloads.py

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
