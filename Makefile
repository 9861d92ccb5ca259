# Everything runs in .venv, which `make` creates and fills; nothing is installed anywhere else.
PYTHON ?= python3
BIN := .venv/bin
MODEL := models/all-mpnet-base-v2
DEMO := build/mpnet
SMALL := models/all-MiniLM-L6-v2
QUICK := build/quick
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
PIP_AUDIT := 2.10.1
BUILD := 1.6.1
# All tests of a file run in one process: they share fixtures. One that crashes is a failure, and ends.
PYTEST := $(BIN)/python -m pytest --dist loadfile --max-worker-restart 0
# Tests start hundreds of processes: none is to compile calib8 anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo quick test check e2e gpu fuzz audit dist site format help-pages clean

demo: .venv/installed
	$(BIN)/calib8 fetch all-mpnet-base-v2 --to $(MODEL)
	$(BIN)/calib8 prepare examples/mpnet/calibration.txt --tokenizer $(MODEL) -o $(DEMO)/calib_data
	$(BIN)/calib8 convert $(MODEL)/model.onnx --data $(DEMO)/calib_data \
		--held-out examples/mpnet/held_out.txt -o $(DEMO)

# A small encoder and a quarter of the texts, for those who want to see it first. PyTorch, which is larger than all the
# rest, is installed only where the model hub cannot be reached.
quick: .venv/core
	$(BIN)/calib8 fetch all-MiniLM-L6-v2 --to $(SMALL) || \
		{ echo 'PyTorch is installed now, and the model exported.'; $(INSTALL) --editable '.[export]' && \
		$(BIN)/calib8 fetch all-MiniLM-L6-v2 --to $(SMALL); }
	mkdir -p $(QUICK)
	for name in calibration held_out; do \
		awk 'NR % 4 == 1' examples/mpnet/$$name.txt > $(QUICK)/$$name.txt || exit; done
	$(BIN)/calib8 convert $(SMALL)/model.onnx --data $(QUICK)/calibration.txt --held-out $(QUICK)/held_out.txt \
		--target sm86 -o $(QUICK)

# Three processes keep two cores busy: there are tests that wait.
test: .venv/installed .venv/bindings/ready
	$(PYTEST) -n 3

check: .venv/installed .venv/bindings/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/check.py
	$(BIN)/hadolint containers/*.Dockerfile
	$(SITE)

# The documentation, as build/site/index.html.
site: .venv/installed
	$(SITE)

# The demo and tests of what it left behind, and three more models.
e2e: demo
	$(PYTEST) -n 2 tests/e2e

# On a machine with a GPU, TensorRT and cuda-python (extra `tensorrt`). What it measures
# lies in build/gpu.txt, to be kept in bench/results.
gpu: .venv/installed .venv/bindings/ready
	mkdir -p build
	CALIB8_MEASURED=build/gpu.txt $(BIN)/python -m pytest tests/gpu

# Long: `make test` has a short one. What it finds lies in build/fuzz.
EXECUTIONS := 1000000
SEED := 1
fuzz: .venv/installed
	$(BIN)/python tests/fuzz/run.py --executions $(EXECUTIONS) --seed $(SEED) -o bench/results/$$(date +%F)-fuzz.txt

# Known vulnerabilities of everything in constraints.txt, a dependency that cannot be looked up being one. Needs the
# network. The tool has an environment of its own, since calib8 needs nothing of what it brings.
audit: .venv/audit/bin/pip-audit
	.venv/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

.venv/audit/bin/pip-audit: .venv/installed
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT)

# Wheel and source archive in build/dist, and the archive's tests against the wheel, in an environment of its own that has
# neither this folder nor its src.
DIST := build/dist
DIST_TESTS := tests/unit
dist: .venv/dist/bin/pyproject-build
	rm -rf $(DIST)
	.venv/dist/bin/pyproject-build --outdir $(DIST) .
	mkdir $(DIST)/source
	tar --extract --strip-components 1 --directory $(DIST)/source --file $(DIST)/calib8-*.tar.gz
	rm -r $(DIST)/source/src
	$(PYTHON) -m venv $(DIST)/venv
	$(DIST)/venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		"$$(echo $(DIST)/calib8-*.whl)[dev,openvino,ray,report,rtx]"
	cd $(DIST)/source && ../venv/bin/python -m pytest $(DIST_TESTS)

.venv/dist/bin/pyproject-build: .venv/installed
	$(PYTHON) -m venv .venv/dist
	.venv/dist/bin/python -m pip install --quiet --disable-pip-version-check build==$(BUILD)

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

help-pages: .venv/installed
	$(BIN)/python docs/check.py --write

clean:
	rm -rf .venv build

INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
# As pip would, which takes one core, for a minute.
COMPILE = $(BIN)/python -W ignore -m compileall -qq -j 0 .venv/lib || true

# What calib8 needs to quantise, build and report; and all that its other targets need, PyTorch and Ray among it.
.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), f"Python 3.10 or later is needed, this is {sys.version}"'
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[openvino,report,rtx]'
	$(COMPILE)
	touch $@

.venv/installed: .venv/core
	$(INSTALL) --editable '.[dev,docs,export,ray]'
	$(COMPILE)
	touch $@

# NVIDIA's Python bindings of TensorRT, without what they ask for, TensorRT itself: 1.3 MB to fetch and 6 MB on disk each.
# Not in site-packages: there is room for one version only. A Python that a version has no wheel for goes without that
# version, and its tests say so.
FETCH := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --upgrade --target
LINUX := sys_platform == 'linux' and platform_machine in 'x86_64 aarch64'
.venv/bindings/ready: .venv/installed tests/trt_bindings.py tests/stub_library.py
	$(FETCH) .venv/bindings/10.6 "tensorrt-cu12-bindings==10.6.0; $(LINUX) and python_version < '3.13'"
	$(FETCH) .venv/bindings/10.16 "tensorrt-cu13-bindings==10.16.1.11; $(LINUX) and python_version < '3.14'"
	$(FETCH) .venv/bindings/11.4 "tensorrt-cu13-bindings==11.4.0.106; $(LINUX) and python_version < '3.15'"
	$(BIN)/python tests/trt_bindings.py
	touch $@
