"""Plain and residual networks of 56 layers, forward and backward at 32 pixels, batch 128: images per second.

    uv run python benchmarks/depth.py

As cnnlab trains them (bf16, channels last, glibc keeping its memory) against the same network in float32, contiguous,
in a process of its own with torch as it comes. The two are timed in turn.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F

from cnnlab.config import TrainerConfig
from cnnlab.models.resnet import ResNet
from cnnlab.runs.environment import describe
from cnnlab.training.precision import Precision, choose_precision, prepare_process

ROUNDS, STEPS, BATCH = 5, 8, 128


class Net:
    """One network and one batch; `run` gives images per second over some steps."""

    def __init__(self, residual: bool, fast: bool) -> None:
        layout = torch.channels_last if fast else torch.contiguous_format
        generator = torch.Generator().manual_seed(0)
        self.model = ResNet(depth=56, residual=residual).to(memory_format=layout)  # type: ignore[call-overload]
        images = torch.randn(BATCH, 3, 32, 32, generator=generator)
        self.images = images.contiguous(memory_format=layout)
        self.labels = torch.randint(0, 10, (BATCH,), generator=generator)
        device = torch.device("cpu")
        self.precision = Precision(choose_precision("auto" if fast else "fp32", device, self.model), device)

    def run(self, steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            with self.precision.autocast():
                logits = self.model(self.images)
            F.cross_entropy(logits.float(), self.labels).backward()
            self.model.zero_grad()
        return steps * BATCH / (time.perf_counter() - began)


def rival(connection: Connection) -> None:
    nets = {residual: Net(residual, fast=False) for residual in (False, True)}
    while task := connection.recv():
        connection.send(nets[task[0]].run(task[1]))


def main() -> None:
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n")
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=rival, args=(there,))
    process.start()
    prepare_process(TrainerConfig())
    print("| 56 layers | float32, contiguous | cnnlab | ratio, paired median |\n|---|---|---|---|")
    for name, residual in (("plain", False), ("residual", True)):
        net, ours, theirs = Net(residual, fast=True), [], []
        for measured in range(-1, ROUNDS):
            here.send((residual, STEPS))
            slow = here.recv()
            quick = net.run(STEPS)
            if measured >= 0:  # the first round warms up
                theirs.append(slow)
                ours.append(quick)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        cells = [f"{statistics.median(v):,.0f} ({min(v):,.0f}–{max(v):,.0f})" for v in (theirs, ours)]
        print(f"| {name} | {cells[0]} | {cells[1]} | {ratio:.2f} |", flush=True)
    here.send(None)
    process.join()


if __name__ == "__main__":
    main()
