# Everything a developer types. `make demo` and `make test` set themselves up on a machine with Python 3.11+ and nothing else.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

.PHONY: help
