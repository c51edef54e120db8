# cnnlab in a container: `docker build -t cnnlab .` for processors, for NVIDIA GPUs with
# `--build-arg TORCH_INDEX=https://pypi.org/simple`, whose torch brings CUDA along (docs/gcp.md).
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG UV=0.13.9
# The versions of constraint-dependencies in pyproject.toml, from the index that has them without CUDA.
ARG TORCH=2.15.0
ARG TORCHVISION=0.29.2
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir uv==${UV} && uv venv /opt/cnnlab
ENV VIRTUAL_ENV=/opt/cnnlab UV_LINK_MODE=copy
RUN uv pip install --no-cache --no-config --no-deps --default-index ${TORCH_INDEX} torch==${TORCH} torchvision==${TORCHVISION}
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN uv pip install --no-cache --compile-bytecode ".[demo,export,gcp,wandb]"

FROM ${BASE}
RUN useradd --create-home --uid 1000 cnnlab
COPY --from=build /opt/cnnlab /opt/cnnlab
ENV PATH=/opt/cnnlab/bin:$PATH CNNLAB_CACHE=/home/cnnlab/.cache/cnnlab PYTHONUNBUFFERED=1
USER cnnlab
WORKDIR /home/cnnlab
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '8000') + '/health', timeout=4)"]
ENTRYPOINT ["cnnlab"]
CMD ["--help"]
