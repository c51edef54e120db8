"""Every side-by-side benchmark, one after the other, as one page of tables.

    CNNLAB_DATA=ROOT uv run python benchmarks/run.py [NAME ...] > page.md

Without names all of them run, about an hour and a half on two cores; leave the machine alone meanwhile.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

TITLES = {
    "loader": "The loader alone, and the store, beside torchvision and a DataLoader",
    "training": "ResNet-20 on 32-pixel images, data and all, beside the tutorials' loop",
    "convolutions": "Many filters over small maps, beside torch's convolution",
    "photographs": "ResNet-18 on photographs, data and all, beside fastai and a careful script",
    "precision": "Accuracy under every instruction set of the processor",
    "depth": "56 layers, forward and backward, beside float32",
    "mnist": "MNIST from command to result, beside the well-known example",
    "speedrun": "CIFAR-10's images in the shortest time",
    "memory": "Images that do not fit in memory, beside resident ones",
    "scaling": "How cost grows",
    "export": "ResNet-20 as PyTorch runs it, as ONNX, and in 8 bits",
    "serve": "The demonstration under load, with micro-batches and without",
}


def main() -> int:
    names = sys.argv[1:] or list(TITLES)
    unknown = [name for name in names if name not in TITLES]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known: {', '.join(TITLES)}", file=sys.stderr)
        return 2
    failed = []
    for name in names:
        print(f"## {TITLES[name]}\n", flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))])
        print(f"\n{name}: {time.monotonic() - began:.0f} s\n", flush=True)
        failed += [name] if done.returncode else []
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
