# Two commands matter: `make study` and `make test`. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results
OLDEST_TORCH ?= 2.10.0
OLDEST := .venv-oldest/bin
FUZZ ?= 100000
# Kernels whose sources, flags and compiler have not changed are not compiled again.
export STRAIGHTTHROUGH_KERNEL_CACHE ?= $(CURDIR)/build/kernels
# pip compiles every file that it installs, for more than a minute; Python does so with what it imports.
export PIP_NO_COMPILE ?= 1
SDIST := build/sdist
KERNELS := hatch_build.py $(shell find src -name '*.cpp' -o -name '*.h')

.PHONY: study test test-oldest test-triton test-device sanitize fuzz bench lint types tests doctests docs wheel format clean

study: .venv/studies
	$(BIN)/straightthrough study vae --output $(RESULTS)/vae

# Together, as types and doctests keep one processor busy each and the tests leave some of their last.
test: lint
	$(MAKE) --jobs 3 types doctests tests

# The short form of the suite and the tests of the kernels, built and run with the oldest torch.
test-oldest: .venv-oldest/dev
	$(OLDEST)/python -c 'from straightthrough.core import kernels; assert kernels.level, kernels.reason'
	$(OLDEST)/python -m pytest $$($(OLDEST)/python tests/short.py) tests/core/kernels

# The kernels for GPUs, on CPU tensors by Triton's interpreter; `make test` has a short form of it.
test-triton: .venv/dev
	STRAIGHTTHROUGH_KERNELS=interpreter TRITON_INTERPRET=1 OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -n logical --maxprocesses 8 $$($(BIN)/python tests/interpreted.py)

# Every operator on a device that is not the CPU, on which references serve.
test-device: build/device/device.so
	STRAIGHTTHROUGH_DEVICE=$(CURDIR)/$< OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -n logical --maxprocesses 8 tests/device

FLAGS_OF_TORCH = $(shell $(BIN)/python -c 'import sysconfig as s; from torch.utils import cpp_extension as c; \
  print(*["-isystem" + p for p in (*c.include_paths(), s.get_path("include"))], \
        *["-L" + p + " -Wl,-rpath," + p for p in c.library_paths()])')
build/device/device.so: tests/device/device.cpp .venv/dev
	mkdir -p $(@D)
	$(or $(CXX),g++) -shared -fPIC -std=c++20 -DTORCH_EXTENSION_NAME=device $< -o $@ $(FLAGS_OF_TORCH) \
	  -ltorch -ltorch_cpu -lc10 -ltorch_python

# The tests of the kernels, built with the sanitizers of addresses and of undefined behaviour. Python
# is linked to no libstdc++, in which the first of them looks for what throws before all else.
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1
RUNTIME = $(shell $(or $(CXX),g++) -print-file-name=$(1))
sanitize: build/sanitized
	PYTHONPATH=$< LD_PRELOAD="$(call RUNTIME,libasan.so) $(call RUNTIME,libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest --capture=sys tests/core/kernels

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

# A process a processor; none of them has more than one thread.
tests: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadgroup tests

doctests: .venv/dev
	$(BIN)/python -m sphinx -b doctest -q -W docs docs/_build/doctest

# FUZZ=n for as many cases; it goes on where it was stopped. CASE=n repeats one.
fuzz: .venv/dev
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $(if $(CASE),--case $(CASE),--cases $(FUZZ))

# ARGS="--targets", ARGS="--quick --operators sign": benchmarks/README.md says what there is.
bench: .venv/dev
	$(BIN)/python -m benchmarks $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m benchmarks.gpu --measured)

docs: .venv/dev
	$(BIN)/python -m sphinx -b html -W docs docs/_build/html

# One for this platform, with the kernels of every level: it wants no compiler and no torch to be
# installed, serves every Python and every torch from 2.10, and machines of this glibc or a newer.
wheel: $(SDIST)
	rm -rf dist
	STRAIGHTTHROUGH_REQUIRE_KERNELS=1 $(BIN)/pip wheel --quiet --no-deps --no-build-isolation \
	  --wheel-dir dist $(SDIST)/*
	@ls dist/*

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch comes first: its headers are what the CPU kernels are built against.
.venv/pip: constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	touch $@

# An editable install, once an extra.
.venv/studies: .venv/pip pyproject.toml $(KERNELS)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[studies]'
	touch $@

.venv/dev: .venv/pip pyproject.toml $(KERNELS)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/studies

# Installs that are not editable are made of the source distribution: a build there leaves the
# libraries beside these sources as they are.
$(SDIST): .venv/dev $(shell find src -name '*.py')
	rm -rf $@
	$(BIN)/python -m hatchling build -t sdist -d $@
	touch $@

.venv-oldest/dev: $(SDIST)
	$(PYTHON) -m venv .venv-oldest
	grep -v '^torch==\|^triton==' constraints.txt > .venv-oldest/constraints.txt
	echo torch==$(OLDEST_TORCH) >> .venv-oldest/constraints.txt
	$(OLDEST)/pip install --quiet --constraint .venv-oldest/constraints.txt torch
	$(OLDEST)/pip uninstall --quiet --yes straightthrough
	$(OLDEST)/pip install --quiet --constraint .venv-oldest/constraints.txt "$$(echo $(SDIST)/*)[dev]"
	touch $@

build/sanitized: $(SDIST)
	rm -rf $@
	STRAIGHTTHROUGH_CXXFLAGS="$(SANITIZERS)" $(BIN)/pip install --quiet --no-deps \
	  --no-build-isolation --target $@ $(SDIST)/*
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist docs/_build docs/_generated .mypy_cache .pytest_cache .ruff_cache
