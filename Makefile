# Everything runs in $(VENV), which scripts/bootstrap.sh makes and keeps up to date; nothing needs activating.
VENV ?= .venv
PY ?=
EXTRAS ?=
ARGS ?=

comma := ,
python := $(VENV)/bin/python
bootstrap := scripts/bootstrap.sh --venv "$(VENV)" $(if $(PY),--python "$(PY)")
# A worker a core, where memory allows (tests/conftest.py); files stay whole, as they share fixtures that take long.
parallel := -n auto --dist loadscope --no-loadscope-reorder
dev_extras := dev$(if $(EXTRAS),$(comma)$(EXTRAS))

.DEFAULT_GOAL := help
.PHONY: help install dev quickstart rewriter test test-slow test-all test-peers gpu-check lint format docs clean

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  EXTRAS=cuda12 (or cuda13, tpu) installs JAX for that device: make quickstart EXTRAS=cuda12"
	@echo "  PY=3.12 asks for a Python version (default: the newest here); VENV=dir for another environment (.venv)"
	@echo "  ARGS='-k sample -x' goes to pytest: make test ARGS='-n 0 -k sample'"

install: ## Install jslm in .venv
	@$(bootstrap) --extras "$(EXTRAS)"

dev: ## Install jslm and the tools of its developers in .venv
	@$(bootstrap) --extras "$(dev_extras)"

quickstart: install ## Train a small model on this machine and let it write
	@$(python) -m jslm.train --config configs/quickstart.toml
	@$(python) -m jslm.sample --run runs/quickstart --num-samples 3
	@echo "The run's report: runs/quickstart/report.html"

rewriter: ## Train and measure the sentence rewriter, within an hour on 2 cores (ARGS='--parsed FILE --text FILE')
	@$(bootstrap) --extras "$(if $(filter --parsed --text,$(ARGS)),eval$(comma)rewrite,eval)"
	@$(python) scripts/rewriter.py --out runs/rewriter $(ARGS)

test: dev ## Run the tests, without the long drills
	@$(python) -m pytest -q $(parallel) -m "not slow" $(ARGS)

test-slow: dev ## Run the long drills: kills, several processes, sweeps, limits of memory
	@$(python) -m pytest -q $(parallel) -m "slow and not peer" $(ARGS)

test-all: ## Run the tests on each of Python 3.11, 3.12 and 3.13 that is here
	@ran=; for version in 3.11 3.12 3.13; do \
	    if scripts/bootstrap.sh --python $$version --which >/dev/null 2>&1; then \
	        echo "== Python $$version"; ran=1; \
	        $(MAKE) --no-print-directory test PY=$$version VENV=.venv-$$version || exit 1; \
	    else echo "== Python $$version is not on this machine"; fi; \
	done; test -n "$$ran"

test-peers: ## Compare with transformers and others, in an environment of its own (EXTRAS=llamacpp: llama.cpp too)
	@if scripts/bootstrap.sh --python 3.11 --which >/dev/null 2>&1; then \
	    scripts/bootstrap.sh --python 3.11 --venv .venv-peers --extras "dev,peer$(if $(EXTRAS),$(comma)$(EXTRAS))" && \
	    .venv-peers/bin/python -m pytest -q -m peer $(parallel) tests/peer tests/serve $(ARGS); \
	else echo "test-peers: skipped: the other programs are compared with on Python 3.11, and there is none here"; fi

gpu-check: ## Tests and table of a GPU, by the python3 that has jslm's libraries (PY=...): nothing is installed
	@$(or $(PY),python3) scripts/gpu_check.py --write docs/benchmarks.md $(ARGS)

lint: dev ## Check style and types: ruff, mypy
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy

format: dev ## Rewrite the code in the project's style
	@$(python) -m ruff check --fix .
	@$(python) -m ruff format .

docs: install ## Regenerate docs/config.md from the configuration's schema
	@$(python) -m jslm.config --write docs/config.md

clean: ## Delete caches and build products (environments, runs and data stay)
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find jslm tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
