# Each target needs only Python >= 3.11 and make; `make setup` builds .venv once and again when a pyproject changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROJECTS := $(wildcard pyproject.toml core/pyproject.toml *_plugin/pyproject.toml plugins/segmentation/pyproject.toml)
PACKAGES := $(patsubst %/pyproject.toml,%,$(filter-out pyproject.toml,$(PROJECTS)))
ifneq ($(wildcard ../shared/data),)
export GRAFTWORK_DATA ?= $(abspath ../shared/data)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench clean

help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.ready  ## Make .venv and install every package into it, editable

$(VENV)/.ready: constraints.txt $(PROJECTS)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "graftwork needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev]" $(addprefix -e ./,$(PACKAGES))
	@touch $@

demo: setup  ## Train, measure and use a classifier of handwritten digits (about a minute)
	$(BIN)/python docs/demo.py

test: setup  ## Run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: setup  ## Run ruff, mypy (strict) and the layer test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(foreach p,$(PACKAGES),-p $(notdir $(wildcard $(p)/src/*[!o])))
	$(BIN)/python -m pytest -q tests/test_layers.py

bench: setup  ## Run all benchmarks (many minutes); one: .venv/bin/python -m bench CASE
	$(BIN)/python -m bench all

clean:  ## Remove .venv, caches and demo output
	rm -rf $(VENV) demo_run .pytest_cache .mypy_cache .ruff_cache .hypothesis
