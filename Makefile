# Two commands matter: `make study` and `make test`. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results
FUZZ ?= 100000
KERNELS := hatch_build.py $(wildcard src/straightthrough/core/*.h src/straightthrough/ops/*/cpu*.cpp)

.PHONY: study test lint types tests doctests fuzz docs format clean

study: .venv/studies
	$(BIN)/straightthrough study vae --output $(RESULTS)/vae

test: lint types tests doctests

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

tests: .venv/dev
	$(BIN)/python -m pytest tests

doctests: .venv/dev
	$(BIN)/python -m sphinx -b doctest -q -W docs docs/_build/doctest

# FUZZ=n for as many cases; it goes on where it was stopped. CASE=n repeats one.
fuzz: .venv/dev
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $(if $(CASE),--case $(CASE),--cases $(FUZZ))

docs: .venv/dev
	$(BIN)/python -m sphinx -b html -W docs docs/_build/html

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

clean:
	rm -rf .venv build dist docs/_build docs/_generated .mypy_cache .pytest_cache .ruff_cache
