PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo check test lint audit clean

demo: $(READY)
	$(BIN)/onnxinfo demo --output demo

# The inner loop: the unit tests.
check: $(READY)
	$(BIN)/python -m pytest tests/unit --numprocesses auto --dist worksteal

# Without reordering, the small unit tests come last, and both processes end at about the same time.
test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy onnxinfo cli models
	PYTHONPATH=tools $(BIN)/lint-imports --no-cache

# Known vulnerabilities of the packages in the image; skipped with a message where it cannot run.
audit: $(READY)
	$(BIN)/python docker/audit.py

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
