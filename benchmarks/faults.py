"""Kill a run with SIGKILL at random moments and resume it until it is done; it must end as an unbroken one does.

    uv run python benchmarks/faults.py [KILLS]

Compared: the best weights, byte for byte, and metrics.jsonl but for times. One kill is aimed at the writing of a
checkpoint, one at the building of a store.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

TIMES = ("seconds", "images_per_second")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cnnlab.cli", *words]


def rows(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def same(run: Path, reference: Path) -> bool:
    weights = [(folder / "best" / "model.safetensors").read_bytes() for folder in (run, reference)]
    return weights[0] == weights[1] and rows(run) == rows(reference)


def kill_after(words: list[str], environment: dict[str, str], moment: object) -> bool:
    """Start a command and SIGKILL it after `moment` seconds, or as soon as the path pattern `moment` matches.

    Returns whether the kill came before the command's own end.
    """
    process = subprocess.Popen(command(*words), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began = time.monotonic()
    while process.poll() is None:
        if isinstance(moment, float):
            hit = time.monotonic() - began >= moment
        else:
            folder, pattern = moment  # type: ignore[misc]
            hit = any(Path(folder).glob(pattern)) or time.monotonic() - began > 60
        if hit:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.0005)
    return process.wait() == -signal.SIGKILL


def make_pictures(root: Path, count: int = 300) -> None:
    random_numbers = np.random.Generator(np.random.PCG64(0))
    for label in ("left", "right"):
        (root / label).mkdir(parents=True)
        for i in range(count):
            pixels = random_numbers.integers(0, 120, (300, 400, 3), dtype=np.uint8)
            part = slice(0, 200) if label == "left" else slice(200, 400)
            pixels[:, part] += 100
            Image.fromarray(pixels).save(root / label / f"{i:04}.jpg")


def main() -> int:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    work = Path(tempfile.mkdtemp(prefix="cnnlab-faults-"))
    environment = os.environ | {"CNNLAB_CACHE": str(work / "cache")}
    make_pictures(work / "pictures")
    settings = ["train", "data=folder", f"data.root={work / 'pictures'}", "data.image_size=32", "augment=strong"]
    settings += [
        "model=resnet",
        "model.depth=8",
        "trainer.epochs=6",
        "trainer.batch_size=32",
        "trainer.checkpoint_minutes=0.005",
    ]
    reference = work / "unbroken"
    whole = 0.0
    for run in (reference, work / "unbroken again"):  # the second finds the store built: the length of the runs below
        began = time.monotonic()
        words = command(*settings, f"run.dir={run}")
        subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        whole = time.monotonic() - began
    print(f"two unbroken runs identical: {same(work / 'unbroken again', reference)}")
    chance = random.Random(0)
    held = 0
    print(f"unbroken run: {whole:.1f} s")
    for number in range(kills):
        run = work / f"run-{number:02}"
        if number == 0:  # while the store is built
            shutil.rmtree(work / "cache")
            moment: object = (work / "cache" / "store", "*.building/pixels.u8")
        elif number == 1:  # while a checkpoint is written
            moment = (run / "last", ".state.pt.*.tmp")
        else:
            moment = chance.uniform(0.2, 0.9) * whole
        while not kill_after([*settings, f"run.dir={run}"], environment, moment):
            shutil.rmtree(run)  # it was done before the kill: that would prove nothing
            moment = chance.uniform(0.2, 0.9) * whole
        words = ["resume", str(run)] if (run / "config.yaml").exists() else [*settings, f"run.dir={run}"]
        if number % 3 == 2 and (run / "config.yaml").exists():  # a second kill, in the resumed run
            kill_after(words, environment, chance.uniform(0.3, 0.8) * whole)
        done = subprocess.run(command(*words), env=environment, capture_output=True, text=True)
        good = done.returncode == 0 and same(run, reference)
        held += good
        at = moment if isinstance(moment, float) else moment[1]  # type: ignore[index]
        print(
            f"kill {number + 1:2} at {at if isinstance(at, str) else f'{at:.2f} s'}: identical={good}",
            flush=True,
        )
        if not good:
            print(done.stderr)
    print(f"{held} of {kills} runs ended bit-identical to the unbroken one")
    shutil.rmtree(work)
    return 0 if held == kills else 1


if __name__ == "__main__":
    sys.exit(main())
