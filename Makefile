# Every target installs what it needs into .venv first; a second call installs nothing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    := $(VENV)/.installed-run
DEV    := $(VENV)/.installed-dev
BENCH  := $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.PHONY: help install dev demo test lint check format bench clean
.DELETE_ON_ERROR:

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

install: $(RUN) ## Install wsiseg into .venv
dev: $(DEV) ## Install wsiseg and its tools for tests and checks into .venv

demo: $(RUN) ## Segment a slide: make demo [SLIDE=path] [ARGS="--slide-mpp 0.5"]
	@$(BIN)/python scripts/demo.py --slide "$${SLIDE:-}" -- $(ARGS)

test: $(DEV) ## Run every test: make test [ARGS="-k polygons"]
	@$(BIN)/pytest $(ARGS)

lint: $(DEV) ## Lint, formatting, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## Everything CI runs: lint, then every test
	@$(MAKE) --no-print-directory test

format: $(DEV) ## Put the code into its one format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(BENCH) ## Time wsiseg against a careful script: make bench [ARGS="--side 30000 --rounds 5"]
	@$(BIN)/python scripts/bench.py $(or $(ARGS),--quick)

clean: ## Remove .venv, caches and what the demo wrote
	rm -rf $(VENV) .demo demo-output dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# SLIDE reaches the recipe by the environment, so that blanks and brackets in a path survive.
export SLIDE

$(RUN): pyproject.toml
	$(call venv-with,.)
	@touch $@

$(DEV): pyproject.toml
	$(call venv-with,.[dev])
	@touch $(RUN) $@

$(BENCH): pyproject.toml
	$(call venv-with,.[bench])
	@touch $(RUN) $@

define venv-with
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wsiseg needs Python 3.11 or newer, this is %s: make PYTHON=python3.12 ..." % sys.version.split()[0] or 0)'
@$(PYTHON) -m venv $(VENV)
@echo "Installing into $(VENV) (the first time this fetches PyTorch: some minutes)"
@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '$(1)'
endef
