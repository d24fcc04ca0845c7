# Each target needs only Python >= 3.11 and make; `make setup` builds .venv once and again when a pyproject changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROJECTS := $(wildcard pyproject.toml core/pyproject.toml *_plugin/pyproject.toml plugins/segmentation/pyproject.toml plugins/example/pyproject.toml)
PACKAGES := $(patsubst %/pyproject.toml,%,$(filter-out pyproject.toml,$(PROJECTS)))
ifneq ($(wildcard ../shared/data),)
export GRAFTWORK_DATA ?= $(abspath ../shared/data)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-torchtext check docs bench clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.ready  ## Make .venv and install every package into it, editable

$(VENV)/.ready: constraints.txt $(PROJECTS)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "graftwork needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev,docs]" $(addprefix -e ./,$(PACKAGES))
	@touch $@

demo: setup  ## Train, measure and use a classifier of handwritten digits (about a minute)
	$(BIN)/python docs/demo.py

test: setup  ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile=ci

test-all: setup  ## Run those tests too that repeat others at full size, and kill more processes (half an hour)
	GRAFTWORK_KILLS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m ""

test-torchtext: .venv-torchtext/.ready  ## Run the core's and text's tests with torch 2.3 and torchtext 0.18
	OMP_NUM_THREADS=1 .venv-torchtext/bin/python -m pytest -n 2 --dist worksteal core/tests text_plugin/tests

.venv-torchtext/.ready: $(VENV)/.ready text_plugin/pyproject.toml
	test -x .venv-torchtext/bin/python || $(PYTHON) -m venv .venv-torchtext
	$(BIN)/uv pip install --quiet --python .venv-torchtext/bin/python -e ".[dev]" $(addprefix -e ./,$(filter-out text_plugin,$(PACKAGES))) -e "./text_plugin[torchtext]" "transformers<4.49"
	@touch $@

check: setup  ## Run ruff, mypy (strict) and the layer test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(foreach p,$(PACKAGES),-p $(notdir $(wildcard $(p)/src/*[!o])))
	$(BIN)/python -m pytest -q tests/test_layers.py

docs: setup  ## Build the documentation into site/; warnings and broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup  ## Run all benchmarks (many minutes); one: .venv/bin/python -m bench CASE
	$(BIN)/python -m bench all

clean:  ## Remove .venv, caches and demo output
	rm -rf $(VENV) demo_run site .pytest_cache .mypy_cache .ruff_cache .hypothesis
