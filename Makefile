# Flow Plugin Networks: needs Python 3.11 or newer, and make; everything else goes into $(VENV).
VENV ?= .venv
FPN_DATA ?= $(CURDIR)/data
ARGS ?=
export FPN_DATA

BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
PYTHON ?= $(shell for python in python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# One test worker more than cores, because tests wait for kernels; at most four.
WORKERS = $(shell $(PY) -c "import os; print(min(4, os.cpu_count() + 1))")

.PHONY: help demo paper report verify book check test test-faults test-browser lab app bench clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.runtime  ## every notebook, offline, in minutes
	$(PY) -m fpnlib run --profile demo $(ARGS)

paper: $(VENV)/.runtime  ## the paper's experiments on the datasets in FPN_DATA
	$(PY) -m fpnlib run --profile paper $(ARGS)

report: $(VENV)/.runtime  ## a page for each run in outputs/: report.html, self-contained
	$(PY) -m fpnlib report $(ARGS)

verify: $(VENV)/.runtime  ## the runs' files against their manifests, and some numbers computed again
	$(PY) -m fpnlib verify $(ARGS)

book: $(VENV)/.book  ## executed notebooks, how-to pages and the API reference as a site, with links checked
	$(PY) notebooks/book/build.py $(ARGS)

check: $(VENV)/.test  ## layout, lint rules, import layers, type hints, clean notebooks: in seconds
	$(PY) -m ruff format --check --quiet
	$(PY) -m ruff check --quiet
	$(BIN)/lint-imports --no-logo
	$(PY) -m mypy
	$(PY) -m nbstripout --verify --keep-id notebooks/*.ipynb notebooks/app/*.ipynb

test: $(VENV)/.test  ## the tests
	$(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-faults: $(VENV)/.test  ## runs killed at thirty random moments, full disks, damaged files
	FPN_KILLS=30 $(PY) -m pytest tests/test_faults.py $(ARGS)

lab: $(VENV)/.runtime  ## JupyterLab on the notebooks
	$(PY) -m jupyter lab $(ARGS) notebooks

test-browser: $(VENV)/.test  ## the sliders, the report's pages and every notebook in a real browser
	@command -v chromedriver >/dev/null || { echo "chromedriver is missing" >&2; exit 1; }
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || \
		{ echo "chromium is missing" >&2; exit 1; }
	$(PY) -m pytest tests/test_browser*.py tests/browser_notebooks.py $(ARGS)

app: $(VENV)/.runtime  ## the sliders as a page of their own
	$(PY) notebooks/app/serve.py $(ARGS)

bench: $(VENV)/.test  ## the flows beside nflows and zuko, decoding a cloud, editing a face, threads
	$(PY) tests/benchmarks/flows.py $(ARGS)
	$(PY) tests/benchmarks/decoding.py
	$(PY) tests/benchmarks/edit_latency.py
	$(PY) tests/benchmarks/threads.py

clean:  ## remove the environment, caches and the demo's outputs
	rm -rf $(VENV) outputs/demo notebooks/book/_build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache *.egg-info
	find fpnlib tests -name __pycache__ -type d -exec rm -rf {} +

# One stamp for each set of extras, so that a second call installs nothing. What numba compiles, the flows' kernels and
# UMAP, it compiles here once, a minute that no notebook waits for.
$(VENV)/.runtime: EXTRAS = [examples,molecules]
$(VENV)/.test: EXTRAS = [test,examples,molecules]
$(VENV)/.runtime $(VENV)/.test: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 is missing: no python3.11, python3 or python of that version was found" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e ".$(EXTRAS)"
	$(PY) -c "from fpnlib.flows import build_flow; from torch import eye; \
		flow = build_flow('maf', 2, 2).eval().requires_grad_(False); \
		[flow.sample(n, eye(2)) for n in (1, 99)]"
	$(PY) -c "import torch; from fpnlib.metrics.latents import embed; embed(torch.randn(60, 4), torch.randn(40, 4))"
	@touch $@ $(VENV)/.runtime

$(VENV)/.book: $(VENV)/.runtime
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e ".[book]"
	@touch $@
