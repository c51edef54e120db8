"""ResNet-20 on 32-pixel images, data and all: two processes that train together, one thread each, beside others.

    CNNLAB_DATA=ROOT uv run python benchmarks/processes.py [ROUNDS]

Images a second of four ways to use the two cores, timed in turn on batches of the same number of images, while the
others wait: one process with one thread (the other core rests), one process with two threads, two processes with a
thread each that train together, and two that know nothing of each other (what sharing the memory and the caches alone
costs). Needs two cores that nobody else uses: those that train together wait for each other forty times a step.
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
from cnnlab.data.build import build_data
from cnnlab.runs.environment import describe
from cnnlab.runs.folder import RunFolder
from cnnlab.training.build import build_model
from cnnlab.training.distributed import joined
from cnnlab.training.precision import prepare_process
from cnnlab.training.trainer import Trainer

STEPS, WARM = 12, 4
SETTINGS = {
    "batches of 128": ["trainer.batch_size=128"],
    "batches of 512": ["trainer.batch_size=512"],
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

    def begin(self, steps: int) -> None:
        for connection in self.connections:
            connection.send(steps)

    def end(self) -> float:
        """Images a second of all processes together."""
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
    print(f"{machine['machine']}\n{machine['versions']}")
    print(f"images/s; n = {rounds} rounds of {STEPS} steps: medians, and medians (ranges) of paired ratios\n")
    print("| ResNet-20 | 1 process × 1 thread | 1 × 2 threads | 2 together × 1 | 2 apart × 1 | ", end="")
    print("together / (2 × one) | apart / (2 × one) | together / two threads |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, more in SETTINGS.items():
        words = ["data=folder", f"data.root={root}", "model=resnet", "model.depth=20", "trainer.epochs=1000", *more]
        narrow, wide = [*words, "trainer.threads=1"], [*words, "trainer.threads=2"]
        ways = [[Team(1, narrow)], [Team(1, wide)], [Team(2, narrow)], [Team(1, narrow), Team(1, narrow)]]
        for way in ways:
            rate(way, WARM)
        rows = [[rate(way, STEPS) for way in ways] for _ in range(rounds)]
        for team in (team for way in ways for team in way):
            team.close()
        rates = [f"{statistics.median(column):,.0f}" for column in zip(*rows, strict=True)]
        shares = [[together / (2 * one), apart / (2 * one), together / two] for one, two, together, apart in rows]
        cells = [
            f"{100 * statistics.median(column):.0f} % ({100 * min(column):.0f}–{100 * max(column):.0f})"
            for column in zip(*shares, strict=True)
        ]
        print(f"| {name} | {' | '.join(rates + cells)} |", flush=True)


def rate(teams: Sequence[Team], steps: int) -> float:
    """Images a second of teams that work at the same time."""
    for team in teams:
        team.begin(steps)
    return sum(team.end() for team in teams)


if __name__ == "__main__":
    main()
