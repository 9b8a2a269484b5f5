# make run: start the yard.  make test: run every test.  make check: the habit between commits.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := requirements
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	--python-version 3.11 pyproject.toml $(LOCKS)/build.in

# Exactly the locked versions, checked by their hashes; UNLOCKED=1: the newest ones that pyproject.toml allows.
requirements = $(if $(UNLOCKED),--upgrade --editable '$(2)' -r $(LOCKS)/build.in,--require-hashes -r $(LOCKS)/$(1).lock)
EDITABLE := --no-deps --no-build-isolation --editable

# The tests start hundreds of processes: none of them shall compile the yard anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: bench bench-downloads check clean endurance engines house newest run setup test upgrade

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
	rm -rf $(VENV) .venv-newest build *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Modelyard needs Python 3.11 or newer; say which with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml $(LOCKS)/run.lock | $(VENV)/bin/python
	@echo "Installing Modelyard into $(VENV), once; this takes a minute."
	$(PIP) $(call requirements,run,.)
	@rm -rf *.egg-info  # of an earlier installation: its entry points would shadow those of this one
	$(PIP) $(EDITABLE) .
	@touch $@

$(VENV)/.dev: pyproject.toml $(LOCKS)/dev.lock | $(VENV)/bin/python
	$(PIP) $(call requirements,dev,.[dev])
	@rm -rf *.egg-info  # of an earlier installation: its entry points would shadow those of this one
	$(PIP) $(EDITABLE) .
	@touch $@ $(VENV)/.run

# Numbers about the code: sizes, duplicates, imports. `DETAILS=--details` names every place.
house: | $(VENV)/bin/python
	@$(BIN)/python tools/house.py $(DETAILS)

# The newest versions that pyproject.toml allows, for everything or for `make upgrade ONLY="aiohttp ruff"`.
upgrade: $(VENV)/.dev
	$(LOCK) $(if $(ONLY),$(ONLY:%=--upgrade-package %),--upgrade) -o $(LOCKS)/run.lock
	$(LOCK) --extra dev -c $(LOCKS)/run.lock $(if $(ONLY),$(ONLY:%=--upgrade-package %),--upgrade) -o $(LOCKS)/dev.lock

# Every test with the newest versions instead of the locked ones, in an environment of its own.
newest:
	$(MAKE) VENV=.venv-newest UNLOCKED=1 test
