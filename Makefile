# Everything starts from Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Python 3.11 has JAX 0.10.1, from 3.12 on it is the newest.
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("constraints.txt" if sys.version_info < (3, 12) else "constraints-newest.txt")')
TESTS ?= tests --ignore tests/peers
# One in EVERY cases of each test is run; PART says which.
EVERY ?= 2
PART ?= 0
# Most of the tests' time is the compiler's, so programs are compiled quickly, and once; all other targets compile as
# users do. Only JAX 0.10 has the flags.
QUICK := OPENBLAS_NUM_THREADS=1 JAX_DISABLE_MOST_OPTIMIZATIONS=1 JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.jax_cache \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
ifeq ($(CONSTRAINTS),constraints.txt)
QUICK += XLA_FLAGS="--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
endif

.PHONY: help env demo test test-newest test-all peers lint clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

env: $(READY)  ## make .venv with everything the repository uses, at the tested versions

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try: make PYTHON=python3.11 env" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[experiments,tflite,tensorly,dev]'
	@touch $(READY)

demo: env  ## the four families on digits, down to a TFLite file; about two minutes
	$(BIN)/python scripts/demo.py

test: env  ## the tests with half of their cases (EVERY=1: all), without slow ones and those against other libraries
	$(QUICK) $(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow' --every $(EVERY) --part $(PART) $(TESTS)

test-newest:  ## the same on the newest JAX, in .venv-newest; give PYTHON=python3.13 if python3 is older than 3.12
	@$(PYTHON) -c 'import sys; sys.exit("the newest JAX needs Python 3.12 or newer; try: make PYTHON=python3.13 test-newest" if sys.version_info < (3, 12) else 0)'
	$(MAKE) VENV=.venv-newest test

test-all: env  ## all tests
	$(BIN)/python -m pytest -n auto --dist loadfile

peers: env  ## parity with LiteRT, PyTorch and others (installs torch)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[peers]'
	$(BIN)/python -m pytest -n auto --dist loadfile tests/peers -m 'not slow'

lint: env  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ruff check --isolated --select F821 tests  # undefined names, which shapes of jaxtyping hide elsewhere
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:  ## remove the environment and caches; runs stay
	rm -rf .venv .venv-newest .jax_cache .pytest_cache .ruff_cache .hypothesis
