"""Training ResNet-20 on 32-pixel images, data and all, side by side with the tutorials' loop: images per second.

    CNNLAB_DATA=ROOT uv run python benchmarks/training.py

The rivals, each over a DataLoader with two workers and in a process of its own, so that it gets torch as it comes: the
tutorials' float32 loop, and the same with transforms v2, bfloat16, channels last, a fused step and torch.compile. The
loops are timed in turn; while one runs the others wait.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import stock
from cnnlab.config import compose
from cnnlab.data.build import build_data
from cnnlab.data.data import Data
from cnnlab.models.resnet import ResNet
from cnnlab.runs.environment import describe
from cnnlab.runs.folder import RunFolder
from cnnlab.training.build import build_model
from cnnlab.training.precision import prepare_process
from cnnlab.training.trainer import Trainer

ROUNDS, STEPS, WARM = 5, 40, 10


def load(root: str, *more: str) -> Data:
    words = ["data=folder", f"data.root={root}", "model=resnet", "model.depth=20", "trainer.epochs=1000", *more]
    return build_data(compose(words), torch.device("cpu"))


def rival(connection: Connection, root: str, tuned: bool) -> None:
    """Train as many steps as asked for, answer with images per second."""
    data = load(root)
    pixels = data.train.pixels[torch.from_numpy(data.split.train)][..., :3].numpy()
    make = stock.cifar_v2 if tuned else stock.cifar
    batches = stock.forever(make(pixels, data.images.labels[data.split.train]))
    model: Any = ResNet(depth=20)
    if not tuned:
        while steps := connection.recv():
            connection.send(stock.train_steps(model, batches, steps))
        return
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True)
    model = torch.compile(model)
    while steps := connection.recv():
        connection.send(stock.train_tuned_steps(model, optimizer, batches, steps))


class Rival:
    def __init__(self, root: str, tuned: bool) -> None:
        self.pipe, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=rival, args=(there, root, tuned))
        self.process.start()

    def train(self, steps: int) -> float:
        self.pipe.send(steps)
        return float(self.pipe.recv())


def main() -> None:
    root = str(Path(os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root")) / "cifar10-jpeg")
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n")
    rivals = {"stock": Rival(root, tuned=False), "stock, v2, bf16, channels last, compiled": Rival(root, tuned=True)}
    for one in rivals.values():
        one.train(WARM)
    trainers = {}
    for name, more in (("cnnlab", ["trainer.compile=false"]), ("cnnlab, compiled", ["trainer.compile=true"])):
        data = load(root, *more)
        prepare_process(data.config.trainer)
        trainers[name] = Trainer(build_model(data.config, data), data, data.config, RunFolder(Path(tempfile.mkdtemp())))
        train_steps(trainers[name], WARM)
    rates: dict[str, list[float]] = {name: [] for name in (*rivals, *trainers)}
    for _ in range(ROUNDS):
        for name, one in rivals.items():
            rates[name].append(one.train(STEPS))
        for name, trainer in trainers.items():
            rates[name].append(train_steps(trainer, STEPS))
    for one in rivals.values():
        one.pipe.send(0)
        one.process.join()
    print("| loop | images/s, median (range) | ratio to stock, paired median |\n|---|---|---|")
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, rates["stock"], strict=True))
        print(f"| {name} | {statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f}) | {ratio:.2f} |")


def train_steps(trainer: Trainer, steps: int) -> float:
    """Images a second of our own loop over `steps` steps."""
    began, left = time.perf_counter(), steps
    while left:
        for _ in trainer.train_epoch():
            left -= 1
            if not left:
                break
        else:
            trainer.state.epoch, trainer.state.batch = trainer.state.epoch + 1, 0
    return steps * trainer.data.train.batch_size / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
