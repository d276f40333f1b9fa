# Two commands do all set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests use one thread each, but for those marked "alone", which start clusters and servers.
SIDE_BY_SIDE := --numprocesses auto
# constraints.txt pins the oldest flwr that pyproject.toml admits; this is the newest.
NEWEST_FLWR := 1.42.0

.PHONY: demo test newest-flwr check types clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
# Beside a clone that is called fedkd, Python would take the clone's folder for the package, unless it finds the package on its path.
	$(BIN)/python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'fedkd-checkout.pth').write_text('$(CURDIR)\n')"
	touch $(STAMP)

demo: $(STAMP)  ## FedX against FedSimCLR on digits, in under two minutes of running
	rm -rf runs/demo
	$(BIN)/fedkd run simulations/demo_fedsimclr.toml --out runs/demo/fedsimclr
	$(BIN)/fedkd run simulations/demo_fedx.toml --out runs/demo/fedx
	$(BIN)/fedkd plot runs/demo/fedx runs/demo/fedsimclr --out runs/demo/convergence.png

test: $(STAMP) types newest-flwr  ## every test but those that need a GPU
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not gpu and not alone"
	$(BIN)/python -m pytest -m "alone and not gpu"

newest-flwr: $(STAMP)  ## what leans on Flower, in-process, on the newest flwr
	rm -rf build/flwr
	$(BIN)/pip install --quiet --no-deps --target build/flwr flwr==$(NEWEST_FLWR)
	PYTHONPATH=build/flwr $(BIN)/python -c "from importlib.metadata import version; assert version('flwr') == '$(NEWEST_FLWR)'"
	PYTHONPATH=build/flwr $(BIN)/python -m pytest -m "not gpu and not slow and not alone" tests/grids tests/knowledge/test_records.py \
		tests/strategies/test_fedavg.py tests/contract/test_contract.py tests/engine/test_guard.py tests/base/test_user_code.py

check: $(STAMP) types  ## before each commit: format, lint, types, import layers, fast tests
	$(BIN)/ruff format .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not gpu and not slow"

# strategies/ is mapped to fedkd.strategies, which a type checker can follow only in an installed copy.
types: $(STAMP)
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/typed .
	cd build/typed && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p fedkd

clean:
	rm -rf build $(VENV)
