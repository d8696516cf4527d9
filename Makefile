# From a fresh clone, with nothing but Python (3.10 or newer) and make: `make demo`, `make test`.
# PYTHON=python3.12 picks an interpreter, VENV=.venv-3.12 another folder for it, ARGS="-k asha" goes
# to pytest.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN = $(VENV)/bin

.PHONY: help demo test test-unit test-slurm24 test-gpu test-heavy chaos check fmt bench bench-quick replay cluster \
	cluster-stop docs pictures dist slurm bytecode screens clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(VENV)/.made-demo ## a real sweep with scikit-learn, about a minute
	$(BIN)/python examples/digits.py

test: $(VENV)/.made-test slurm screens bytecode ## everything: static checks and all tests, with a real Slurm where it can be had
	$(PYTHON) tools/run-tests $(AGAIN) --beside "make check" $(BIN)/python $(ARGS)

test-unit: $(VENV)/.made-test ## the tests that start no process, with fewer examples; in half a minute
	$(BIN)/python -m pytest -m unit --hypothesis-profile=quick $(ARGS)

test-slurm24: $(VENV)/.made-test slurm bytecode ## the tests that use a Slurm, on another release of it (24.11)
	@folder=$$(tools/need-slurm24) && { [ -z "$$folder" ] || SLURM_SWEEPS_SLURM=$$folder \
	$(PYTHON) tools/run-tests --only cluster $(AGAIN) $(BIN)/python $(ARGS); }

test-gpu: $(VENV)/.made-test slurm ## the tests that need an NVIDIA GPU, which no other target runs
	$(BIN)/python -m pytest -m gpu tests/gpu $(ARGS)

test-heavy: $(VENV)/.made-heavy ## the tests that need JAX, TensorFlow, polars and the like
	$(PYTHON) tools/run-tests --only heavy $(AGAIN) $(BIN)/python $(ARGS)

chaos: $(VENV)/.made-test slurm ## faults, and what may hang or collide, over and over
	SLURM_SWEEPS_ROUNDS=20 $(BIN)/python -m pytest tests/ranks/test_worlds.py $(ARGS)
	SLURM_SWEEPS_CHAOS=1 $(BIN)/python -m pytest -m "unit or chaos" $(ARGS)
	SLURM_SWEEPS_CHAOS=1 $(BIN)/python -m pytest tests/reliability $(ARGS)

check: $(VENV)/.made-test ## ruff, mypy, and vulture for what nothing uses
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/vulture

fmt: $(VENV)/.made-test ## format, and fix what can be fixed by itself
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: ## this project and its peers side by side, into benchmarks/RESULTS.md; about half an hour
	$(PYTHON) benchmarks/bench.py $(ARGS)

bench-quick: ## the same with smaller numbers and fewer peers; under five minutes once installed
	$(PYTHON) benchmarks/bench.py --quick $(ARGS)

replay: $(VENV)/.made-test ## searches on tables of learning curves, into benchmarks/SEARCH.md; needs TABLES="….npz …"
	@[ -n "$(TABLES)" ] || { echo 'make replay needs tables: make replay TABLES="a.npz b.npz"; benchmarks/make_table.py makes one' >&2; exit 2; }
	$(BIN)/python benchmarks/replay_compare.py $(TABLES) $(ARGS)

cluster: slurm ## a Slurm of four nodes on this machine to play with
	@PYTHONPATH=tests $(PYTHON) -m cluster_tools start

cluster-stop: ## end that Slurm, and those that crashed test runs have left
	@PYTHONPATH=tests $(PYTHON) -m cluster_tools stop

docs: $(VENV)/.made-test ## build the documentation into site/; no warning and no dead link is let pass
	$(BIN)/zensical build --clean --strict

pictures: $(VENV)/.made-test screens ## make the documentation's pictures anew, from a real sweep
	PYTHONPATH=tests $(BIN)/python tools/make-pictures docs/img

dist: $(VENV)/.made-dist ## build sdist and wheel, and try them in empty environments
	tools/make-dist $(BIN)/python

slurm: # install Debian's packages where root may
	@tools/need-slurm

bytecode: $(VENV)/.made-test # or each of many processes compiles the source, where PYTHONDONTWRITEBYTECODE is set
	@$(BIN)/python -m compileall -q src plugins

screens: # install a browser, tmux, R and a C compiler, which tests use, where root may
	@tools/need-screens

clean: ## remove what the tools have made here
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache site dist

$(VENV)/.made-demo: pyproject.toml tools/make-venv
	tools/make-venv $(PYTHON) $(VENV) demo && touch $@

$(VENV)/.made-test: pyproject.toml plugins/hydra/pyproject.toml tools/make-venv
	tools/make-venv $(PYTHON) $(VENV) test check && touch $@ $(VENV)/.made-demo

$(VENV)/.made-dist: pyproject.toml tools/make-venv
	tools/make-venv $(PYTHON) $(VENV) dist && touch $@

$(VENV)/.made-heavy: pyproject.toml plugins/hydra/pyproject.toml tools/make-venv
	tools/make-venv $(PYTHON) $(VENV) test check heavy && touch $@ $(VENV)/.made-test $(VENV)/.made-demo
