# Two commands do everything on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types docs wheel bench fuzz lock sbom audit-dependencies clean

demo: $(VENV)/installed
	$(BIN)/auditkit demo

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The tests must also pass on the built wheel and on the sdist, from outside the source tree.
wheel: $(VENV)/installed
	$(BIN)/python tests/packaging/build_and_test.py

bench: $(VENV)/installed
	$(BIN)/pip install --quiet --no-deps --requirement benchmarks/requirements.txt
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.pgd

# As many inputs a target as there is time for: tests/fuzz/test_fuzz.py runs a few hundred of each.
fuzz: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py --count 10000

# The versions that are installed become the lock. Delete lines of it, `make clean`, and they are chosen anew.
lock: $(VENV)/installed
	$(BIN)/python tests/packaging/lock.py

sbom: $(VENV)/installed
	$(BIN)/python tests/packaging/sbom.py dist/auditkit.cdx.json

# No part of `make test`: it asks a service on the network. Fails where something is found, and where nobody answers.
audit-dependencies: $(VENV)/pip-audit/installed
	$(VENV)/pip-audit/bin/python tests/packaging/audit_dependencies.py $(VENV)/pip-audit/bin/pip-audit

$(VENV)/pip-audit/installed: tests/packaging/pip_audit.txt
	$(PYTHON) -m venv $(VENV)/pip-audit
	$(VENV)/pip-audit/bin/pip install --quiet --no-deps --requirement tests/packaging/pip_audit.txt
	touch $@

$(VENV)/installed: pyproject.toml setup.cfg tests/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint tests/constraints.txt torch
	$(BIN)/pip install --quiet --constraint tests/constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
