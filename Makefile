# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv themselves; nothing else is touched.
# On Linux `TORCH_INDEX=https://download.pytorch.org/whl/cpu` takes the small CPU build of torch.
PYTHON ?= python3
TORCH_INDEX ?=
DEMO_OUT ?= demo
DEMO_ARGS ?=
TEST_JOBS ?= 2
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet

.PHONY: demo test test-full lint docs wheels clean

demo: .venv/ready
	.venv/bin/edgekit build --model demo --format onnx,openvino --precision fp32,fp16,w8a8 --out $(DEMO_OUT) $(DEMO_ARGS)
	@echo "the report: $(abspath $(DEMO_OUT))/report.html"

# The demo model in a web page on this machine: needs Node 20 and npm, ends with the address.
.PHONY: web-demo
web-demo: demo wasm
	.venv/bin/edgekit build --model demo --format edgekit,onnx,openvino --precision fp32,fp16,w8a8 --out $(DEMO_OUT) $(DEMO_ARGS)
	.venv/bin/edgekit bundle $(DEMO_OUT) --to $(DEMO_OUT)/bundle --platform web
	cd $(DEMO_OUT)/bundle/web && npm ci && npm run build && npm run preview

# The WebAssembly libraries of the npm package @edgekit/web, cross-compiled by zig, which comes from PyPI.
.PHONY: wasm
wasm: .venv/ready
	$(PIP) ziglang
	$(PY) -m edgekit.native.wasm --to edgekit/bundle/templates/web/edgekit-web/wasm

test: .venv/ready-for-tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not full" -n $(TEST_JOBS) --dist loadfile

test-full: .venv/ready-for-tests
	$(PY) -m pytest

lint: .venv/ready-for-tests
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	$(PY) -m mypy

# The documentation as a site in site/, from an environment of its own: it needs none of edgekit's packages.
docs: .venv-docs/ready
	.venv-docs/bin/mkdocs build --strict

# Wheels of every platform and the source distribution in dist/, each checked; WHEELS_ARGS=--twice compares two runs.
wheels: .venv-wheels/ready
	.venv-wheels/bin/python .ci/wheels.py $(WHEELS_ARGS)

clean:
	rm -rf .venv .venv-docs .venv-wheels site dist build $(DEMO_OUT)

# torch first: its index may be another one, and what follows must not replace it
.venv/torch:
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@touch $@

.venv/ready: .venv/torch pyproject.toml
	$(PIP) -e ".[all]"
	@touch $@

.venv/ready-for-tests: .venv/torch pyproject.toml
	$(PIP) -e ".[all,dev]"
	@touch $@ .venv/ready

# .venv-NAME holds the packages of one dependency group of pyproject.toml, and nothing of edgekit's own
.venv-%/ready: pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-$*/bin/python -m pip install --quiet --group $*
	@touch $@
