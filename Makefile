# make demo   train DiffusionMTL on rendered scenes, evaluate it, write pictures and a report
# make test   check the format and the types, then run the test suite
# make docs   the documentation as pages, docs/_build/html/index.html
# They make a .venv and install what they need; PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test docs clean

demo: .venv/installed
	$(BIN)/python main.py --config=configs/scenes.py:method=prediction,labels=one --workdir=runs/demo

test: .venv/installed-dev
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python --output-format=min-text --summary=none
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

docs: .venv/installed-docs
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed pyproject.toml
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv/installed-docs: .venv/installed pyproject.toml
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv runs docs/_build
