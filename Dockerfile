# onnxinfo in a container; see docs/docker.md.
#   docker build -t onnxinfo .
#   docker build -t onnxinfo:cpu --build-arg VARIANT=cpu .
ARG BASE=python:3.12-slim
# cuda: torch and ONNX Runtime with CUDA. cpu: without CUDA.
ARG VARIANT=cuda

FROM ${BASE} AS wheel
WORKDIR /src
COPY . .
RUN python3 -m venv /build \
 && sed -n '/^setuptools==/,/[^\\]$/p' docker/requirements-cuda.lock > /build/setuptools.lock \
 && /build/bin/pip install --quiet --no-cache-dir --require-hashes --no-deps -r /build/setuptools.lock \
 && SOURCE_DATE_EPOCH=315532800 /build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /dist . \
 && cp docker/requirements-*.lock docker/sbom.py docker/without_cuda.py /dist/

FROM ${BASE} AS for-cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM ${BASE} AS for-cpu
# A GPU made available to the container is not used.
ENV CUDA_VISIBLE_DEVICES=""

# Older versions of buildah ignore the default when they determine the required stages.
FROM for-${VARIANT:-cuda}
ARG VARIANT
ARG PIP_ARGS=""
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="onnxinfo" \
      org.opencontainers.image.description="How much of its input does each layer of a trained network discard?" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.vendor="The onnxinfo developers"
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    set -eu; \
    python3 -m venv /opt/onnxinfo; \
    /opt/onnxinfo/bin/pip install --quiet --no-cache-dir ${PIP_ARGS} --require-hashes --no-deps --only-binary :all: \
        -r "/dist/requirements-${VARIANT:-cuda}.lock"; \
    /opt/onnxinfo/bin/pip install --quiet --no-cache-dir --no-deps /dist/*.whl; \
    if [ "${VARIANT}" = cpu ]; then /opt/onnxinfo/bin/python /dist/without_cuda.py; fi; \
    /opt/onnxinfo/bin/pip uninstall --quiet --yes pip; \
    /opt/onnxinfo/bin/python /dist/sbom.py > /opt/onnxinfo/sbom.cdx.json
# For any user, known to the system or not, and a read-only root file system: all scratch files go to /tmp.
ENV PATH=/opt/onnxinfo/bin:$PATH \
    HOME=/tmp \
    USER=onnxinfo \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["onnxinfo"]
CMD ["--help"]
