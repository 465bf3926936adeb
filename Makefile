# Every target does all of its own set-up in .venv and can be the first command in a fresh clone. Stamps make a second
# call quick. Needs: g++ >= 12 (or clang >= 15) and python3 with venv and headers.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check
CMAKE  := $(VENV)/bin/cmake
JOBS   := 2
BUILD  := build/dev
ARGS   ?=

# cmake, ninja and the linters are those of the venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

NATIVE_SOURCES := $(shell find csrc -name '*.[ch]pp' -o -name '*.def' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name CMakeLists.txt)
CPP_FILES       = $(shell find csrc tests/cpp -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')
PY_FILES       := src tests examples benchmarks tools setup.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-cpp cusim cuda gpu lint format bench sanitize neon dev clean

help:
	@sed -n 's/^## //p' Makefile

## make demo      train a small GPT on two ranks with each codec; ARGS=--full for the long run
demo: $(VENV)/.native $(VENV)/.torch
	$(PIP) rich matplotlib
	$(PY) benchmarks/demo.py $(ARGS)

## make test      the whole suite: C++ and Python; ARGS are passed to pytest. GRADWIRE_GPU=sim: GPU tests on the CPU
test: test-cpp $(VENV)/.native $(VENV)/.test $(if $(filter sim,$(GRADWIRE_GPU)),cusim)
	$(PY) -m pytest $(ARGS)

# the CUDA kernels for the simulator
cusim: $(VENV)/.native
	$(CMAKE) -S . -B $(BUILD) -DGW_CUSIM=ON $(GRADWIRE_CMAKE_ARGS) > /dev/null
	$(CMAKE) --build $(BUILD) --target gradwire_cusim -j$(JOBS)

## make cuda      compiles the CUDA kernels with nvcc and fails if one spills registers; GRADWIRE_CUDA_ARCHS=90: one architecture
cuda: $(VENV)/.build-tools
	bash tools/check_cuda.sh

## make gpu       benchmarks/gpu_suite: on a GPU machine, with its own $(PYTHON); with GRADWIRE_GPU=sim tiny, on the CPU
gpu: $(if $(filter sim,$(GRADWIRE_GPU)),cusim)
	$(if $(filter sim,$(GRADWIRE_GPU)),$(PIP) rich && $(PY),$(PYTHON)) benchmarks/gpu_suite $(ARGS)

test-cpp: $(VENV)/.native
	bash tools/ensure_doctest.sh
	$(CMAKE) -S . -B $(BUILD) -DGW_TESTS=ON $(GRADWIRE_CMAKE_ARGS) > /dev/null
	$(CMAKE) --build $(BUILD) --target gw_tests -j$(JOBS)
	bash tools/check_isa_objects.sh $(BUILD)
	$(BUILD)/tests/cpp/gw_tests

## make lint      formatting, lints and types; changes nothing. pre-commit runs the same
lint: $(VENV)/.lint
	clang-format --dry-run -Werror $(CPP_FILES)
	ruff check $(PY_FILES)
	ruff format --check $(PY_FILES)
	mypy

## make format    put every file into the one style
format: $(VENV)/.lint
	clang-format -i $(CPP_FILES)
	ruff check --fix $(PY_FILES)
	ruff format $(PY_FILES)

## make bench     all_reduce and codec speed on this machine, Gloo beside it
bench: $(VENV)/.native $(VENV)/.torch
	$(PIP) rich matplotlib
	$(VENV)/bin/gradwire bench all_reduce --ranks 2 --vs gloo $(ARGS)
	$(VENV)/bin/gradwire bench codec

## make sanitize  the C++ tests under AddressSanitizer + UBSan, then under ThreadSanitizer
sanitize: $(VENV)/.build-tools
	bash tools/ensure_doctest.sh
	bash tools/sanitize.sh address
	bash tools/sanitize.sh thread

## make neon      the codecs built for aarch64, run under qemu: the same bytes as here
neon: $(VENV)/.build-tools
	bash tools/check_neon.sh

## make dev       an editable install; after it, a change in csrc costs one compile
dev: $(VENV)/.native

## make clean     remove what the build made (not .venv)
clean:
	rm -rf build dist src/*.egg-info src/gradwire/*.so
	rm -f $(VENV)/.native $(VENV)/.editable

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.build-tools: $(VENV)/.created tools/requirements-build.txt
	$(PIP) -r tools/requirements-build.txt
	touch $@

$(VENV)/.editable: $(VENV)/.build-tools pyproject.toml setup.py
	@echo "building the native module: one or two minutes"
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/.native: $(VENV)/.editable CMakeLists.txt $(NATIVE_SOURCES)
	$(CMAKE) --build $(BUILD) --target gradwire -j$(JOBS)
	touch $@

$(VENV)/.torch: $(VENV)/.created tools/requirements-torch.txt
	$(PIP) -r tools/requirements-torch.txt
	touch $@

$(VENV)/.test: $(VENV)/.created tools/requirements-test.txt tools/requirements-torch.txt
	$(PIP) -r tools/requirements-test.txt
	touch $@

$(VENV)/.lint: $(VENV)/.created tools/requirements-lint.txt tools/requirements-torch.txt
	$(PIP) -r tools/requirements-lint.txt
	touch $@
