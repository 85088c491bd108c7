# Everything a developer types. `make demo` and `make test` set themselves up on a machine with Python 3.11+ and nothing else.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format soak bench clean

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 12

demo: $(VENV)/.demo .venv-ministack/.done  ## the whole story on loopback, in under 90 seconds after the install
	@$(BIN)/python -m broker demo $(ARGS)

test: $(VENV)/.dev .venv-ministack/.done  ## every test, with coverage; says what it skipped and why
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not soak" --cov --cov-report= $(ARGS)
	@$(BIN)/python -m coverage report --fail-under=90 --skip-covered --skip-empty

check: $(VENV)/.dev  ## ruff, mypy --strict, import-linter, and what the docs say
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/docs

format: $(VENV)/.dev  ## ruff's fixes and its formatter
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

soak: $(VENV)/.dev .venv-ministack/.done  ## kill rounds and real clocks; at most 20 minutes
	@$(BIN)/python -m pytest -m soak -q $(ARGS)

bench: $(VENV)/.dev  ## what a policy costs: decisions, loads, proofs
	@$(BIN)/python -m tests.bench.bench_policy
	@$(BIN)/python -m tests.bench.bench_proofs

clean:  ## what the targets above made
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* build dist *.egg-info

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer with venv (on Debian: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# Hash-pinned, all of it; the package itself is installed in place and brings nothing.
$(VENV)/.demo: requirements/build.txt requirements/demo.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) ..."
	@$(PIP) --require-hashes -r requirements/build.txt
	@test -e $(VENV)/.dev || $(PIP) --require-hashes -r requirements/demo.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.demo | $(VENV)/bin/python
	@echo "installing into $(VENV) ..."
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# S3, STS and IAM for the demo and the tests, apart because it pins a botocore of its own.
.venv-ministack/.done: requirements/ministack.txt | $(VENV)/bin/python
	@echo "installing into .venv-ministack ..."
	@$(BIN)/python -m venv .venv-ministack
	@.venv-ministack/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/ministack.txt
	@touch $@

.PHONY: requirements
requirements:  ## pin again what pyproject.toml asks for (needs uv)
	@set -e; pin="uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header"; \
	$$pin --python-version 3.10 requirements/build.in -o requirements/build.txt; \
	$$pin --python-version 3.11 --extra dev pyproject.toml -o requirements/dev.txt; \
	for extra in demo broker; do \
		$$pin --python-version 3.11 --extra $$extra pyproject.toml -c requirements/dev.txt -o requirements/$$extra.txt; done; \
	$$pin --python-version 3.11 requirements/ministack.in -o requirements/ministack.txt
