# Every habit of this project by name. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two files at a time, each on one core: what these tests compute is too small to be shared. Tests that look through a browser or press
# Ctrl-C in their own process have one to themselves, and so have the server's, which change what a signal does.
TESTS := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow"
TWO := -n 2 --dist loadfile --max-worker-restart 0
SERVED := tests/clients tests/serve tests/surface
ALONE := tests/core/test_registry.py tests/tune/test_interruption.py tests/studio

.PHONY: help install quickstart test test-slow lint format docs bench lock clean
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

test: $(STAMP)   ## the tests (under 15 minutes on two cores)
	$(TESTS) $(TWO) $(addprefix --ignore=,$(SERVED) $(ALONE))
	$(TESTS) $(TWO) $(SERVED)
	$(TESTS) $(ALONE)

test-slow: $(STAMP) ## the slower checks
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow --timeout 1800

lint: $(STAMP)   ## style and types
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix src tests bench

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

clean:           ## remove the environment, caches and runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist runs src/*.egg-info
