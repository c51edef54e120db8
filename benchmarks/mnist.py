"""MNIST from the command to the result, in turn with the well-known first example (stock_mnist.py): seconds, accuracy.

    CNNLAB_DATA=ROOT uv run python benchmarks/mnist.py [RUNS of the example]

Both are whole commands: imports, reading the files, training, test. Ours also writes its run folder with the report.
Images are decoded beforehand by neither: MNIST's files hold arrays.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cnnlab.runs.environment import describe

SEEDS = 5
RECIPES = {
    "recipe=speedrun_mnist, 1 epoch": ["recipe=speedrun_mnist", "trainer.epochs=1"],
    "recipe=speedrun_mnist": ["recipe=speedrun_mnist"],
    "recipe=speedrun_mnist, 5 epochs": ["recipe=speedrun_mnist", "trainer.epochs=5"],
}


def timed(words: list[str]) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
    return time.perf_counter() - began, done.stdout


def main() -> None:
    root = os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root")
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n", flush=True)
    example = str(Path(__file__).with_name("stock_mnist.py"))
    seconds: dict[str, list[float]] = {"example": [], **{name: [] for name in RECIPES}}
    accuracies: dict[str, list[float]] = {name: [] for name in seconds}

    def ours(name: str, seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            words = ["-m", "cnnlab", "train", "data=mnist", f"data.root={root}", f"seed={seed}", "data.val_fraction=0"]
            took, _ = timed([*words, *RECIPES[name], f"run.dir={folder}/run"])
            seconds[name].append(took)
            accuracies[name].append(json.loads((Path(folder) / "run" / "test.json").read_text())["accuracy"])

    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1  # a quarter of an hour each
    for seed in range(SEEDS):
        for name in RECIPES:
            ours(name, seed)
        if seed < runs:
            took, said = timed([example, root])
            seconds["example"].append(took)
            accuracies["example"].append(float(re.findall(r"[\d.]+$", said.strip())[-1]))
        print(f"seed {seed}:", {name: [round(took, 1) for took in all_] for name, all_ in seconds.items()}, flush=True)
    reference = statistics.median(seconds["example"])
    print("| command | n | seconds, median (range) | of the example's | test accuracy, median (range) |")
    print("|---|---|---|---|---|")
    for name, took in seconds.items():
        right = accuracies[name]
        print(
            f"| {name} | {len(took)} | {statistics.median(took):.1f} ({min(took):.1f}–{max(took):.1f})"
            f" | 1/{reference / statistics.median(took):.1f}"
            f" | {100 * statistics.median(right):.2f} % ({100 * min(right):.2f}–{100 * max(right):.2f}) |"
        )


if __name__ == "__main__":
    main()
