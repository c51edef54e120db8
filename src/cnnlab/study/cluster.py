"""Runs of a study as tasks of a Ray cluster, instead of processes of this machine.

Every machine of the cluster must have the same cnnlab, Python and Ray, and must see the folder in which the study was
called under the same path (a shared file system): runs read their pictures and write their folders there, so that a
run whose machine died is taken up from its last state by another. Nothing but the order, its progress and its end goes
through Ray.
"""

from __future__ import annotations

import contextlib
import os
import socket
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnlab.errors import ConfigError
from cnnlab.runs.files import separate
from cnnlab.study.crew import Message
from cnnlab.study.plan import Planned
from cnnlab.study.worker import Ended, Order, Reporter, carry_out

WAIT = 0.2  # seconds that `messages` waits for some


@dataclass(frozen=True)
class Cluster:
    """Hires tasks of the Ray cluster at `address`: host:port, or auto for the one of this machine."""

    folder: Path
    test_on: tuple[str, ...]
    address: str

    def __call__(self, jobs: int | None) -> RayCrew:
        """Raises ConfigError where Ray is not installed or no cluster answers."""
        return RayCrew(connect(self.address), jobs, self.folder, self.test_on)


def connect(address: str) -> types.ModuleType:
    """Join the cluster as the one that gives the orders; the module `ray`."""
    try:
        import ray
    except ImportError:
        raise ConfigError("study.launcher=ray needs Ray; install it with: pip install 'cnnlab[cluster]'") from None
    host, _, port = address.rpartition(":")
    if address != "auto":
        _knock(address, host, port)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except Exception as error:  # Ray's errors of a connection have no common class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"no Ray cluster answers at study.address={address} ({reason}). Start one with `ray start --head`, or give"
            " its address, as in study.address=10.0.0.1:6379."
        ) from None
    return ray


def _knock(address: str, host: str, port: str) -> None:
    """Ray itself waits for minutes for a machine that is not there."""
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at study.address={address} ({error}). Start one with `ray start --head`, or give"
            " its address as HOST:PORT, as in study.address=10.0.0.1:6379."
        ) from None


@dataclass
class Task:
    """A place for one run at a time, and the task that carries it out."""

    number: int
    run: Planned | None = None
    promise: Any = None  # of its end
    stopping: bool = False


class RayCrew:
    """As many tasks at once as there are jobs."""

    def __init__(self, ray: types.ModuleType, jobs: int | None, folder: Path, test_on: tuple[str, ...]) -> None:
        self.ray, self.folder, self.test_on = ray, folder, test_on
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(node.get("GPU", 0.0) for node in nodes)
        cores = [int(node.get("CPU", 0)) for node in nodes]
        jobs = jobs or int(gpus) or len(nodes)
        self.tasks = [Task(number) for number in range(jobs)]
        # As many threads as the machines have cores, shared evenly; a task cannot have more than its machine.
        self.threads = max(1, min(sum(cores) // jobs, max(cores)))
        self.gpus = min(1.0, gpus / jobs)
        self.remote = ray.remote(max_retries=0)(run_order)
        self.inbox = ray.remote(num_cpus=0)(Inbox).remote()

    def idle(self) -> Iterator[Task]:
        return (task for task in self.tasks if task.run is None)

    def busy(self) -> list[Path]:
        return [task.run.folder for task in self.tasks if task.run is not None]

    def give(self, worker: Task, run: Planned, check: bool = False) -> None:
        worker.run, worker.stopping = run, False
        config = run.config
        threads = config.trainer.threads or self.threads
        order = Order(config.to_dict(), None if check else run.folder, threads, self.test_on, run.trial)
        gpus = 0 if config.trainer.device == "cpu" else self.gpus
        task = self.remote.options(num_cpus=threads, num_gpus=gpus, name=run.folder.name)
        worker.promise = task.remote(order, self.inbox, worker.number, os.getcwd(), str(self.folder))

    def messages(self) -> list[tuple[Task, Message]]:
        busy = {task.promise: task for task in self.tasks if task.run is not None}
        ended, _ = self.ray.wait(list(busy), num_returns=len(busy), timeout=WAIT)
        told: list[tuple[Task, Message]] = [
            (self.tasks[number], message)
            for number, message in self.ray.get(self.inbox.take.remote())
            if self.tasks[number].run is not None
        ]
        return told + [(busy[promise], self._end(busy[promise])) for promise in ended]

    def _end(self, task: Task) -> Ended:
        errors = self.ray.exceptions
        try:
            end: Ended = self.ray.get(task.promise)
        except errors.TaskCancelledError:
            return Ended("interrupted", "stopped")
        except errors.RayTaskError as error:
            return Ended("interrupted" if task.stopping else "crashed", str(error.cause).splitlines()[0])
        except errors.RayError as error:
            return Ended("killed", f"its worker died ({type(error).__name__})")
        return end

    def stop(self, worker: Task) -> None:
        """Ray raises KeyboardInterrupt in it as Ctrl-C would: the run saves its state and ends."""
        if not worker.stopping:
            worker.stopping = True
            self.ray.cancel(worker.promise, force=False)

    def interrupt(self) -> None:
        for task in self.tasks:
            if task.run is not None:
                self.stop(task)

    def close(self) -> None:
        self.ray.shutdown()


class Inbox:
    """An actor that holds what the tasks tell until it is taken."""

    def __init__(self) -> None:
        self.letters: list[tuple[int, Message]] = []

    def put(self, number: int, message: Message) -> None:
        self.letters.append((number, message))

    def take(self) -> list[tuple[int, Message]]:
        taken, self.letters = self.letters, []
        return taken


class Letters:
    """The way of a task to the inbox."""

    def __init__(self, inbox: Any, number: int) -> None:
        self.inbox, self.number = inbox, number
        self.last: Any = None

    def send(self, message: Any, /) -> None:
        self.last = self.inbox.put.remote(self.number, message)

    def delivered(self) -> None:
        """Wait until the last letter, and with it every other, is there."""
        import ray

        if self.last is not None:
            ray.get(self.last)


def run_order(order: Order, inbox: Any, number: int, here: str, folder: str) -> Ended:
    """The task: `carry_out` in the folder that the study was called in."""
    import ray

    name = socket.gethostname()
    try:
        os.chdir(here)
        if not Path(folder, ".lock").exists():
            raise FileNotFoundError
    except OSError:
        where = Path(here, folder)
        return Ended(
            "wrong", f"{name} does not see {where}; the study must lie where every machine of the cluster sees it"
        )
    log = Path(folder, "logs", f"{name}-{os.getpid()}.log")
    log.parent.mkdir(exist_ok=True)
    separate(log)
    letters = Letters(inbox, number)
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        end = carry_out(order, Reporter(letters))
        with contextlib.suppress(ray.exceptions.RayError):
            letters.delivered()
    return end
