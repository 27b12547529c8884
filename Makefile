# Everything a newcomer types. Each target installs what it needs into .venv, with the versions of constraints.txt.
#
#   make demo    train a binary network on scanned digits, inspect it, write runs/demo/report.html
#   make test    run every test
#   make lint    ruff, mypy and a list of words to avoid
#   make docs    the pages and the API, into docs/_build/html
#   make gallery docs, and the reports of the networks that come with HyperSign; minutes
#   make clean   remove .venv and everything built
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := CMakeLists.txt $(wildcard csrc/* csrc/*/* csrc/*/*/*)

.PHONY: demo test lint docs gallery clean

demo: $(VENV)/.installed
	$(BIN)/hypersign demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python .ci/language.py

docs: $(VENV)/.installed-dev
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

gallery: docs
	$(BIN)/python docs/make_gallery.py docs/_build/html/gallery

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "HyperSign needs Python 3.11 or newer; this is %d.%d. Name another with: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt $(KERNELS) | $(VENV)/bin/python
	@echo "Installing into $(VENV): PyTorch and what goes with it, a few minutes, once."
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[all]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(KERNELS) | $(VENV)/bin/python
	@echo "Installing into $(VENV): PyTorch, the tests' and the docs' packages, a few minutes, once."
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
