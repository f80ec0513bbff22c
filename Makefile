# `make demo` and `make test` need Python (3.11 to 3.13) and nothing else.
PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt

.PHONY: demo test lint bench docs notebooks clean

demo: $(VENV)/ready
	$(BIN)/python -m examples.train_gpt $(ARGS)

test: $(VENV)/ready-test
	$(BIN)/python -m pytest -n 2 --nbmake $(ARGS)

lint: $(VENV)/ready-lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

# A few minutes. The rows of a TPU need its compiler, libtpu, in $(VENV).
bench: $(VENV)/ready
	$(BIN)/python -m benchmarks.step
	if $(BIN)/python -c 'import libtpu' 2> /dev/null; then \
	  $(BIN)/python -m benchmarks.scale --meshes v5e:2x4/fsdp --output runs/scale.json; \
	else echo 'No TPU compiler: $(BIN)/pip install -c constraints.txt libtpu'; fi

docs: $(VENV)/ready-test
	$(BIN)/python -m sphinx -W --keep-going -b html docs runs/docs

# Runs the notebooks at their full size, and writes them with what they printed.
notebooks: $(VENV)/ready-test
	$(BIN)/jupytext --quiet --to ipynb --update $(filter-out %/conftest.py, \
	  $(wildcard notebooks/*.py))
	$(BIN)/python -m pytest --nbmake --overwrite notebooks

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .ruff_cache .hypothesis

# The set-up happens once, and again when the requirements change.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "optax_ortho needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): a few minutes, once."
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation --editable '.[train]'
	touch $@

# The tests build the site and run the notebooks too.
$(VENV)/ready-test: $(VENV)/ready
	$(INSTALL) --no-build-isolation --editable '.[test,notebooks,docs]'
	touch $@

$(VENV)/ready-lint: $(VENV)/ready
	$(INSTALL) --no-build-isolation --editable '.[lint]'
	touch $@
