#!/usr/bin/env bash
# The checks and measurements that need a GPU, in at most ten minutes, on a machine that has Python, torch and CUDA, and
# no network. In a checkout of cnnlab:
#
#   bash benchmarks/accelerator.sh carry FOLDER ROOT/cifar10-jpeg   # where there is network: what the machine lacks
#   bash benchmarks/accelerator.sh run FOLDER OUT                   # there, with the checkout and FOLDER
#
# `carry` puts wheels for Python 3.12 (VERSION=3.13 for another) and CIFAR-10's JPEGs as one file of 57 MB into FOLDER;
# without the second argument there is no CIFAR-10, and the speedrun is skipped. `run` writes pytest.txt, pytest.xml,
# benchmark.txt and benchmark.json into OUT; PYTHON names the interpreter, MINUTES the time for all (10). DEVICE=cpu
# runs all of it on the processor in small sizes, to test the script itself.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

# What a machine with torch, torchvision, numpy, pillow, scipy, matplotlib, tensorboard, rich, jinja2, safetensors,
# filelock, fsspec, pyyaml, pytest and pytest-xdist does not have; the last three and what they need are for the demo.
packages=(hydra-core omegaconf antlr4-python3-runtime fastapi uvicorn python-multipart)

carry() { # FOLDER [JPEGS]
    mkdir -p "$1/wheels"
    "$python" -m pip wheel -q --no-deps -w "$1/wheels" "antlr4-python3-runtime==4.9.*" # there is no wheel of it
    "$python" -m pip download -q --only-binary=:all: --find-links "$1/wheels" -d "$1/wheels" \
        --python-version "${VERSION:-3.12}" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        "${packages[@]}"
    if [ $# -gt 1 ]; then "$python" benchmarks/pack_cifar.py pack "$2" "$1/cifar10.npz"; fi
    du -sh "$1"
}

run() { # FOLDER OUT
    local device=${DEVICE:-cuda} seconds=$((${MINUTES:-10} * 60)) scratch data=() code=0
    scratch=$(mktemp -d)
    trap "rm -rf '$scratch'" EXIT
    mkdir -p "$2"
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$scratch/site" "$1"/wheels/*.whl
    export PYTHONPATH=$PWD/src:$PWD/benchmarks:$scratch/site CNNLAB_CACHE=$scratch/cache PYTHONUNBUFFERED=1
    if [ "$device" != cuda ]; then export CNNLAB_GPU_TESTS=$device; fi
    if [ -f "$1/cifar10.npz" ]; then data=(--data "$1/cifar10.npz"); fi

    timeout $((seconds * 4 / 10)) "$python" -m pytest -v -n 0 -m gpu tests/gpu -p no:cacheprovider --durations=10 \
        --junitxml="$2/pytest.xml" 2>&1 | tee "$2/pytest.txt" || code=$?
    "$python" benchmarks/accelerator.py --device "$device" --minutes $(((seconds - SECONDS - 15) / 6))e-1 \
        "${data[@]}" --out "$2/benchmark.json" 2>&1 | tee "$2/benchmark.txt" || code=$?
    exit "$code"
}

case "${1:-}" in
carry | run)
    "$@"
    ;;
*)
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
