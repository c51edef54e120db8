"""A worker process that trains the runs of a study one after the other and reports progress to its parent.

It imports everything once, so that a short run costs its training and not a process start. It ends as soon as its
parent does, so that no old process trains in the folders of a study that is started again. Output goes to a log file.
"""

from __future__ import annotations

import dataclasses
import gc
import os
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
class RunRequest:
    """What the parent asks a worker for: train a run to its end, or (folder None) only check that it could start.

    A `trial` of a search is judged on the validation split and not tested.
    """

    config: dict[str, Any]
    folder: Path | None
    threads: int
    test_on: tuple[str, ...] = ()
    trial: bool = False


@dataclass(frozen=True)
class StopRequest:
    """The parent asks that the run in progress saves its state and ends."""


@dataclass(frozen=True)
class RunProgress:
    """Epochs done of `epochs`, the fraction of the current one, the accuracy to show, the row of a finished epoch."""

    epoch: int
    epochs: int
    fraction: float
    accuracy: float | None
    row: dict[str, Any] | None = None


@dataclass(frozen=True)
class DecodeProgress:
    """Images decoded of `total`."""

    done: int
    total: int


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `status`: done, diverged, interrupted, wrong (an error of the user), crashed or killed.

    `untested`: only checked, and it will have no test images.
    """

    status: str
    message: str = ""
    untested: bool = False


class Channel(Protocol):
    """The way to the parent: a pipe on this machine, or an actor of a cluster."""

    def send(self, message: Any, /) -> None: ...


class Reporter:
    """A tracker that sends progress to the parent."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.started = channel, Started("", {}, {}, 1, 0, 1)
        self.accuracy: float | None = None

    def log(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started = event
            self.channel.send(RunProgress(event.epoch, event.epochs, 0.0, None))
        elif isinstance(event, Stepped):
            fraction = min(1.0, event.step / self.started.steps_per_epoch)
            self.channel.send(RunProgress(event.epoch, self.started.epochs, fraction, self.accuracy))
        elif isinstance(event, EpochEnded):
            row = event.row
            self.accuracy = row["train_accuracy"] if row["val_accuracy"] is None else row["val_accuracy"]
            self.channel.send(RunProgress(row["epoch"], self.started.epochs, 0.0, self.accuracy, row))

    def decoded(self, done: int, total: int) -> None:
        self.channel.send(DecodeProgress(done, total))

    def close(self) -> None:
        pass


def worker_main(pipe: connection.Connection, log: Path, device: str | None = None) -> None:
    """The main loop of a worker process: each `RunRequest` is answered by `RunProgress` messages and one `RunResult`,
    until the pipe is closed.

    Args:
        device: of this worker, where there are several accelerators.
    """
    gc.set_threshold(50_000, 20, 50)  # as a command has it, while it imports torch (cli/program.py)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the parent alone, which passes it on
    _redirect_output(log)
    while True:
        try:
            request = pipe.recv()
        except (EOFError, OSError):
            return
        if isinstance(request, StopRequest):  # it came after the end of its run
            continue
        pipe.send(execute_request(request, Reporter(pipe), device, lambda: _stop_requested(pipe)))


def _stop_requested(pipe: connection.Connection) -> bool:
    """Whether the parent has sent a `StopRequest`, the only message it sends while a run is in progress."""
    try:
        return pipe.poll() and isinstance(pipe.recv(), StopRequest)
    except (EOFError, OSError):
        return False


def execute_request(
    request: RunRequest,
    reporter: Reporter,
    device: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Train and test a run, or resume it; never raises.

    Args:
        should_stop: whether the parent has asked the run to end.
    """
    name = request.folder.name if request.folder else "check"
    print(f"--- {name}", flush=True)
    try:
        untested = _train(request, reporter, device, should_stop)
    except Interrupted as stop:
        return RunResult("interrupted", str(stop))
    except NonFiniteLoss as error:
        return RunResult("diverged", str(error))
    except CnnlabError as error:
        return RunResult("wrong", str(error))
    except KeyboardInterrupt:
        return RunResult("interrupted")
    except Exception as error:  # the failure of one run does not end the study
        traceback.print_exc()
        sys.stderr.flush()
        return RunResult("crashed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    finally:
        _free_memory()
    return RunResult("done", untested=untested)


def _free_memory() -> None:
    """Leave nothing of a run in the memory of the machine or the GPU: the next one may need all of it."""
    from cnnlab.training.precision import give_back_freed_memory

    gc.collect()
    if not gc.get_freeze_count():  # after the first run
        gc.freeze()  # what is left stays, torch above all: to go through it after each run took longer than a small run
    give_back_freed_memory()


def _train(request: RunRequest, reporter: Reporter, device: str | None, should_stop: Callable[[], bool]) -> bool:
    """Whether this was only a check, of a run that will have no test images."""
    import torch

    from cnnlab.config import from_dict
    from cnnlab.experiment import resume_experiment, run_experiment, try_experiment
    from cnnlab.training.build import runs_own_code

    config = from_dict(request.config)
    trainer = config.trainer
    if device is not None and trainer.device in ("auto", "cuda"):
        torch.cuda.set_device(device)  # config.yaml does not name it: a resume may find other GPUs
    threads = trainer.threads or request.threads
    config = dataclasses.replace(config, trainer=dataclasses.replace(trainer, threads=threads))
    torch.set_num_threads(threads)
    if request.folder is None:
        tests = try_experiment(config, reporter.decoded, validates=request.trial)
        return not tests and not request.test_on
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(request.folder)))
    if (request.folder / "config.yaml").exists():
        trust_code = runs_own_code(config)
        resume_experiment(
            request.folder, [reporter], trust_code=trust_code, test=not request.trial, should_stop=should_stop
        )
    else:
        words = ["cnnlab", "study"]
        run_experiment(config, [reporter], command=words, test=not request.trial, should_stop=should_stop)
    if request.test_on and not request.trial:
        test_elsewhere(request.folder, request.test_on, runs_own_code(config))
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


def _redirect_output(log: Path) -> None:
    """Write standard output and error of this process to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    separate(log)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(handle, number)
    os.close(handle)
