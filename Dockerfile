# trtdeploy on a server: x86-64, CUDA 13, TensorRT 11.4. The driver (580.65 or newer) is the host's.
#
#   docker build -t trtdeploy .
#   docker run --rm --gpus all -v "$PWD:/data" trtdeploy build model.onnx --backend tensorrt --fp16
#
# The image was not built or run here; the base image was not pulled. `make docker-check` checks this file and resolves
# every pinned wheel that is on PyPI.
ARG CUDA_IMAGE=nvcr.io/nvidia/cuda:13.0.0-base-ubuntu24.04
FROM ${CUDA_IMAGE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        gstreamer1.0-plugins-good gstreamer1.0-tools python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/trtdeploy
ENV PATH=/opt/trtdeploy/bin:${PATH} \
    PYTHONUNBUFFERED=1

COPY docker/requirements-datacenter.txt docker/requirements-tensorrt-datacenter.txt /tmp/docker/
RUN pip install --no-cache-dir --only-binary :all: --no-deps \
        -r /tmp/docker/requirements-datacenter.txt -r /tmp/docker/requirements-tensorrt-datacenter.txt

COPY pyproject.toml README.md LICENSE /src/
COPY trtdeploy /src/trtdeploy
RUN pip install --no-cache-dir --no-deps /src \
    && useradd --create-home --uid 10001 trtdeploy
USER 10001
WORKDIR /data

# the libraries load and a backend is usable: exit code 8 otherwise
HEALTHCHECK --interval=60s --timeout=30s --start-period=20s --retries=3 \
    CMD ["trtdeploy", "doctor", "--json"]

ENTRYPOINT ["trtdeploy"]
CMD ["--help"]
