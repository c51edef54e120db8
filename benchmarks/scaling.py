"""How cost grows: time and memory against number of images, size of images, and processes side by side. A plot.

    CNNLAB_DATA=ROOT uv run python benchmarks/scaling.py [docs/scaling.png]

Every point is a whole command in a process of its own with its own cache: `cnnlab train data=folder` for two epochs on
photographs of Caltech-101, repeated until there are as many as the point wants. Times of decoding and of the second
epoch are taken from what the command itself reports; memory is the most that was resident.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cnnlab.runs.environment import describe

COUNTS, SIZES, PROCESSES = (2000, 4000, 8000, 16000), (64, 96, 128, 192), (1, 2)
FIXED = [
    "model=vgg",
    "model.width=8",
    "model.stem_stride=2",
    "augment=standard",
    "logger=none",
    "trainer.epochs=2",
    "data.val_fraction=0",
]
MEASURED = """
import json, resource, sys, time
import cnnlab.data.pixels as opened
began = {}
build = opened.open_stores
def timed(*arguments):
    start = time.perf_counter()
    stores = build(*arguments)
    began["decoding"] = time.perf_counter() - start
    return stores
opened.open_stores = timed
from cnnlab.cli import main
code = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"code": code, "peak": peak, **began}))
"""


def images(root: Path, source: Path, count: int) -> Path:
    """A folder of `count` photographs in four classes: links to those of the source, again and again."""
    files = sorted(source.glob("[!B]*/*.jpg"))
    for i in range(count):
        target = root / "abcd"[i % 4] / f"{i:06}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(files[(i * 7919) % len(files)], target)
    return root


def start(root: Path, work: Path, size: int, *more: str) -> subprocess.Popen[str]:
    words = ["train", "data=folder", f"data.root={root}", f"data.image_size={size}", f"run.dir={work / 'run'}"]
    environment = os.environ | {"CNNLAB_CACHE": str(work / "cache")}
    command = [sys.executable, "-c", MEASURED, *words, *FIXED, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def facts(process: subprocess.Popen[str], work: Path) -> dict[str, Any]:
    said, _ = process.communicate()
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    assert result["code"] == 0, said
    rows = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    return result | {"epoch": rows[-1]["seconds"], "rate": rows[-1]["images_per_second"]}


def measure(source: Path, count: int, size: int, processes: int = 1, *more: str) -> dict[str, float]:
    """Medians over the processes; `rate` is their sum."""
    work = Path(tempfile.mkdtemp(prefix="cnnlab-scaling-"))
    try:
        root = images(work / "images", source, count)
        began = time.perf_counter()
        running = [(start(root, work / str(i), size, *more), work / str(i)) for i in range(processes)]
        done = [facts(process, folder) for process, folder in running]
        whole = time.perf_counter() - began
    finally:
        shutil.rmtree(work)
    values = {key: statistics.median(d[key] for d in done) for key in ("decoding", "epoch", "peak")}
    return values | {"rate": sum(d["rate"] for d in done), "whole": whole}


def line(x: Any, y: Any) -> tuple[float, float]:
    """Slope and intercept of the least-squares line."""
    slope, constant = np.polyfit(np.asarray(x, float), np.asarray(y, float), 1)
    return float(slope), float(constant)


def main() -> None:
    data = Path(os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root"))
    source = data / "caltech101" / "101_ObjectCategories"
    target = sys.argv[1] if len(sys.argv) > 1 else "docs/scaling.png"
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n", flush=True)
    print("| images | size | storage | decoding, s | an epoch, s | images/s | whole command, s | peak memory, MB |")
    print("|---|---|---|---|---|---|---|---|")

    def row(count: int, size: int, storage: str) -> dict[str, float]:
        values = measure(source, count, size, 1, f"data.storage={storage}")
        print(
            f"| {count:,} | {size} | {storage} | {values['decoding']:.1f} | {values['epoch']:.2f}"
            f" | {values['rate']:,.0f} | {values['whole']:.1f} | {values['peak'] / 1e6:,.0f} |",
            flush=True,
        )
        return values

    by_count = {storage: [row(count, 64, storage) for count in COUNTS] for storage in ("memory", "mmap")}
    by_size = [row(COUNTS[0], size, "mmap") for size in SIZES]
    together = {}
    for processes in PROCESSES:
        together[processes] = measure(source, COUNTS[0], 64, processes, "trainer.threads=1")
        print(f"\n{processes} of one thread side by side: {together[processes]['rate']:,.0f} images/s together", end="")
    print("\n")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 3.6), layout="constrained")
    left, middle, right, last = figure.subplots(1, 4)
    train = [0.8 * count for count in COUNTS]  # a fifth is the test split
    for axis, key, label in ((left, "decoding", "decoding"), (left, "epoch", "an epoch")):
        xs = COUNTS if key == "decoding" else train
        ys = [values[key] for values in by_count["mmap"]]
        slope, constant = line(xs, ys)
        axis.plot(COUNTS, ys, "o-", label=f"{label}: {1e3 * slope:.2f} ms per image {constant:+.2f} s")
        print(f"{label}: {1e3 * slope:.3f} ms per image, {constant:.2f} s constant")
    left.set(xlabel="images", ylabel="seconds", title="time, 64 pixels")
    for storage, values in by_count.items():
        ys = [v["peak"] / 1e6 for v in values]
        slope, constant = line(COUNTS, ys)
        middle.plot(COUNTS, ys, "o-", label=f"{storage}: {1e3 * slope:.1f} kB per image {constant:+,.0f} MB")
        print(f"peak memory, {storage}: {1e3 * slope:.1f} kB per image, {constant:,.0f} MB constant")
    middle.set(xlabel="images", ylabel="MB", title="peak memory, 64 pixels")
    pixels = [size * size / 1e3 for size in SIZES]
    for key, label in (("decoding", "decoding"), ("epoch", "an epoch")):
        ys = [values[key] for values in by_size]
        slope, constant = line(pixels, ys)
        right.plot(pixels, ys, "o-", label=f"{label}: {slope:.3f} s per thousand pixels {constant:+.2f} s")
        print(f"{label} of {COUNTS[0]:,} images: {slope:.3f} s per thousand pixels, {constant:.2f} s constant")
    right.set(xlabel="thousand pixels an image", ylabel="seconds", title=f"time, {COUNTS[0]:,} images")
    last.bar([str(p) for p in PROCESSES], [together[p]["rate"] for p in PROCESSES])
    last.set(xlabel="processes of one thread", ylabel="images/s together", title="side by side")
    for axis in (left, middle, right):
        axis.locator_params(axis="x", nbins=4)
        axis.set_xlim(left=0)
        axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
        axis.legend(fontsize=7, loc="upper left")
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
