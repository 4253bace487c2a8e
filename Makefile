# Every habit of this project by name. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Three files at a time, each with one thread: what these tests compute is too small to be
# shared, and a fifth of their time is waiting. The longest files begin first (tests/conftest.py).
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/python -m pytest
FILES := OMP_NUM_THREADS=1 $(PYTEST) -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
QUICK := tests/core tests/data tests/nn tests/provenance tests/surface/test_layers.py tests/surface/test_cli.py

LOWEST := tests/core tests/data tests/provenance tests/surface/test_cli.py tests/train/test_loop.py tests/serve/test_chat.py tests/serve/test_tables.py

.PHONY: help install quickstart check test test-slow clients lint format screenshots docs bench lock release lowest clean
help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

# A virtual environment of the pinned versions. Touching the lock or pyproject.toml renews it.
$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about a minute) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

install: $(STAMP) ## the environment in .venv

quickstart: $(STAMP) ## from nothing to an answer, a trained poet and a report
	@$(BIN)/miaobi quickstart

check: $(STAMP)  ## the inner loop: format, style and the quick tests, within a minute
	$(BIN)/ruff format --check src tests bench docs deploy
	$(BIN)/ruff check src tests bench docs deploy
	$(FILES) -q $(QUICK)

test: $(STAMP)   ## all tests but the slow ones
	$(FILES)

test-slow: $(STAMP) ## the slower checks; property tests draw new examples
	$(PYTEST) -m slow --timeout 1800 --hypothesis-profile=random
	$(PYTEST) -m "not slow" --hypothesis-profile=random $$(grep -rl --include='test_*.py' '^from hypothesis' tests)

# Each in an environment of its own: they disagree about what they need.
CLIENTS := $(HOME)/.cache/miaobi-tests/clients
clients:         ## client libraries that tests/clients/test_structured.py runs
	@while read -r name packages; do echo "$$name"; \
	 $(PYTHON) -m venv $(CLIENTS)/$$name && \
	 $(CLIENTS)/$$name/bin/python -m pip install --quiet --disable-pip-version-check $$packages || exit 1; \
	 done < tests/clients/clients.txt

lint: $(STAMP)   ## format, style and types
	$(BIN)/ruff format --check src tests bench docs deploy
	$(BIN)/ruff check src tests bench docs deploy
	$(BIN)/mypy

format: $(STAMP) ## write every file as ruff does, and let it mend what it can
	$(BIN)/ruff check --fix src tests bench docs deploy
	$(BIN)/ruff format src tests bench docs deploy

screenshots: $(STAMP) ## pictures of every page of the studio, in build/screenshots
	@MIAOBI_LANG=en $(BIN)/python -m tests.studio.screenshots

docs: $(STAMP)   ## regenerate the command reference and run the code in the docs
	$(BIN)/python docs/reference/make.py
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/surface/test_docs.py

bench: $(STAMP)  ## side by side with peers; each file also runs alone
	@for file in bench/*.py bench/*/; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

lock:            ## write requirements.lock from the newest versions that pyproject.toml admits
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet torch==2.13.0 --editable '.[all,dev]'
	(echo "# Every version of the development environment; written by \`make lock\`. torch is the CPU build where the index has one."; \
	 build/lock/bin/python -m pip freeze --all --exclude-editable | grep -vE '^(pip|miaobi)\b' | sed 's/+cpu$$//') > requirements.lock
	rm -rf build/lock

release: $(STAMP) ## the wheel and the sdist in dist/, of a clean tree and a version in CHANGELOG.md
	$(BIN)/python deploy/release.py

lowest:          ## tests with the oldest versions that pyproject.toml admits, in build/lowest
	rm -rf build/lowest && $(PYTHON) -m venv build/lowest
	$(PYTHON) deploy/lowest.py > build/lowest/constraints.txt
	build/lowest/bin/python -m pip install --quiet --constraint build/lowest/constraints.txt --editable ".[all,remote,postgres]" httpx2 pytest pytest-timeout hypothesis
	HF_HUB_OFFLINE=1 build/lowest/bin/python -m pytest -q -m "not slow" $(LOWEST)

clean:           ## remove the environment, caches and runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist runs src/*.egg-info
