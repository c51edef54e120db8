"""Two short recipes under every instruction set of this processor: the accuracy must not depend on it.

    CNNLAB_DATA=ROOT uv run python benchmarks/precision.py [SEEDS]      default 5; about 15 minutes on two cores

Each row is one limit for oneDNN (ONEDNN_MAX_CPU_ISA), or the best set with the factors of Muon's products rounded as
processors with AMX ("bf16 factors") and GPUs ("TF32 factors") round them. A row fails, and with it the command, where
its mean accuracy differs from the first row's by more than three standard errors and two points.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from cnnlab.device import INSTRUCTION_SETS, instruction_set
from cnnlab.runs.environment import describe, processor_name

SETS = ("AVX2", "AVX512_CORE", "AVX512_CORE_BF16")  # beside the best that the processor has
POINTS, ERRORS = 2.0, 3.0
SETTINGS = ["data=folder", "model=resnet", "model.depth=20"]
RECIPES = {
    "photographs": [*SETTINGS, "trainer.epochs=15"],  # 6 classes of Caltech-101 with 40 images each
    "cifar10-jpeg": [*SETTINGS, "trainer.epochs=5"],  # 10 classes with 300 images each
}


def some_of(source: Path, place: Path, classes: int, images: int, seed: int) -> Path:
    """A folder of links to images of some classes, both chosen by the seed."""
    draw = np.random.Generator(np.random.PCG64(seed))
    folders = [
        f for f in sorted(source.iterdir()) if f.name != "BACKGROUND_Google" and len(list(f.iterdir())) >= images
    ]
    for index in draw.choice(len(folders), classes, replace=False):
        (place / folders[index].name).mkdir(parents=True)
        names = sorted(folders[index].iterdir())
        for chosen in draw.choice(len(names), images, replace=False):
            (place / folders[index].name / names[chosen].name).symlink_to(names[chosen].resolve())
    return place


def train(words: list[str], limit: str, rounding: str) -> float:
    """Train in a process of its own; the test accuracy in percent."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, __file__, "train", rounding, *words, f"run.dir={place}/run", "logger=none"]
        environment = os.environ | ({"ONEDNN_MAX_CPU_ISA": limit} if limit else {})
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return float(100 * json.loads(Path(place, "run", "test.json").read_text())["accuracy"])


def train_here(rounding: str, words: list[str]) -> int:
    from cnnlab.cli import main
    from cnnlab.training import muon
    from rounding import rounded_factors

    if rounding != "own":
        muon.short_products = lambda: rounded_factors(rounding)  # type: ignore[assignment]
    return main(["train", *words])


def rows() -> dict[str, tuple[str, str]]:
    """Name of a row → the limit of the instruction set and the rounding of Muon's products."""
    order, best = list(INSTRUCTION_SETS), instruction_set()
    named = [name for name in SETS if best in order and order.index(name) < order.index(best)]
    sets = {name: (name, "own") for name in [*named, best]}
    return sets | {f"{best}, bf16 factors": ("", "bf16"), f"{best}, TF32 factors": ("", "tf32")}


def main() -> int:
    if sys.argv[1:2] == ["train"]:
        return train_here(sys.argv[2], sys.argv[3:])
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    root = Path(os.environ["CNNLAB_DATA"])
    facts = describe()
    machine = facts["machine"]
    print(f"{processor_name(machine)}, {machine['cores']} cores, torch {facts['versions']['torch']}, n = {seeds}\n")
    print(f"| instruction set | {' | '.join(RECIPES)} |\n|---|{'---|' * len(RECIPES)}", flush=True)
    first: dict[str, list[float]] = {}
    failed = False
    with tempfile.TemporaryDirectory() as place:
        photographs, small = root / "caltech101" / "101_ObjectCategories", root / "cifar10-jpeg" / "train"
        folders = {
            "photographs": [some_of(photographs, Path(place, f"p{seed}"), 6, 40, seed) for seed in range(seeds)],
            "cifar10-jpeg": [some_of(small, Path(place, f"c{seed}"), 10, 300, seed) for seed in range(seeds)],
        }
        for row, (limit, rounding) in rows().items():
            cells = []
            for name, words in RECIPES.items():
                accuracies = [
                    train([*words, f"data.root={folders[name][seed]}", f"seed={seed}"], limit, rounding)
                    for seed in range(seeds)
                ]
                reference = first.setdefault(name, accuracies)
                differences = [a - b for a, b in zip(accuracies, reference, strict=True)]
                mean, spread = statistics.mean(differences), statistics.stdev([*differences, 0.0][: max(2, seeds)])
                differs = abs(mean) > max(POINTS, ERRORS * spread / seeds**0.5)
                failed |= differs
                deviation = statistics.stdev(accuracies) if seeds > 1 else 0.0
                cells.append(f"{statistics.mean(accuracies):.1f} ± {deviation:.1f}{' DIFFERS' if differs else ''}")
            print(f"| {row} | {' | '.join(cells)} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
