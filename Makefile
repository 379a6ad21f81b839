# `make help` lists what there is. Every target makes the environment .venv by itself when needed.
# PIP_ARGS goes to pip, for instance to say where a CPU build of torch lies.
PYTHON   ?= python3
VENV     ?= .venv
PIP_ARGS ?=
ARGS     ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test lint docs format clean

help:  ## this list
	@grep -hE '^[a-z.$$()A-Z_]+:.*## ' $(MAKEFILE_LIST) \
		| sed -E 's/^\$$\(VENV\)/.venv/; s/:[^#]*## /\t/' \
		| awk -F '\t' '{printf "  %-8s %s\n", $$1, $$2}'

run: $(VENV)  ## train and test LLM-EDT on the bundled data; further options in ARGS="--epochs=1 ..."
	$(BIN)/python run_recbole_edt.py --model=LLMEDT --dataset=cloth_sport $(ARGS)

test: $(VENV)  ## run the test suite; ARGS="-k name" chooses among it
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)  ## check style, format, types and which layer imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(VENV)  ## build the site of docs/ in site/; a broken link is an error
	$(BIN)/python -c "import mkdocs_jupyter, mkdocstrings" 2>/dev/null \
		|| $(BIN)/python -m pip install $(PIP_ARGS) --no-warn-conflicts -c constraints.txt -e ".[docs]"
	$(BIN)/python -m tools.figure
	$(BIN)/python -m tools.keys
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: $(VENV)  ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and everything built or cached, not data or results
	rm -rf $(VENV) build dist site .cache *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find recbole_edt tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV): $(STAMP)  ## the environment that all targets use (PYTHON=python3.12 chooses its Python)
	@:

# The stamp is younger than what it was made from, or the packages are installed again on top.
# RecBole comes without its dependencies: it demands a ray that does not exist for every Python.
$(STAMP): setup.cfg setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_ARGS) --no-deps -c constraints.txt recbole==1.2.1
	$(BIN)/python -m pip install $(PIP_ARGS) --no-warn-conflicts -c constraints.txt -e ".[dev]"
	touch $@
