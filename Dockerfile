# dpad and its command line in an image:
#
#   docker build -t dpad . && docker run --rm dpad doctor
#
# For a GPU (the toolkit's image builds the CUDA module; its runtime is linked into the module, the
# driver comes from the host):
#
#   docker build -t dpad-cuda --build-arg BUILD=nvidia/cuda:13.0.2-devel-ubuntu24.04 \
#     --build-arg RUN=ubuntu:24.04 . && docker run --rm --gpus all dpad-cuda doctor
#
# BUILD and RUN are two images of one system, with a Python of 3.11 or newer (its package python3).
# TORCH is what pip is asked for. torch as PyPI has it brings its CUDA libraries along, several GB;
# for the CPU alone: --build-arg TORCH="torch --index-url <address of PyTorch's CPU builds>".
ARG BUILD=debian:bookworm-slim
ARG RUN=debian:bookworm-slim

FROM ${BUILD} AS build
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --no-install-recommends --yes g++ python3-dev python3-venv \
  && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/dpad
ENV PATH=/opt/dpad/bin:${PATH}
ARG TORCH="torch==2.13.0"
# hadolint ignore=SC2086,DL3013
RUN pip install --no-cache-dir ${TORCH}
WORKDIR /src
COPY requirements/build.txt requirements/
RUN python3 -m venv /opt/build \
  && /opt/build/bin/pip install --no-cache-dir -r requirements/build.txt
COPY . .
# Compiled beside the environment that is kept, so that it holds no compiler and no CMake.
RUN DPAD_TORCH_DIR="$(python -c 'import torch; print(torch.__path__[0])')" \
  /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
  && pip install --no-cache-dir "$(echo /wheel/*.whl)[cli,plot]"

FROM ${RUN}
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --no-install-recommends --yes libgomp1 python3 \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --uid 10001 dpad
COPY --from=build /opt/dpad /opt/dpad
ENV PATH=/opt/dpad/bin:${PATH}
USER 10001
WORKDIR /home/dpad
ENTRYPOINT ["dpad"]
CMD ["doctor"]
