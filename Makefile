# Anabranch: what one does with a checkout. `make` or `make help` lists it.

EXTRA ?= cpu
PYTHON ?= python3
OUT ?= runs/demo
NAME ?=
WORKERS ?= 2
MINUTES ?= 30
ARGS ?=
export PYTHON TORCH_INDEX_URL

BIN := .venv/bin
# Tests neither ask a hub nor report to anybody.
QUIET := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0 DO_NOT_TRACK=1
PYTEST := $(QUIET) $(BIN)/python -m pytest -q --durations=5 $(ARGS)

# What starts neither Ray nor an engine runs beside each other, file by file.
BESIDE := -n $(WORKERS) --dist loadfile

# $(call part,NAME,MARKER EXPRESSION,OPTIONS): one part of the suite with its time; one without tests is no failure.
define part
	@echo "== $(1)"; start=$$(date +%s); code=0; \
	$(PYTEST) $(3) -m "$(2)" || code=$$?; \
	echo "== $(1): $$(( $$(date +%s) - start )) s"; \
	test $$code -eq 0 -o $$code -eq 5
endef

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types quick slow broker store page ray vllm chaos bench site clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo
	@echo "EXTRA=cpu|gpu chooses the environment, PYTHON the interpreter, ARGS goes to pytest, the demo or the benchmark;"
	@echo "WORKERS (2) is how many processes test beside each other."

venv: ## set up .venv from requirements/EXTRA.lock; does nothing if nothing has changed
	@scripts/setup.sh $(EXTRA)

demo: venv ## learn the example stream and serve it; the report goes to OUT (runs/demo); ARGS=--keep serves on
	$(BIN)/anabranch demo --out $(OUT) $(ARGS)

test: ## everything: lint, types, then the tests from quick to vllm
	@start=$$(date +%s); \
	$(MAKE) --no-print-directory lint types quick slow broker store page ray vllm && \
	echo "== all: $$(( $$(date +%s) - start )) s"

lint: venv ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: venv ## mypy --strict over all packages
	@$(BIN)/mypy

quick: venv ## tests that start nothing: no Ray, no engine, no broker, no S3 server, no browser
	$(call part,quick,not (slow or broker or store or page or ray or vllm),$(BESIDE))

slow: venv ## longer tests that start nothing
	$(call part,slow,slow and not (broker or store or page or ray or vllm),$(BESIDE))

broker: venv ## tests against a Kafka-protocol broker
	$(call part,broker,broker and not (store or page or ray or vllm),$(BESIDE))

store: venv ## tests against an S3 server
	$(call part,store,store and not (page or ray or vllm),$(BESIDE))

page: venv ## the page in a browser; skipped where there is neither Chromium nor leave to install it
	@scripts/chromium.sh
	$(call part,page,page)

ray: venv ## tests on a local Ray
	$(call part,ray,ray and not (page or vllm))

vllm: venv ## tests with the engine
	$(call part,vllm,vllm and not page)

chaos: venv ## three nodes attacked under load for MINUTES (30); what was seen goes to benchmarks/results/chaos
	@mkdir -p benchmarks/results/chaos
	ANABRANCH_CHAOS_MINUTES=$(MINUTES) ANABRANCH_CHAOS_RESULT=$(CURDIR)/benchmarks/results/chaos/chaos.json \
	$(PYTEST) tests/faults/test_chaos.py

bench: venv ## one benchmark: make bench NAME=...
	$(BIN)/anabranch bench $(NAME) $(ARGS)

site: venv ## the documents as a site, in build/site
	$(BIN)/python -m mkdocs build --strict --quiet

clean: ## remove caches and builds; .venv and runs/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
