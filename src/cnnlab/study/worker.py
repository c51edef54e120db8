"""A process that trains one run of a study after the other, as its parent asks, and tells what happens.

It imports everything once, so that a short run costs its training and not a start. Where its parent dies, it ends at
once: a study that is called again finds no stranger training in its folders. What a run would print goes to a log.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, Protocol

from cnnlab.errors import CnnlabError, Interrupted, NonFiniteLoss
from cnnlab.runs.files import separate
from cnnlab.tracking.base import EpochEnded, Event, Started, Stepped


@dataclass(frozen=True)
class Order:
    """What a worker is asked for: to train a run to its end, or (without a folder) to try whether it could begin.

    A `trial` of a search is judged on the validation split and not tested.
    """

    config: dict[str, Any]
    folder: Path | None
    threads: int
    test_on: tuple[str, ...] = ()
    trial: bool = False


@dataclass(frozen=True)
class Stop:
    """The parent asks that the run in progress saves its state and ends."""


@dataclass(frozen=True)
class Moved:
    """A run is this far: epochs done, of how many, the share of the current one, and a figure to watch."""

    epoch: int
    epochs: int
    share: float
    accuracy: float | None
    row: dict[str, Any] | None = None


@dataclass(frozen=True)
class Decoded:
    """So many of the pictures are decoded."""

    done: int
    total: int


@dataclass(frozen=True)
class Ended:
    """A run ended. `kind`: done, diverged, interrupted, wrong (the user's to fix) or crashed.

    `untested`: it was tried alone, and will have no test images.
    """

    kind: str
    message: str = ""
    untested: bool = False


class Pipe(Protocol):
    """The way to the parent: a pipe of this machine, or a message through a cluster."""

    def send(self, message: Any, /) -> None: ...


class Reporter:
    """A tracker that tells the parent; `stopped` says whether the parent has asked for an end."""

    def __init__(self, pipe: Pipe, stopped: Callable[[], bool] = lambda: False) -> None:
        self.pipe, self.stopped, self.started = pipe, stopped, Started("", {}, {}, 1, 0, 1)
        self.accuracy: float | None = None

    def log(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started = event
            self.pipe.send(Moved(event.epoch, event.epochs, 0.0, None))
        elif isinstance(event, Stepped):
            share = min(1.0, event.step / self.started.steps_per_epoch)
            self.pipe.send(Moved(event.epoch, self.started.epochs, share, self.accuracy))
        elif isinstance(event, EpochEnded):
            row = event.row
            self.accuracy = row["train_accuracy"] if row["val_accuracy"] is None else row["val_accuracy"]
            self.pipe.send(Moved(row["epoch"], self.started.epochs, 0.0, self.accuracy, row))
        if isinstance(event, Stepped | EpochEnded) and self.stopped():
            signal.raise_signal(signal.SIGTERM)  # the loop listens for it now, and does not before and after

    def decoded(self, done: int, total: int) -> None:
        self.pipe.send(Decoded(done, total))

    def close(self) -> None:
        pass


def serve(pipe: connection.Connection, log: Path, device: str | None = None) -> None:
    """The worker's life: an `Order` comes, `Moved` and one `Ended` go, until the pipe is closed.

    Args:
        device: where several accelerators are there, the one of this worker.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is for the parent alone, who tells us
    _write_to(log)
    while True:
        try:
            order = pipe.recv()
        except (EOFError, OSError):
            return
        if isinstance(order, Stop):  # it came too late
            continue
        pipe.send(carry_out(order, Reporter(pipe, lambda: _has_come(pipe)), device))
        gc.collect()


def _has_come(pipe: connection.Connection) -> bool:
    """Whether the parent has sent a `Stop`: while a run is in progress it sends nothing else."""
    try:
        return pipe.poll() and isinstance(pipe.recv(), Stop)
    except (EOFError, OSError):
        return False


def carry_out(order: Order, reporter: Reporter, device: str | None = None) -> Ended:
    """Train and test one run, or go on with it; never raise."""
    name = order.folder.name if order.folder else "check"
    print(f"--- {name}", flush=True)
    try:
        untested = _train(order, reporter, device)
    except Interrupted as stop:
        return Ended("interrupted", str(stop))
    except NonFiniteLoss as error:
        return Ended("diverged", str(error))
    except CnnlabError as error:
        return Ended("wrong", str(error))
    except KeyboardInterrupt:
        return Ended("interrupted")
    except Exception as error:  # one run's failure is not the study's
        traceback.print_exc()
        sys.stderr.flush()
        return Ended("crashed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return Ended("done", untested=untested)


def _train(order: Order, reporter: Reporter, device: str | None) -> bool:
    """Whether it was a trial of a run that will have no test images."""
    import torch

    from cnnlab.config import from_dict
    from cnnlab.experiment import resume_experiment, run_experiment, try_experiment
    from cnnlab.training.build import runs_own_code

    config = from_dict(order.config)
    trainer = config.trainer
    if device is not None and trainer.device == "auto":
        trainer = dataclasses.replace(trainer, device=device)
    threads = trainer.threads or order.threads
    config = dataclasses.replace(config, trainer=dataclasses.replace(trainer, threads=threads))
    torch.set_num_threads(threads)
    if order.folder is None:
        tests = try_experiment(config, reporter.decoded, validates=order.trial)
        return not tests and not order.test_on
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(order.folder)))
    if (order.folder / "config.yaml").exists():
        resume_experiment(order.folder, [reporter], trust_code=runs_own_code(config), test=not order.trial)
    else:
        run_experiment(config, [reporter], command=["cnnlab", "study"], test=not order.trial)
    if order.test_on and not order.trial:
        test_elsewhere(order.folder, order.test_on, runs_own_code(config))
    return False


def test_elsewhere(folder: Path, words: Sequence[str], trust_code: bool = False) -> None:
    """Test a run on the set that the study names, unless that is done or is the run's own."""
    from cnnlab.config import data_keys
    from cnnlab.evaluation.evaluate import evaluate, file_name
    from cnnlab.runs.folder import RunFolder, read_config

    name = set_named(words)
    config = read_config(RunFolder(folder))
    if config.data.name == name or (folder / f"evaluation-test-{file_name(name)}.json").exists():
        return
    keys = {"limit": config.data.limit, **data_keys([word for word in words if not word.startswith("data=")])}
    evaluate(folder, data=name, trust_code=trust_code, **keys)


def set_named(words: Sequence[str]) -> str:
    """["data=mnist_m", …] → "mnist_m"."""
    return next(word.removeprefix("data=") for word in words if word.startswith("data="))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _write_to(log: Path) -> None:
    """Standard output and error of this process go to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    separate(log)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(handle, number)
    os.close(handle)
