"""Training ResNet-20 on 32-pixel pictures, data and all, side by side with the tutorials' loop: images a second.

    CNNLAB_DATA=ROOT uv run python benchmarks/training.py

The rival: a plain float32 loop over torchvision transforms and a DataLoader with two workers. Timed in turn.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

import stock
from cnnlab.config import compose
from cnnlab.data.load import build_data
from cnnlab.experiment import build_model
from cnnlab.models.resnet import ResNet
from cnnlab.runs.environment import describe
from cnnlab.runs.folder import RunFolder
from cnnlab.training.precision import prepare_process
from cnnlab.training.trainer import Trainer

ROUNDS, STEPS = 5, 40


def main() -> None:
    root = Path(os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root")) / "cifar10-jpeg"
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n")
    base = ["data=folder", f"data.root={root}", "model=resnet", "model.depth=20", "trainer.epochs=1000"]
    rates: dict[str, list[float]] = {"stock": [], "cnnlab, eager": [], "cnnlab, compiled": []}
    config = compose(base)
    data = build_data(config, torch.device("cpu"))
    pixels = data.train.pixels[torch.from_numpy(data.split.train)][..., :3].numpy()
    rival = stock.forever(stock.cifar(pixels, data.pictures.labels[data.split.train]))
    rival_model = ResNet(depth=20)
    stock.train_steps(rival_model, rival, 5)  # before our settings of the process: the rival gets torch as it comes
    stock_first = stock.train_steps(rival_model, rival, STEPS)
    prepare_process(config.trainer)
    trainers = {}
    for name, flag in (("cnnlab, eager", "false"), ("cnnlab, compiled", "true")):
        config = compose([*base, f"trainer.compile={flag}"])
        trainers[name] = Trainer(build_model(config, data), data, config, RunFolder(Path(tempfile.mkdtemp())))
        train_steps(trainers[name], 10)
    for _ in range(ROUNDS):
        rates["stock"].append(stock.train_steps(rival_model, rival, STEPS))
        for name, trainer in trainers.items():
            rates[name].append(train_steps(trainer, STEPS))
    print(f"stock, before cnnlab prepared the process: {stock_first:,.0f} images/s\n")
    print("| loop | images/s, median (range) | ratio to stock, paired |\n|---|---|---|")
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, rates["stock"], strict=True))
        print(f"| {name} | {statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f}) | {ratio:.2f} |")


def train_steps(trainer: Trainer, steps: int) -> float:
    """Images a second of our own loop over `steps` steps."""
    began, count = time.perf_counter(), 0
    for _ in trainer.train_epoch():
        count += trainer.data.train.batch_size
        steps -= 1
        if not steps:
            break
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
