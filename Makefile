# Every target sets up what it needs; see tools/setup_env.py for what that means.
#
#   PYTHON=python3.12     interpreter for .venv (default: the first of the list below that is >= 3.11)
#   FORCE=1               set up again, although nothing changed
#   ARGS="-k blocks -x"   more arguments for demo, test, notebooks, check, test-slow, bench and mutants
#   TORCH_SPEC, TORCH_INDEX   another torch release or wheel index (environment)

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
SETUP = "$(PYTHON)" tools/setup_env.py $(if $(FORCE),--force)
# Nothing where it is there already, and no failure where there is no C compiler; a minute after a source has changed.
COMPILE = @$(BIN)/python tools/compile_core.py --or-interpreted
FAST := not slow and not rdma_vm
BOTH := tests/regression tests/protocol $(addprefix tests/sim/test_,clock.py properties.py simpy.py)
CODE := bufferlab tests tools

.DEFAULT_GOAL := help
.PHONY: help demo setup setup-dev python venv-dev docs notebooks test lint types check test-slow test-rdma bench compiled mutants format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## set up, then measure this host, predict a mixed workload on it, and measure that
	@$(BIN)/bufferlab demo $(ARGS)

setup: python ## create .venv with the simulator, compiled where it can be, and, where it can, the real backend
	@$(SETUP) run
	$(COMPILE)

setup-dev: venv-dev ## the same with everything that tests, notebooks and clusters need
	$(COMPILE)

venv-dev: python
	@$(SETUP) dev

python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "bufferlab needs Python 3.11 or newer, but '$(PYTHON)' is not: install one, or run make PYTHON=/path/to/python3" >&2; exit 1; }

# What runs over Mooncake has several processes a test and limits in time. It waits most of its time, so two at a time are
# not too many, if the tests of a file, which may share ports and namespaces, stay together.
# Users run compiled cores, so the tests do. The same sources interpreted must do the same: the regression set and the tests of
# the cores and of the clock run again, and with them those that replace what is compiled.
test: lint types ## lint, type check and the whole fast test suite
	$(COMPILE)
ifeq ($(ARGS),)
	$(BIN)/pytest -n 2 -m "$(FAST) and not real and not hosts"
	$(BIN)/pytest -n 2 --dist loadfile -m "$(FAST) and (real or hosts)"
	BUFFERLAB_COMPILED=0 $(BIN)/pytest -n 2 $(BOTH)
	BUFFERLAB_COMPILED=0 $(BIN)/pytest -n 2 -m "$(FAST) and interpreted" $(addprefix --ignore=,$(BOTH))
else
	$(BIN)/pytest $(ARGS)
endif

docs: venv-dev ## build the documentation as a site that needs no network: build/docs/index.html
	$(BIN)/python tools/docs_site.py

lint: venv-dev ## ruff and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo

types: venv-dev ## mypy, strict on bufferlab/protocol/
	$(BIN)/mypy

notebooks: setup-dev ## open JupyterLab on the notebooks; ARGS are its arguments
	$(BIN)/jupyter lab $(ARGS) notebooks

check: setup-dev ## explore the protocol's interleavings: the standard bound
	$(BIN)/bufferlab check $(ARGS)

test-slow: setup-dev ## only the tests marked slow
	$(BIN)/pytest -m slow $(ARGS)

test-rdma: setup-dev ## the real backend over software RDMA in a small virtual machine; minutes, fetches 90 MB once
	$(BIN)/pytest -m rdma_vm -s tests/real/test_rdma.py $(ARGS)

bench: setup-dev ## time the simulator beside a bare SimPy loop, how its cost grows, and the benchmarks in the test tree
	$(BIN)/python tools/bench.py $(ARGS)
	$(BIN)/python tools/bench_user.py $(ARGS)
	$(BIN)/python tools/growth.py $(filter --quick,$(ARGS))
	$(BIN)/pytest -m "" --benchmark-enable --benchmark-only

compiled: venv-dev ## compile the cores, if a source of theirs has changed; setup does it too, where it can
	$(BIN)/python tools/compile_core.py $(ARGS)

mutants: setup-dev ## break bufferlab/protocol/ in small ways and see which tests notice
	$(BIN)/python tools/mutants.py $(ARGS)

format: venv-dev ## rewrite the code as ruff wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove .venv and every cache; runs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .benchmarks .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
