"""recipe=speedrun on CIFAR-10's images, three seeds: seconds of training, accuracy with and without test-time views.

    CNNLAB_DATA=ROOT uv run python benchmarks/speedrun.py [SEEDS] [KEY=VALUE ...]

Whole commands; the seconds of training are the sum over the epochs of what metrics.jsonl says, the rest is start-up,
decoding (once), the test and its views, and the report.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cnnlab.runs.environment import describe


def main() -> None:
    root = Path(os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root")) / "cifar10-jpeg"
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n", flush=True)
    print(
        "| seed | test accuracy | with views | training, s | whole command, s | images/s |\n|---|---|---|---|---|---|"
    )
    rows: list[list[float]] = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "-m", "cnnlab", "train", "data=folder", f"data.root={root}", "recipe=speedrun"]
            words += ["data.val_fraction=0", f"seed={seed}", f"run.dir={folder}/run", *sys.argv[2:]]
            began = time.perf_counter()
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            whole = time.perf_counter() - began
            test = json.loads((Path(folder) / "run" / "test.json").read_text())
            epochs = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
        training = sum(epoch["seconds"] for epoch in epochs)
        rate = statistics.mean(epoch["images_per_second"] for epoch in epochs)
        rows.append([100 * test["accuracy"], 100 * test["views"]["accuracy"], training, whole, rate])
        cells = f"{rows[-1][0]:.2f} % | {rows[-1][1]:.2f} % | {training:.0f} | {whole:.0f} | {rate:,.0f}"
        print(f"| {seed} | {cells} |", flush=True)
    means = [statistics.mean(column) for column in zip(*rows, strict=True)]
    spread = statistics.stdev(row[1] for row in rows) if seeds > 1 else 0.0
    print(
        f"\nmean of {seeds}: {means[0]:.2f} %, with views {means[1]:.2f} ± {spread:.2f} %, {means[2]:.0f} s of training"
    )


if __name__ == "__main__":
    main()
