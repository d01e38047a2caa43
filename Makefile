# make demo     see the whole story on a real small model
# make test     the whole test suite, offline once installed
# make faults   deliberate faults, one at a time: does the suite catch them? (a quarter of an hour)
# make docs     the site in build/site, with an API reference; fetches mkdocs-material and mkdocstrings (120 MB) once
# make install  .venv with the package, its command line and all the tests need

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test faults lint docs bench clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -c 'from aftertune.model import embedded_folder; embedded_folder()' || \
		echo "the embedded subject could not be fetched now; demo will try again, tests on it will be skipped" >&2
	@touch $(STAMP)

demo: install
	$(BIN)/aftertune demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

faults: install
	$(BIN)/python tests/mutants/run.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
