# `make demo` and `make test` are all the set-up there is: each makes .venv and installs what is missing first.
.PHONY: demo test torture lint format data wheel-test clean
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

demo: .venv/installed
	$(BIN)/ctxembed demo

test: .venv/installed-dev
	$(BIN)/pytest
	$(BIN)/pytest --doctest-modules ctxembed --import-mode=prepend -q

# Changes to an index, killed at random moments: KILLS times for each kind.
KILLS ?= 300
torture: .venv/installed-dev
	$(BIN)/python tests/learning/test_index_killed.py $(KILLS) > data/results/torture.new
	mv data/results/torture.new data/results/torture.txt
	cat data/results/torture.txt

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

data: .venv/installed
	$(BIN)/python data/make.py

# The wheel in an empty environment, outside the checkout: what a user gets.
wheel-test: .venv/installed-dev
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	.ci/try-wheel dist/*.whl

clean:
	rm -rf .venv build dist *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -q --editable .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -q --editable '.[dev]'
	touch $@ .venv/installed
