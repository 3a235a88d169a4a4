# The program `ddu` and the Python package.
#   docker build -t ddu .                            the CPU path
#   docker build -t ddu:cuda --target cuda .         with the CUDA kernels; run it with --gpus all
#   docker run --rm -v "$PWD:/data" ddu infer --model model.safetensors photos/ -o maps
# A compiler as new as can be had: Rust 1.89 compiles it too, to a slower density (docs/performance.md).
FROM rust:1.95-slim-bookworm AS tools
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python3 -m venv /tools && grep '^maturin' .ci/python.txt | xargs /tools/bin/pip install

FROM tools AS build-cpu
RUN cargo build --locked --release && /tools/bin/maturin build --locked --release -m python/Cargo.toml -o /wheels

# The driver's library comes from the host when the container starts: nothing of CUDA is in the image but the kernels.
# nvcc preprocesses by the C++ compiler, which the image of Rust does without.
FROM tools AS build-cuda
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN /tools/bin/pip install -r .ci/nvcc.txt
RUN NVCC=$(echo /tools/lib/python3*/site-packages/nvidia/cu*/bin/nvcc) && export NVCC && \
    cargo build --locked --release && /tools/bin/maturin build --locked --release -m python/Cargo.toml -o /wheels

FROM python:3.12-slim-bookworm AS base
WORKDIR /data
ENTRYPOINT ["ddu"]
CMD ["doctor"]

FROM base AS cuda
COPY --from=build-cuda /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && rm -r /wheels
COPY --from=build-cuda /src/target/release/ddu /usr/local/bin/ddu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM base AS cpu
COPY --from=build-cpu /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && rm -r /wheels
COPY --from=build-cpu /src/target/release/ddu /usr/local/bin/ddu
