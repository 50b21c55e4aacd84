# onnxinfo in a container; see docs/docker.md.
#   docker build -t onnxinfo .
#   docker build -t onnxinfo:cpu --build-arg VARIANT=cpu --build-arg PIP_ARGS="--extra-index-url ADDRESS" .
ARG BASE=python:3.12-slim

FROM ${BASE} AS wheel
WORKDIR /src
COPY . .
RUN python3 -m venv /build \
 && /build/bin/pip install --quiet --no-cache-dir --constraint constraints.txt setuptools \
 && SOURCE_DATE_EPOCH=315532800 /build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /dist . \
 && cp constraints.txt docker/requirements.py /dist/

FROM ${BASE}
# cuda: torch's and ONNX Runtime's wheels with CUDA. cpu: ONNX Runtime without, and torch from where PIP_ARGS says.
ARG VARIANT=cuda
ARG PIP_ARGS=""
ARG VERSION=0.1.0
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
    case "${VARIANT}" in cuda) cpu="" ;; cpu) cpu="--cpu" ;; *) echo "VARIANT is cuda or cpu" >&2; exit 2 ;; esac; \
    python3 /dist/requirements.py /dist/*.whl ${cpu} report > /opt/onnxinfo/requirements.txt; \
    /opt/onnxinfo/bin/pip install --quiet --no-cache-dir ${PIP_ARGS} --constraint /dist/constraints.txt \
        -r /opt/onnxinfo/requirements.txt; \
    /opt/onnxinfo/bin/pip install --quiet --no-cache-dir --no-deps /dist/*.whl; \
    if [ "${VARIANT}" = cpu ] && ls -d /opt/onnxinfo/lib/python3*/site-packages/nvidia >/dev/null 2>&1; then \
        echo "PIP_ARGS gave no CPU wheel of torch: CUDA was installed" >&2; exit 1; \
    fi; \
    /opt/onnxinfo/bin/pip uninstall --quiet --yes pip
# Any user, known to the system or not, and a root file system that is read-only: all scratch files go to /tmp.
ENV PATH=/opt/onnxinfo/bin:$PATH \
    HOME=/tmp \
    USER=onnxinfo \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["onnxinfo"]
CMD ["--help"]
