"""The loader alone, side by side with torchvision's data sets in a DataLoader: images per second.

    CNNLAB_DATA=ROOT uv run python benchmarks/loader.py

Each row and its rival are timed in turn, A B A B …, in one process; the table gives medians and the range.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

import stock
from cnnlab.config import compose
from cnnlab.data.build import build_data
from cnnlab.data.data import Data
from cnnlab.runs.environment import describe
from cnnlab.training.precision import keep_freed_memory

ROUNDS = 5
SECONDS = 3.0
SAME = ["data.image_size=128", "data.fit=crop", "augment.flip=random", "augment.scale=[0.08,1]"]
SAME += ["augment.start_size=1", "augment.end_size=1"]  # the recipe's images grow, the rival's do not


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


def first_epochs(root: Path) -> None:
    """The data of a first epoch of Caltech-101, with all that comes before it (decoding, storing), and of a later one.

    In turn with an epoch of the rival; all scaled to the same number of images.
    """
    keep_freed_memory()  # as every run does first
    rows = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CNNLAB_CACHE"] = cache
            began = time.perf_counter()
            data = load("data=caltech101", f"data.root={root}", "augment=standard", *SAME)
            ready = time.perf_counter()
            passes = [seconds_of(data.train) * len(data.images) / len(data.split.train) for _ in range(2)]
            count = len(data.images)
            del data
        rival = stock.caltech(root)
        rows.append((ready - began + passes[0], passes[1], seconds_of(rival) * count / len(rival.dataset)))
    os.environ.pop("CNNLAB_CACHE")
    first, later = [a / c for a, _, c in rows], [c / b for _, b, c in rows]
    print(
        f"Caltech-101, data alone, n = {ROUNDS}: first epoch {statistics.median(first):.2f} stock epochs"
        f" ({', '.join(f'{ratio:.2f}' for ratio in first)}), later ones {statistics.median(later):.1f} times as fast"
        f" as stock ({min(later):.1f}–{max(later):.1f}); a stock epoch {statistics.median(c for *_, c in rows):.1f} s"
    )


def seconds_of(batches: Iterable[Any]) -> float:
    began = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - began


def main() -> None:
    root = Path(os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root"))
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n")
    first_epochs(root)
    print("\n| loader | cnnlab, images/s | torchvision + DataLoader, 2 workers | ratio |\n|---|---|---|---|")
    folder = load("data=folder", f"data.root={root / 'cifar10-jpeg'}", "augment=standard", "augment.padding=0.125")
    pixels = folder.train.pixels[torch.from_numpy(folder.split.train)][..., :3].numpy()
    labels = folder.images.labels[folder.split.train]
    compare("CIFAR-10 crop, flip, normalise", ours(folder), stock.forever(stock.cifar(pixels, labels)))
    mnist = stock.forever(stock.mnist(root))
    compare("MNIST normalise", ours(load("data=mnist", f"data.root={root}", "augment=none")), mnist)
    compare("MNIST turn, zoom, shift, normalise (ours alone)", ours(load("data=mnist", f"data.root={root}")), mnist)
    caltech = load("data=caltech101", f"data.root={root}", "augment=standard", *SAME)
    compare("Caltech-101 random resized crop to 128, flip", ours(caltech), stock.forever(stock.caltech(root)))


if __name__ == "__main__":
    main()
