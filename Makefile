# Each target works alone on a fresh clone: it creates .venv and installs what is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
JOBS   ?= 2

KERNELS := $(wildcard labelenc/ops/csrc/* labelenc/ops/csrc/*/*)

.PHONY: install test lint demo clean

install: $(STAMP)

$(BIN)/python:
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# PyTorch comes first: the kernels are compiled against it. pip leaves alone what is already there.
$(STAMP): setup.py pyproject.toml $(KERNELS) | $(BIN)/python
	@echo "installing PyTorch (a large download the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch torchvision
	@echo "compiling and installing labelenc with its dependencies"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77" wheel ninja
	@PATH="$(CURDIR)/$(BIN):$$PATH" \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[dev]"
	@touch $@

# One thread in each worker: several workers with a thread per core each would be slower than one.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: install
	$(BIN)/python tools/demo.py

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	rm -f labelenc/ops/_C*.so $(STAMP)
