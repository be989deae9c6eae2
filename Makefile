# `make demo` and `make test` do all set-up themselves; `make check` is quick.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test test-torch slow test-gpu test-cluster check format dist demo-of bench bench-gpu \
    faults chaos docs docs-serve pages pictures clean

demo: .venv/demo
	$(BIN)/allranks run -n 4 examples/digits.py

# Most tests wait for imports of torch in processes of their own: four at a time, a file each.
WORKERS ?= 4

test: .venv/dev
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

# Another torch, in an environment of its own, of several gigabytes; remove it afterwards.
TORCH ?= 2.9.1
OTHER := .venv-torch-$(TORCH)

test-torch: $(OTHER)/ready
	$(OTHER)/bin/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

$(OTHER)/ready:
	$(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --disable-pip-version-check --quiet 'torch==$(TORCH)'
	$(OTHER)/bin/python -m pip install --disable-pip-version-check --quiet 'torch==$(TORCH)' \
	    --editable '.[dev]'
	touch $@

slow: .venv/dev
	$(BIN)/python -m pytest -m slow

# Each test that needs more GPUs than there are is listed; without any, a stand-in takes their place.
# With NCCL_MULTI_RANK_GPU_ENABLE=1 the ranks may share one (NCCL 2.30). Counting by NVML leaves CUDA
# alone in the process from which the ranks are forked.
test-gpu: .venv/dev
	PYTORCH_NVML_BASED_CUDA_CHECK=1 $(BIN)/python -m pytest -m gpu -rs

# Real launchers on hosts that are made for it: as root, on Debian.
CLUSTER := slurm-wlm munge iproute2 nftables openmpi-bin mpich ethtool faketime
BROWSER := chromium fonts-dejavu-core

test-cluster: .venv/dev .venv-ray/ready
	dpkg -s $(CLUSTER) >/dev/null 2>&1 || \
	    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(CLUSTER))
	dpkg -s $(BROWSER) >/dev/null 2>&1 || \
	    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends $(BROWSER))
	$(BIN)/python -m pytest tests/cluster -n 2 --dist loadfile

# Ray brings many packages, and has an environment of its own.
.venv-ray/ready:
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --disable-pip-version-check --quiet 'ray[train]>=2.50'
	touch $@

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q $(addprefix tests/front/test_, \
	    exports.py places.py public_api.py release.py wheel.py)

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What a release uploads. Each file is tried in a clean environment, outside of the repository.
dist: .venv/dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	for file in dist/*; do $(MAKE) --no-print-directory demo-of FILE=$$file || exit 1; done

# The demo, with a wheel or an sdist that pip has installed; it must not find the package elsewhere.
demo-of:
	set -eu; place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	$(PYTHON) -m venv $$place/venv; \
	$$place/venv/bin/python -m pip install --disable-pip-version-check --quiet \
	    --constraint constraints.txt '$(FILE)[demo]'; \
	cp examples/digits.py $$place; cd $$place; \
	venv/bin/python -c 'import allranks; print(allranks.__file__)' | grep "^$$place/venv/"; \
	venv/bin/allranks run -n 4 digits.py

bench: .venv/dev .venv/demo
	$(BIN)/python benchmarks/testing.py
	$(BIN)/python benchmarks/collectives.py
	$(BIN)/python benchmarks/watch.py
	$(BIN)/python benchmarks/stragglers.py
	$(BIN)/python benchmarks/dist_utils.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/scale.py

# Ours against torch's on all GPUs of this host.
bench-gpu: .venv/dev
	$(BIN)/python benchmarks/gpu.py

# BACKEND=nccl takes four GPUs, and only prints the table.
BACKEND ?= gloo
PAGE_gloo := --markdown docs/failures.md

faults: .venv/dev
	$(BIN)/python benchmarks/faults.py --backend $(BACKEND) $(PAGE_$(BACKEND))

# PROGRAMS=500 runs more; a line that is printed repeats one.
PROGRAMS ?= 100

# SEED=N draws the same ones again; without, each run draws others.
chaos: .venv/dev
	$(BIN)/python benchmarks/chaos.py --programs $(PROGRAMS) $(SEED:%=--seed %) --keep-going

# A warning is an error: a dead link, a docstring that cannot be read, a page that nobody reaches.
docs: .venv/docs
	$(BIN)/python -m sphinx --fresh-env --write-all --fail-on-warning --keep-going --quiet docs docs/_build
	@echo docs/_build/index.html

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory docs/_build 8000

pictures: .venv/dev
	$(BIN)/python docs/scripts/terminal.py
	$(BIN)/python docs/scripts/charts.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Each set of packages leaves a stamp, so that a second `make` installs nothing.
.venv/%: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[$*]'
	touch $@

# What is generated in the documentation; a test fails where it is not up to date.
pages: .venv/dev
	$(BIN)/python docs/scripts/generate.py

clean:
	rm -rf .venv .venv-ray .venv-torch-* .mypy_cache .pytest_cache .ruff_cache
