"""Runs of a study as tasks of a Ray cluster, instead of processes of this machine.

Every machine of the cluster must have the same cnnlab, Python and Ray, and must see the folder in which the study was
called under the same path (a shared file system): runs read their images and write their folders there, so that a run
whose machine died is resumed from its last state on another. Only requests, progress and results go through Ray.
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
from cnnlab.study.inbox import Inbox, InboxChannel
from cnnlab.study.plan import PlannedRun
from cnnlab.study.worker import Reporter, RunRequest, RunResult, execute_request
from cnnlab.study.worker_pool import Message

WAIT = 0.2  # seconds that `messages` waits for some


def connect(address: str) -> types.ModuleType:
    """Join the cluster as its driver; returns the module `ray`.

    Workers run the Python of their machine. Left to itself, Ray would notice a study that was called by `uv run`, send
    the whole working directory to each machine and start every worker by `uv run` there, which takes minutes.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # read when Ray is imported
    try:
        import ray
    except ImportError:
        raise ConfigError("study.launcher=ray needs Ray; install it with: pip install 'cnnlab[cluster]'") from None
    host, _, port = address.rpartition(":")
    if address != "auto":
        _check_reachable(address, host, port)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except Exception as error:  # Ray's errors of a connection have no common class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"no Ray cluster answers at study.address={address} ({reason}). Start one with `ray start --head`, or give"
            " its address, as in study.address=10.0.0.1:6379."
        ) from None
    return ray


def _check_reachable(address: str, host: str, port: str) -> None:
    """Fail at once: Ray itself waits for minutes for a machine that does not answer."""
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at study.address={address} ({error}). Start one with `ray start --head`, or give"
            " its address as HOST:PORT, as in study.address=10.0.0.1:6379."
        ) from None


@dataclass
class RayWorker:
    """A slot for one run at a time; `result` is the reference to the RunResult of the Ray task that trains it."""

    number: int
    run: PlannedRun | None = None
    result: Any = None
    stopping: bool = False


class RayPool:
    """As many Ray tasks at once as there are jobs, on the cluster at `address`: host:port, or auto for the local one.

    Raises ConfigError if Ray is not installed or no cluster answers.
    """

    def __init__(self, folder: Path, test_on: tuple[str, ...], address: str, jobs: int | None) -> None:
        self.ray, self.folder, self.test_on = connect(address), folder, test_on
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        gpus = sum(node.get("GPU", 0.0) for node in nodes)
        cores = [int(node.get("CPU", 0)) for node in nodes]
        jobs = jobs or int(gpus) or len(nodes)
        self.workers = [RayWorker(number) for number in range(jobs)]
        # The cores of all machines, divided evenly; a task cannot have more than its machine.
        self.threads = max(1, min(sum(cores) // jobs, max(cores)))
        self.gpus = min(1.0, gpus / jobs)
        self.remote = self.ray.remote(max_retries=0)(execute_in_task)
        self.inbox = self.ray.remote(num_cpus=0)(Inbox).remote()

    def idle(self) -> Iterator[RayWorker]:
        return (worker for worker in self.workers if worker.run is None)

    def busy(self) -> list[Path]:
        return [worker.run.folder for worker in self.workers if worker.run is not None]

    def start(self, worker: RayWorker, run: PlannedRun, check: bool = False) -> None:
        worker.run, worker.stopping = run, False
        config = run.config
        threads = config.trainer.threads or self.threads
        request = RunRequest(config.to_dict(), None if check else run.folder, threads, self.test_on, run.trial)
        gpus = 0 if config.trainer.device == "cpu" else self.gpus
        task = self.remote.options(num_cpus=threads, num_gpus=gpus, name=run.folder.name)
        worker.result = task.remote(request, self.inbox, worker.number, os.getcwd(), str(self.folder))

    def messages(self) -> list[tuple[RayWorker, Message]]:
        busy = {worker.result: worker for worker in self.workers if worker.run is not None}
        finished, _ = self.ray.wait(list(busy), num_returns=len(busy), timeout=WAIT)
        received: list[tuple[RayWorker, Message]] = [
            (self.workers[number], message)
            for number, message in self.ray.get(self.inbox.take.remote())
            if self.workers[number].run is not None
        ]
        return received + [(busy[result], self._result(busy[result])) for result in finished]

    def _result(self, worker: RayWorker) -> RunResult:
        errors = self.ray.exceptions
        try:
            result: RunResult = self.ray.get(worker.result)
        except errors.TaskCancelledError:
            return RunResult("interrupted", "stopped")
        except errors.RayTaskError as error:
            return RunResult("interrupted" if worker.stopping else "crashed", str(error.cause).splitlines()[0])
        except errors.RayError as error:
            return RunResult("killed", f"its worker died ({type(error).__name__})")
        return result

    def stop(self, worker: RayWorker) -> None:
        """Ray raises KeyboardInterrupt in the task, as Ctrl-C would: the run saves its state and ends."""
        if not worker.stopping:
            worker.stopping = True
            self.ray.cancel(worker.result, force=False)

    def interrupt(self) -> None:
        for worker in self.workers:
            if worker.run is not None:
                self.stop(worker)

    def close(self) -> None:
        self.ray.shutdown()


def execute_in_task(request: RunRequest, inbox: Any, number: int, here: str, folder: str) -> RunResult:
    """The body of a Ray task: `execute_request` in the working directory of the study."""
    import ray

    name = socket.gethostname()
    try:
        os.chdir(here)
        if not Path(folder, ".lock").exists():
            raise FileNotFoundError
    except OSError:
        where = Path(here, folder)
        return RunResult(
            "wrong", f"{name} does not see {where}; the study must lie where every machine of the cluster sees it"
        )
    log = Path(folder, "logs", f"{name}-{os.getpid()}.log")
    log.parent.mkdir(exist_ok=True)
    separate(log)
    channel = InboxChannel(inbox, number)
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        result = execute_request(request, Reporter(channel))
        with contextlib.suppress(ray.exceptions.RayError):
            channel.flush()
    return result
