# onnxinfo in a container; see docs/docker.md.
#   docker build -t onnxinfo .
#   docker build -t onnxinfo:cpu --build-arg VARIANT=cpu .
ARG BASE=python:3.12-slim
# cuda: torch and ONNX Runtime with CUDA. cpu: without CUDA; even smaller with torch's CPU wheels from an index in PIP_ARGS.
ARG VARIANT=cuda

FROM ${BASE} AS wheel
WORKDIR /src
COPY . .
RUN python3 -m venv /build \
 && /build/bin/pip install --quiet --no-cache-dir --constraint constraints.txt setuptools \
 && SOURCE_DATE_EPOCH=315532800 /build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /dist . \
 && cp constraints.txt docker/requirements.py docker/without_cuda.py /dist/

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
    cpu=""; if [ "${VARIANT}" = cpu ]; then cpu="--cpu"; fi; \
    python3 /dist/requirements.py /dist/*.whl ${cpu} report > /opt/onnxinfo/requirements.txt; \
    /opt/onnxinfo/bin/pip install --quiet --no-cache-dir ${PIP_ARGS} --constraint /dist/constraints.txt \
        -r /opt/onnxinfo/requirements.txt; \
    /opt/onnxinfo/bin/pip install --quiet --no-cache-dir --no-deps /dist/*.whl; \
    if [ "${VARIANT}" = cpu ]; then /opt/onnxinfo/bin/python /dist/without_cuda.py; fi; \
    /opt/onnxinfo/bin/pip uninstall --quiet --yes pip
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
