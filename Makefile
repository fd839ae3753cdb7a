# Every target does the set-up that it needs. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup serve demo test soak check bench clean

PY := .venv/bin/python
HOST ?= 127.0.0.1
PORT ?= 8080
DATA ?= .bitlane
ARGS ?=
# Most tests wait for processes of theirs: a few more than there are cores.
WORKERS ?= 3
export PYTHON TORCH_INDEX

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name what; do printf 'make %-8s %s\n' "$$name" "$$what"; done

setup: ## make .venv (PYTHON=... picks the interpreter, TORCH_INDEX=... a CPU-only index for torch)
	@./tools/setup.sh

serve: setup ## start the service (HOST=127.0.0.1 PORT=8080 DATA=.bitlane ARGS="--lanes cpu=cpu*2")
	@exec .venv/bin/bitlane serve --host "$(HOST)" --port "$(PORT)" --data "$(DATA)" $(ARGS)

demo: setup ## two experiments at once, on two lanes, measured, stored and delivered
	@exec $(PY) examples/demo.py

test: setup ## the tests (ARGS="-k lanes" narrows them; WORKERS=1 for one after the other)
	@exec $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

soak: setup ## the long tests
	@exec $(PY) -m pytest -m soak $(ARGS)

check: setup ## the gates: ruff, mypy, import-linter
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports

bench: setup ## the benchmarks, each printing tables (BENCH=null_job runs one)
	@set -e; for program in $$(grep -l __main__ bench/$(if $(BENCH),$(BENCH),*).py); do \
	    printf '\n== %s\n' "$$program"; $(PY) "$$program"; \
	done

clean: ## remove .venv and caches; never DATA
	@rm -rf .venv node_modules dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
