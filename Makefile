# `make test` and `make demo` do all the set-up on a fresh machine: a virtual environment, the pinned packages, the install.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# What the tests need, but for what has an environment of its own.
EXTRAS = convert,demo,docs,export,faiss,html,masks,notebook,onnx,tokenizers,towers,tpu,test

.PHONY: help demo test lint docs browser constraints clean

help:
	@echo "make demo   show what a small FLAIR has learned on drawn scenes (demo/report.html)"
	@echo "make test   lint, type check and the whole test suite"
	@echo "make docs   these pages and the API reference as a site (site/index.html)"
	@echo "make clean  remove the virtual environment and what demo made"

# Huge pages for what XLA allocates anew each step: a quarter less time on Linux, no effect elsewhere.
demo: $(VENV)/demo.stamp
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/flair-jax demo --output demo

test: lint docs $(VENV)-beam/test.stamp $(VENV)-app/test.stamp $(VENV)-bucket/test.stamp
	$(BIN)/python -m pytest -n auto
	$(BIN)/python -m pytest -m wheel tests/test_wheel.py
	$(VENV)-beam/bin/python -m pytest -m beam tests/data/test_recaptioned_builder.py
	$(VENV)-bucket/bin/python -m pytest -m bucket -n auto --dist worksteal tests/bucket
	@$(MAKE) --no-print-directory browser
	$(VENV)-app/bin/python -m pytest -m browser tests/show tests/pages

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples/*.py
	$(BIN)/lint-imports
	$(BIN)/shellcheck launch/*.sh

# Strict, so a broken link or a docstring that does not fit its function is an error; with --quiet it would not be. The
# variable turns off an advertisement.
docs: $(VENV)/test.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# setuptools warns of each editable installation, in ten lines.
%.stamp: export PYTHONWARNINGS = ignore:Editable installation

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e ".[demo]"
	touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

# Apache Beam wants older releases of what all else shares with it, so it has an environment of its own.
$(VENV)-beam/test.stamp: pyproject.toml constraints-beam.txt
	$(PYTHON) -m venv $(VENV)-beam
	$(VENV)-beam/bin/pip install --quiet --upgrade pip
	$(VENV)-beam/bin/pip install --quiet -c constraints-beam.txt -e ".[beam,test]"
	touch $@

# S3's clients want an older python-dateutil, so buckets have an environment of their own.
$(VENV)-bucket/test.stamp: pyproject.toml constraints-bucket.txt
	$(PYTHON) -m venv $(VENV)-bucket
	$(VENV)-bucket/bin/pip install --quiet --upgrade pip
	$(VENV)-bucket/bin/pip install --quiet -c constraints-bucket.txt -e ".[bucket,export,gcs,s3,test]"
	touch $@

# Gradio wants an older Pillow, so the web page has an environment of its own.
$(VENV)-app/test.stamp: pyproject.toml constraints-app.txt
	$(PYTHON) -m venv $(VENV)-app
	$(VENV)-app/bin/pip install --quiet --upgrade pip
	$(VENV)-app/bin/pip install --quiet -c constraints-app.txt -e ".[app,browser,test]"
	touch $@

# The browser that tests the page; installed where that can be done without asking.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; \
	else echo "the tests of the web page need chromium and chromedriver; install them first"; exit 1; fi

# Pins the newest releases that pyproject.toml allows; run it to move on, then `make test`.
constraints:
	$(PYTHON) -m venv --clear $(VENV)-pin
	$(VENV)-pin/bin/pip install --quiet "torch==$$(sed -n 's/^torch==//p' constraints.txt)" -e ".[$(EXTRAS)]"
	$(VENV)-pin/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-pin
	$(VENV)-pin/bin/pip install --quiet -e ".[beam,test]"
	$(VENV)-pin/bin/pip freeze --exclude-editable > constraints-beam.txt
	$(PYTHON) -m venv --clear $(VENV)-pin
	$(VENV)-pin/bin/pip install --quiet -e ".[app,browser,test]"
	$(VENV)-pin/bin/pip freeze --exclude-editable > constraints-app.txt
	$(PYTHON) -m venv --clear $(VENV)-pin
	$(VENV)-pin/bin/pip install --quiet -e ".[bucket,export,gcs,s3,test]"
	$(VENV)-pin/bin/pip freeze --exclude-editable > constraints-bucket.txt
	rm -rf $(VENV)-pin

clean:
	rm -rf $(VENV) $(VENV)-app $(VENV)-beam $(VENV)-bucket demo site
