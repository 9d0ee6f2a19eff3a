# Everything a developer runs. `make help` lists the targets.
PYTHON ?= python3
WORKERS ?= 2
MODEL ?=
TEXT ?=
SECONDS ?= 20

BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install -q -c constraints.txt
STAMP := .venv/.installed
# One thread per test worker: more compete for the same cores and are slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help venv demo test slow fuzz clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 8

venv: $(STAMP) ## create .venv with everything needed (again only when a requirement changes)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON) cannot create virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11, which the pinned versions need: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "==> [1/3] creating .venv"
	@$(PYTHON) -m venv .venv
	@echo "==> [2/3] installing PyTorch (a large download; minutes)"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@echo "==> [3/3] installing flextron-export and its tools (minutes)"
	@$(PIP) -e '.[cpu,train,datasets,eval,serve,tensorrt-rtx,dev]'
	@touch $@
	@echo "==> .venv is ready"

demo: venv ## run the whole path on a small model (MODEL=directory, TEXT=file to use your own)
	$(BIN)/python tools/demo.py $(if $(MODEL),--model "$(MODEL)") $(if $(TEXT),--text "$(TEXT)")

test: venv ## lint, types and the fast tests
	$(BIN)/ruff check
	$(BIN)/mypy flextron_export tools
	$(PYTEST) -m "not slow and not gpu"

slow: venv ## the slow tests
	$(PYTEST) -m "slow and not gpu"

fuzz: ## fuzz the C++ readers of manifests and weights (SECONDS=20 each)
	tools/fuzz.sh $(SECONDS)

clean: ## remove builds, caches and the demo's output; keeps .venv
	rm -rf build dist work *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
