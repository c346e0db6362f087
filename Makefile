# Two commands are the whole set-up: `make run` (an answer) and `make test` (the test suite).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRITON_VENV := .venv-triton
# The CPU build: a plain `torch` would pull gigabytes of CUDA packages into a test environment.
TORCH := torch==2.13.0
CODE := daemon backends tui tests bench

.PHONY: run test check format lint types contracts fast slow deb lock test-boot test-triton clean

run: $(VENV)/.run
	@packaging/first-answer $(BIN) $(if $(ONCE),--once)

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: lint types contracts fast

format: $(VENV)/.dev
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

fast: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" -q

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# --- the package -----------------------------------------------------------------------------

# dist/hearthd_VERSION_amd64.deb; VERSION=... names another.
deb: $(BIN)/python
	@packaging/build-deb $(BIN)/python $(VERSION)

# The versions that the package carries, with their hashes.
lock: $(BIN)/python
	@packaging/lock $(BIN)/python

# Boots a real systemd in a container and lives through the life of the package there; needs root.
test-boot: $(VENV)/.dev deb
	$(BIN)/python -m pytest -m boot tests/appliance -q -s

# Kernels in Triton's interpreter and compiled for GPUs that are not here, with the versions that can do that:
# the processor's build of torch brings no Triton, and the interpreter does not take NumPy 2.4.
test-triton: $(TRITON_VENV)/.done
	TRITON_INTERPRET=1 $(TRITON_VENV)/bin/python -m pytest -m triton tests/kernels/test_triton_kernels.py
	$(TRITON_VENV)/bin/python -m pytest -m triton tests/kernels/test_triton_compile.py

# --- environments ----------------------------------------------------------------------------

$(BIN)/python:
	@packaging/make-venv $(PYTHON) $(VENV)

$(VENV)/.gguf: $(BIN)/python packaging/install-llama-cpp pyproject.toml
	@packaging/install-llama-cpp $(BIN)/python
	@touch $@

$(VENV)/.run: $(VENV)/.gguf pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[gguf]'
	@touch $@

$(VENV)/.dev: $(VENV)/.gguf pyproject.toml
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[gguf,onnx,dev]'
	@touch $@ $(VENV)/.run

$(TRITON_VENV)/.done: pyproject.toml
	@packaging/make-venv $(PYTHON) $(TRITON_VENV)
	$(TRITON_VENV)/bin/python -m pip install --quiet '$(TORCH)' 'triton==3.6.0' 'numpy<2.4'
	$(TRITON_VENV)/bin/python -m pip install --quiet --editable . blockbuster hypothesis pytest pytest-asyncio pytest-timeout
	@touch $@

clean:
	rm -rf $(VENV) $(TRITON_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
