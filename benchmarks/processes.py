"""ResNet-20 on 32-pixel pictures, data and all, by two processes of one thread each, beside one process of one thread.

    CNNLAB_DATA=ROOT uv run python benchmarks/processes.py [ROUNDS]

What the two reach in images a second, over twice what the one does: the share of a core's work that is not lost to
their talking and waiting. One process and the pair are timed in turn, on the same batches; while one runs the other
waits. Needs two cores that nobody else uses: the two wait for each other forty times a step.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from cnnlab.config import compose
from cnnlab.data.load import build_data
from cnnlab.runs.environment import describe
from cnnlab.runs.folder import RunFolder
from cnnlab.training.build import build_model
from cnnlab.training.distributed import joined
from cnnlab.training.precision import prepare_process
from cnnlab.training.trainer import Trainer

STEPS, WARM = 12, 4
SETTINGS = {
    "batches of 128": ["trainer.batch_size=128"],
    "batches of 256": ["trainer.batch_size=256"],
    "batches of 128, float32": ["trainer.batch_size=128", "trainer.precision=fp32"],
}


def work(connection: Connection, rank: int, size: int, port: int, words: Sequence[str]) -> None:
    """Train as many steps as asked for, answer with images a second of all processes."""
    if size > 1:
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
        os.environ |= {name: str(value) for name, value in (place | numbers).items()}
    config = compose(words)
    prepare_process(config.trainer)
    with joined("cpu") as group:
        data = build_data(config, torch.device("cpu"), processes=2)  # memory-mapped for all alike
        trainer = Trainer(build_model(config, data), data, config, RunFolder(Path(tempfile.mkdtemp())), group)
        while steps := connection.recv():
            began, count = time.perf_counter(), 0
            for _ in trainer.train_epoch():
                count += 1
                if count == steps:
                    break
            connection.send(count * data.train.batch_size / (time.perf_counter() - began))


class Team:
    """Processes that train together, each told what to do through a pipe."""

    def __init__(self, size: int, words: Sequence[str]) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        pipes = [multiprocessing.Pipe() for _ in range(size)]
        self.connections = [here for here, _ in pipes]
        self.processes = [
            context.Process(target=work, args=(there, rank, size, port, words)) for rank, (_, there) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()

    def train(self, steps: int) -> float:
        """Images a second of all processes together."""
        for connection in self.connections:
            connection.send(steps)
        return statistics.median([connection.recv() for connection in self.connections])

    def close(self) -> None:
        for connection in self.connections:
            connection.send(0)
        for process in self.processes:
            process.join()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    root = str(Path(os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root")) / "cifar10-jpeg")
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\nn = {rounds} rounds of {STEPS} steps\n")
    print("| ResNet-20 | one process, images/s | two processes | two / (2 × one), paired: median (range) |")
    print("|---|---|---|---|", flush=True)
    for name, more in SETTINGS.items():
        words = ["data=folder", f"data.root={root}", "model=resnet", "model.depth=20", "trainer.epochs=1000"]
        teams = [Team(size, [*words, "trainer.threads=1", *more]) for size in (1, 2)]
        rates: list[list[float]] = [[], []]
        for team in teams:
            team.train(WARM)
        for _ in range(rounds):
            for team, list_ in zip(teams, rates, strict=True):
                list_.append(team.train(STEPS))
        for team in teams:
            team.close()
        shares = [two / (2 * one) for one, two in zip(*rates, strict=True)]
        medians = [f"{statistics.median(r):,.0f} ({min(r):,.0f}–{max(r):,.0f})" for r in rates]
        share = f"{100 * statistics.median(shares):.0f} % ({100 * min(shares):.0f}–{100 * max(shares):.0f})"
        print(f"| {name} | {medians[0]} | {medians[1]} | {share} |", flush=True)


if __name__ == "__main__":
    main()
