# From a fresh clone, with python3 (venv and pip), make and a C compiler:
#   make demo    see it work          make test   run every test
#   make build   install into .venv   make lint   style and types only
#   make sweep, races, truncation, faults, chaos, soak, model, fuzz, mutate   the long checks (docs/reliability.md)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT := ports/reference_c
STAMP := $(VENV)/installed

.PHONY: build port test lint demo sweep races truncation chaos soak faults model fuzz fuzz-python fuzz-c mutate clean

build: $(STAMP) port

# Installing again takes seconds, so it is done only when what decides it has changed.
$(STAMP): setup.cfg setup.py pyproject.toml $(wildcard rlay/*.c rlay/*.h) rlay/_version.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

port:
	$(MAKE) --no-print-directory -C $(PORT)

test: build
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Fifty processes for one channel, a hundred times, in every mixture.
races: build
	RLAY_TEST_ROUNDS=20 $(BIN)/python -m pytest -n 2 --timeout 600 tests/process/test_races.py

# As in `make test`, but two thousand cuts in each story instead of twenty-five.
truncation: build
	RLAY_TEST_CUTS=2000 $(BIN)/python -m pytest -n 2 --timeout 3600 tests/process/test_truncation.py

lint: $(STAMP)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy --strict rlay

# Every call to the system fails once with each of its errors; about five minutes.
faults: build
	$(BIN)/python -m tests.faults.sweep

# Hostile bytes, for MINUTES: to every parser, guided by coverage; and into the mapped files of
# pairs that step.
fuzz: fuzz-python fuzz-c

fuzz-python: build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz.run --minutes $(or $(MINUTES),5)

mutate: build
	$(BIN)/python -m tests.fuzz.mutate --minutes $(or $(MINUTES),5)

demo: build
	$(BIN)/rlay demo

# MINUTES=10 SEED=1a2b ARGUMENTS=--json: a seed that was printed draws the same disturbances again.
chaos: build
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(ARGUMENTS)

# SHARE=0.01 runs a hundredth of all counts.
soak: build
	$(BIN)/python -m tests.soak --share $(or $(SHARE),1) $(ARGUMENTS)

# Every configuration and mutant of the protocol model; needs spin and gcc.
model:
	$(PYTHON) spec/model/explore.py

# Needs clang and its runtime; the target says which packages.
fuzz-c:
	$(MAKE) --no-print-directory -C $(PORT) fuzz MINUTES=$(or $(MINUTES),5)

# First the deliberate faults, each of which must be reported; then every point.
sweep: build
	$(BIN)/python -m tests.sweep --controls
	$(BIN)/python -m tests.sweep

clean:
	-$(MAKE) --no-print-directory -C $(PORT) clean
	rm -rf $(VENV) build dist rlay.egg-info rlay/_atomics.*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find rlay tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
