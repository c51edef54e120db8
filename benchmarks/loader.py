"""The loader alone, side by side with torchvision's data sets in a DataLoader: images a second.

    CNNLAB_DATA=ROOT uv run python benchmarks/loader.py

Each row and its rival are timed in turn, A B A B …, in one process; the table gives medians and the range.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import stock
from cnnlab.config import compose
from cnnlab.data.decode import Layout
from cnnlab.data.load import Data, build_data
from cnnlab.data.sources import open_pictures
from cnnlab.runs.environment import describe

ROUNDS = 5
SECONDS = 3.0


def rate(batches: Iterator[Any], seconds: float = SECONDS) -> float:
    """Images a second over `seconds`, after a first batch that is not counted."""
    next(batches)
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        count += len(next(batches)[0])
    return count / passed


def load(*overrides: str) -> Data:
    return build_data(compose(overrides), torch.device("cpu"))


def ours(data: Data) -> Iterator[Any]:
    while True:
        yield from data.train


def compare(name: str, mine: Iterator[Any], rival: Iterator[Any]) -> None:
    pairs = [(rate(mine), rate(rival)) for _ in range(ROUNDS)]
    a, b = ([pair[i] for pair in pairs] for i in (0, 1))
    ratio = statistics.median(x / y for x, y in pairs)
    print(
        f"| {name} | {statistics.median(a):,.0f} ({min(a):,.0f}–{max(a):,.0f}) |"
        f" {statistics.median(b):,.0f} ({min(b):,.0f}–{max(b):,.0f}) | {ratio:.1f} |",
        flush=True,
    )


def build_times(root: Path) -> None:
    """Time to build the store of Caltech-101 (both layouts), against the rival's first epochs; each in turn."""
    import shutil
    import tempfile

    from cnnlab.data.store import open_stores
    from cnnlab.training.precision import keep_freed_memory

    keep_freed_memory()  # as every run does first
    pictures = open_pictures(compose(["data=caltech101", f"data.root={root}"]).data)
    layouts = [Layout(128, 128, "RGB"), Layout(160, 160, "RGB", "canvas")]
    builds, epochs = [], []
    for _ in range(ROUNDS):
        cache = tempfile.mkdtemp()
        os.environ["CNNLAB_CACHE"] = cache
        began = time.perf_counter()
        open_stores(pictures, layouts)
        builds.append(time.perf_counter() - began)
        shutil.rmtree(cache)
        began = time.perf_counter()
        count = sum(len(labels) for _, labels in stock.caltech(root))
        epochs.append((time.perf_counter() - began) * len(pictures) / count)
    ratios = [build / epoch for build, epoch in zip(builds, epochs, strict=True)]
    print(
        f"Caltech-101 store of {len(pictures):,} pictures: {statistics.median(builds):.1f} s"
        f" ({min(builds):.1f}–{max(builds):.1f}), a stock epoch {statistics.median(epochs):.1f} s"
        f" ({min(epochs):.1f}–{max(epochs):.1f}): {statistics.median(ratios):.2f} epochs"
        f" ({min(ratios):.2f}–{max(ratios):.2f}, n = {ROUNDS})"
    )


def main() -> None:
    root = Path(os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root"))
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n")
    build_times(root)
    os.environ.pop("CNNLAB_CACHE")
    print("\n| loader | cnnlab, images/s | torchvision + DataLoader, 2 workers | ratio |\n|---|---|---|---|")
    folder = load("data=folder", f"data.root={root / 'cifar10-jpeg'}", "augment=standard", "augment.padding=0.125")
    pixels = folder.train.pixels[torch.from_numpy(folder.split.train)][..., :3].numpy()
    labels = folder.pictures.labels[folder.split.train]
    compare("CIFAR-10 crop, flip, normalise", ours(folder), stock.forever(stock.cifar(pixels, labels)))
    mnist = stock.forever(stock.mnist(root))
    compare("MNIST normalise", ours(load("data=mnist", f"data.root={root}", "augment=none")), mnist)
    compare("MNIST turn, zoom, shift, normalise (ours alone)", ours(load("data=mnist", f"data.root={root}")), mnist)
    same = ["data.image_size=128", "data.fit=crop", "augment.flip=random", "augment.scale=[0.08,1]"]
    same += ["augment.start_size=1", "augment.end_size=1"]  # the recipe's pictures grow, the rival's do not
    caltech = load("data=caltech101", f"data.root={root}", "augment=standard", *same)
    compare("Caltech-101 random resized crop to 128, flip", ours(caltech), stock.forever(stock.caltech(root)))


if __name__ == "__main__":
    main()
