# make demo    a report on synthetic scenes, in minutes (sets everything up first)
# make test    all tests           make test-fast   the default subset
# make check   ruff and mypy       make perf        the measurements of docs/PERFORMANCE.md
# make docs    the documentation site in build/docs; TUTORIAL=off does not run its notebook
# make fuzz    odd settings, files and checkpoints, many more than in the tests
# make audit   known vulnerabilities of the pinned versions (a minute; needs the registry's list)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.up-to-date
# Two processes of tests, each with a Ray of its own, which mostly waits for processes to start.
# One that crashes fails the tests: with another in its place, pytest-xdist waits for ever.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
TUTORIAL := force

.PHONY: demo test test-fast docs fuzz check audit perf setup clean

setup: $(STAMP)

# Installed again only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/benchmark prepare synthetic --root data/synthetic
	$(BIN)/benchmark run experiments/quickstart.toml

test: setup
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-fast: setup
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

# A warning, such as a link that leads nowhere, is an error.
docs: setup
	$(BIN)/sphinx-build -W --keep-going --fresh-env --quiet -D nb_execution_mode=$(TUTORIAL) . build/docs

fuzz: setup
	BENCHMARK_FUZZ=20 $(BIN)/python -m pytest $(SIDE_BY_SIDE) --timeout 3600 -p no:cacheprovider \
		tests/test_doors.py tests/cli/test_options.py tests/catalog/test_strange_checkpoints.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: setup
	$(BIN)/python .ci/audit.py

perf: setup
	$(BIN)/python -m perf.run

clean:
	rm -rf $(VENV) build dist *.egg-info
