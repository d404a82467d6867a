# `make test` and `make demo` do all the set-up on a fresh machine: a virtual environment, the pinned packages, the install.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help demo test lint constraints clean

help:
	@echo "make demo   train a small FLAIR on drawn scenes and show what it learned (demo/report.html)"
	@echo "make test   lint, type check and the whole test suite"
	@echo "make clean  remove the virtual environment and what demo made"

# Huge pages for what XLA allocates anew each step: a quarter less time on Linux, no effect elsewhere.
demo: $(VENV)/demo.stamp
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/flair-jax demo --output demo

test: lint $(VENV)-beam/test.stamp
	$(BIN)/python -m pytest -n auto
	$(VENV)-beam/bin/python -m pytest -m beam tests/data/test_recaptioned_builder.py

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck launch/*.sh

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e ".[demo]"
	touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e ".[convert,demo,test]"
	touch $@

# Apache Beam wants older releases of what all else shares with it, so it has an environment of its own.
$(VENV)-beam/test.stamp: pyproject.toml constraints-beam.txt
	$(PYTHON) -m venv $(VENV)-beam
	$(VENV)-beam/bin/pip install --quiet --upgrade pip
	$(VENV)-beam/bin/pip install --quiet -c constraints-beam.txt -e ".[beam,test]"
	touch $@

# Pins the newest releases that pyproject.toml allows; run it to move on, then `make test`.
constraints:
	$(PYTHON) -m venv --clear $(VENV)-pin
	$(VENV)-pin/bin/pip install --quiet "torch==$$(sed -n 's/^torch==//p' constraints.txt)" -e ".[convert,demo,test]"
	$(VENV)-pin/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-pin
	$(VENV)-pin/bin/pip install --quiet -e ".[beam,test]"
	$(VENV)-pin/bin/pip freeze --exclude-editable > constraints-beam.txt
	rm -rf $(VENV)-pin

clean:
	rm -rf $(VENV) $(VENV)-beam demo
