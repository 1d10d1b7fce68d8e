# Everything a checkout needs; `make help` lists the targets.
#
# PYTHON       the interpreter to build .venv with; default: the first of python3, python3.13, ... that is new enough
# TORCH_INDEX  the package index to take torch from; default: pip's own. On Linux pip's own index serves the CUDA
#              build (several GB); the CPU build (about 200 MB) is at https://download.pytorch.org/whl/cpu
# ARGS         passed on to pytest or to the benchmarks, as in `make test ARGS="-k trace"`

PYTHON ?=
TORCH_INDEX ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14)
# Tests and their tensors are small: two processes of one thread each are faster than one process of two threads.
# One process (to debug, or for one test): make test ARGS="-n 0 -k NAME".
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest

CREATED := $(VENV)/.created
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
PEERS := .venv-peers/.installed
SITE := .venv-docs/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow lint format reference docs peers bench dist lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

venv: $(RUNTIME) ## build .venv: Onward and what it needs, in the versions of requirements.lock

demo: $(RUNTIME) ## train a spiking network on MNIST; no network needed once .venv stands
	@$(BIN)/onward train

test: $(DEV) ## run the test suite
	$(PYTEST) -n 2 --dist worksteal $(ARGS)

test-slow: $(DEV) ## run the tests that take longer
	$(PYTEST) -m slow $(ARGS)

lint: $(DEV) ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(DEV) ## rewrite the sources in the project's format
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

reference: $(RUNTIME) ## write the pages of reference that are drawn from the program
	$(BIN)/python -m docs.reference_pages

docs: $(SITE) reference ## build the documentation as a site, in site/
	.venv-docs/bin/mkdocs build --quiet --strict --clean
	@echo "Open site/index.html"

peers: $(PEERS) ## build .venv-peers: other libraries, for `make bench` to compare with

bench: $(RUNTIME) ## measure speed and memory, beside the peers where .venv-peers stands
	$(BIN)/onward bench $(ARGS)

dist: $(DEV) ## build the source distribution and the wheel, in dist/
	$(BIN)/python -c "import os; from setuptools import build_meta as b; os.makedirs('dist', exist_ok=True); \
		print(b.build_sdist('dist'), b.build_wheel('dist'), 'are in dist/')"

clean: ## remove .venv, .venv-peers and .venv-docs, caches and builds; runs/ stays
	rm -rf $(VENV) .venv-lock .venv-peers .venv-docs site build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(CREATED):
	@for python in $(PYTHONS); do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Creating $(VENV) with $$("$$python" --version)."; \
			"$$python" -m venv --clear $(VENV) && touch $@; exit; \
		fi; \
	done; \
	echo "Onward needs Python 3.11 or newer, with its venv module. Looked for: $(PYTHONS)." >&2; \
	echo "Install one (on Debian and Ubuntu: python3 and python3-venv), or name one you have:" >&2; \
	echo "    make PYTHON=/path/to/python3.11 $(or $(MAKECMDGOALS),venv)" >&2; \
	exit 1

$(RUNTIME): requirements.lock pyproject.toml $(CREATED)
	@echo "Installing Onward into $(VENV). About a minute with the CPU build of torch (200 MB to fetch);"
	@echo "longer with its CUDA build (several GB), which pip takes on Linux unless TORCH_INDEX says otherwise."
	@$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url $(TORCH_INDEX) "$$(grep '^torch==' requirements.lock)",:)
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo "Installing the tools for tests and checks into $(VENV): under a minute."
	@$(PIP) -r requirements-dev.lock
	@touch $@

PEERS_PIP := .venv-peers/bin/python -m pip --disable-pip-version-check -qq install

$(PEERS): benchmarks/peers/requirements.txt benchmarks/peers/libraries.txt $(CREATED)
	@echo "Installing SpikingJelly, snnTorch and Norse into .venv-peers: about a minute besides fetching torch."
	@$(BIN)/python -m venv --clear .venv-peers
	@$(if $(TORCH_INDEX),$(PEERS_PIP) --no-deps --index-url $(TORCH_INDEX) "$$(grep '^torch==' requirements.lock)",:)
	@$(PEERS_PIP) -r benchmarks/peers/requirements.txt
	@$(PEERS_PIP) --no-deps -r benchmarks/peers/libraries.txt
	@touch $@

$(SITE): docs/requirements.txt $(CREATED)
	@echo "Installing MkDocs into .venv-docs: under a minute."
	@$(BIN)/python -m venv --clear .venv-docs
	@.venv-docs/bin/python -m pip --disable-pip-version-check -qq install -r docs/requirements.txt
	@touch $@

# One resolution of pyproject.toml for everybody, made with the CPU build of torch: pip adds what other builds need.
TORCH := $(shell grep -s '^torch==' requirements.lock)
LOCK_PIP := .venv-lock/bin/python -m pip --disable-pip-version-check
LOCK_LIST := $(LOCK_PIP) list --format=freeze --exclude pip --exclude onward | sed 's/+.*//'

lock: ## resolve all versions anew; `make lock TORCH=torch==X.Y.Z` moves to another torch
	$(firstword $(PYTHONS)) -m venv --clear .venv-lock
	$(if $(TORCH_INDEX),$(LOCK_PIP) -qq install --no-deps --index-url $(TORCH_INDEX) $(TORCH))
	$(LOCK_PIP) -qq install $(TORCH) --editable .
	@echo "# What Onward runs on. Made by \`make lock\`; edit pyproject.toml instead." > requirements.lock
	$(LOCK_LIST) >> requirements.lock
	$(LOCK_PIP) -qq install $(TORCH) --editable '.[dev,viz]'
	@echo "# What its tests and checks need besides. Made by \`make lock\`; edit pyproject.toml instead." > requirements-dev.lock
	@echo "-r requirements.lock" >> requirements-dev.lock
	$(LOCK_LIST) | grep -vxFf requirements.lock >> requirements-dev.lock
	rm -rf .venv-lock
