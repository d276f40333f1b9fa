# Two commands do all set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
# Tests use one thread each. Some wait for servers and Ray's workers: one process more than there are cores keeps all busy.
CORES := $(shell getconf _NPROCESSORS_ONLN)
SIDE_BY_SIDE := --numprocesses
# Each test process compiles as much as it runs in a minute, unless Python may keep what it has compiled.
export PYTHONDONTWRITEBYTECODE :=
# constraints.txt pins the oldest flwr that pyproject.toml admits; this is the newest.
NEWEST_FLWR := 1.42.0

.PHONY: demo test newest-flwr check types docs links clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
# Beside a clone that is called fedkd, Python would take the clone's folder for the package, unless it finds the package on its path.
	$(BIN)/python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'fedkd-checkout.pth').write_text('$(CURDIR)\n')"
	touch $(STAMP)

demo: $(STAMP)  ## nets of two kinds teach each other, beside each alone and all data at one place: a minute of running
	rm -rf runs/demo
	$(BIN)/fedkd demo

test: $(STAMP)  ## every test but those that need a GPU
	$(MAKE) --jobs 2 types newest-flwr
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(shell expr $(CORES) + 1) -m "not gpu"

newest-flwr: $(STAMP)  ## what leans on Flower, in-process, on the newest flwr
	test -d build/flwr/flwr-$(NEWEST_FLWR).dist-info || rm -rf build/flwr
	test -d build/flwr || $(BIN)/pip install --quiet --no-deps --target build/flwr flwr==$(NEWEST_FLWR)
	PYTHONPATH=build/flwr $(BIN)/python -c "from importlib.metadata import version; assert version('flwr') == '$(NEWEST_FLWR)'"
	PYTHONPATH=build/flwr $(BIN)/python -m pytest -m "not gpu and not slow" tests/grids tests/knowledge/test_records.py \
		tests/strategies/test_fedavg.py tests/contract/test_contract.py tests/engine/test_guard.py tests/base/test_user_code.py

check: $(STAMP) types  ## before each commit: format, lint, types, import layers, fast tests
	$(BIN)/ruff format .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(CORES) -m "not gpu and not slow"

# strategies/ is mapped to fedkd.strategies, which a type checker can follow only in an installed copy.
types: $(STAMP)
	rm -rf build/typed build/lib
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/typed .
	cd build/typed && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p fedkd

docs: $(DOCS_STAMP)  ## the documentation, docs/_build/index.html; a warning is an error, links between pages are checked
	$(BIN)/sphinx-build -q --fail-on-warning --keep-going docs docs/_build
	@echo docs/_build/index.html

links: $(DOCS_STAMP)  ## asks the network whether what the docs link to is there
	$(BIN)/sphinx-build -q -b linkcheck docs docs/_build/links

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $(DOCS_STAMP)

clean:
	rm -rf build docs/_build docs/generated docs/jupyter_execute $(VENV)
