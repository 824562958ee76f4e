# Every target does its own set-up: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Threads that wait without spinning: on a shared machine spinning ones are several times slower.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench compare clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.demo  ## upscale real photographs into demo/, with a side-by-side sheet
	$(BIN)/python examples/demo.py demo

test: $(VENV)/.dev  ## run the tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2

check: $(VENV)/.dev  ## run the linters and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## measure cost and memory (benchmarks/README.md)
	$(BIN)/unistep bench compact-distilled SRVGGNetCompact-32 RRDBNet-23 --threads 1 --repeat 5
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/training.py

compare: $(VENV)/.dev  ## train and compare the methods: DATA=photos OUT=folder [TEACHER= BUDGET= ARGS=]
	$(if $(and $(DATA),$(OUT)),,$(error make compare needs DATA=folder and OUT=folder (examples/compare/README.md)))
	$(BIN)/python examples/compare/compare.py --data "$(DATA)" --teacher "$(or $(TEACHER),compact-teacher)" \
		--out "$(OUT)" --budget $(or $(BUDGET),3600) $(ARGS)

clean:  ## remove .venv, demo/ and caches
	rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Unistep needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
