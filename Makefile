# Everything is set up in .venv by the first target that needs it.
TORCH_INDEX ?=
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet

.venv/ready: pyproject.toml
	python3 -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) -e ".[all,dev]"
	touch $@

.PHONY: test lint
test: .venv/ready
	$(PY) -m pytest -m "not full"

lint: .venv/ready
	.venv/bin/ruff check .
	$(PY) -m mypy
