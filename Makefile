# The whole interface for newcomers: make demo, make test, make check, make bench.
# Each makes .venv itself if it is missing. PYTHON=python3.12 chooses another interpreter, ARGS=... passes options on.
# Tests start brokers, agents and forget jobs, and wait for them: WORKERS processes share the test files.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench format readme images deb rig-release

demo: $(VENV)/installed
	@$(BIN)/python -m edge_agent demo $(ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.end_to_end --data rig --forget IF-1 $(ARGS)

format: $(VENV)/installed
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

readme: $(VENV)/installed  # write the reference tables of README.md and deploy/agent.example.toml anew
	$(BIN)/python -m tests.reference

images: $(VENV)/installed  # take the pictures of the page in docs/images anew
	mkdir -p docs/images
	EDGE_AGENT_IMAGES=docs/images $(BIN)/python -m pytest tests/test_page_browser.py

deb:  # build a Debian package that holds all it runs with
	@deploy/deb.sh dist $(ARGS)

rig-release: $(VENV)/installed  # train the release that ships with the package anew
	rm -rf edge_agent/rig_release
	$(BIN)/python -m edge_agent train --data rig --seed 1 --out edge_agent/rig_release

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,oci,web,bench,dev]'
	@touch $@
