"""The worker pool of one machine: a process per run in progress."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from cnnlab.study.plan import PlannedRun
from cnnlab.study.worker import RunRequest, RunResult, StopRequest, worker_main
from cnnlab.study.worker_pool import Message

WAIT = 0.2  # seconds that `messages` waits for one
JOIN_SECONDS = 5  # that processes get to end before they are killed


@dataclass
class LocalWorker:
    """A process, our end of the pipe to it, and its run in progress."""

    process: BaseProcess
    pipe: connection.Connection
    run: PlannedRun | None = None


class LocalPool:
    """`jobs` worker processes. Logs go to the study's folder; `test_on`: see `Definition.test_on`."""

    def __init__(self, folder: Path, test_on: tuple[str, ...], jobs: int) -> None:
        self.folder, self.test_on, self.threads = folder, test_on, threads_each(jobs)
        self.context = multiprocessing.get_context("spawn")  # forking a process that has threads can hang it
        self.devices = _devices()
        self.workers = [self._spawn(number) for number in range(jobs)]

    def _spawn(self, number: int) -> LocalWorker:
        ours, theirs = self.context.Pipe()
        device = self.devices[number % len(self.devices)] if self.devices else None
        log = self.folder / "logs" / f"worker-{number + 1}.log"
        process = self.context.Process(target=worker_main, args=(theirs, log, device), name=f"cnnlab-{number}")
        process.start()
        theirs.close()
        return LocalWorker(process, ours)

    def idle(self) -> Iterator[LocalWorker]:
        for number, worker in enumerate(self.workers):
            if not worker.process.is_alive() and worker.run is None:
                self.workers[number] = worker = self._spawn(number)
            if worker.run is None:
                yield worker

    def busy(self) -> list[Path]:
        return [worker.run.folder for worker in self.workers if worker.run is not None]

    def start(self, worker: LocalWorker, run: PlannedRun, check: bool = False) -> None:
        worker.run = run
        request = RunRequest(run.config.to_dict(), None if check else run.folder, self.threads, self.test_on, run.trial)
        with contextlib.suppress(OSError):  # a worker that died meanwhile is noticed when its result is read
            worker.pipe.send(request)

    def messages(self) -> list[tuple[LocalWorker, Message]]:
        received: list[tuple[LocalWorker, Message]] = []
        busy = {worker.pipe: worker for worker in self.workers if worker.run is not None}
        for pipe in connection.wait(list(busy), timeout=WAIT):
            worker = busy[pipe]  # type: ignore[index]
            try:
                received.append((worker, worker.pipe.recv()))
            except (EOFError, OSError):
                worker.process.join(JOIN_SECONDS)
                received.append((worker, RunResult("killed", exit_reason(worker.process.exitcode))))
        return received

    def stop(self, worker: LocalWorker) -> None:
        with contextlib.suppress(OSError):
            worker.pipe.send(StopRequest())

    def interrupt(self) -> None:
        for worker in self.workers:
            if worker.run is not None and worker.process.is_alive() and worker.process.pid is not None:
                if os.name == "posix":
                    os.kill(worker.process.pid, signal.SIGTERM)  # what is not training ends at once
                else:  # there a signal ends a process without saving
                    self.stop(worker)

    def close(self) -> None:
        for worker in self.workers:
            worker.pipe.close()
        limit = time.monotonic() + JOIN_SECONDS
        for worker in self.workers:
            worker.process.join(max(0.1, limit - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def threads_each(jobs: int) -> int:
    """Processor threads of each of `jobs` processes, so that together they use every core once."""
    import torch

    return max(1, torch.get_num_threads() // jobs)  # torch counts the physical cores that this process may use


def _devices() -> list[str]:
    """The accelerators, if there are several: each worker has one."""
    import torch

    count = torch.cuda.device_count()
    return [f"cuda:{number}" for number in range(count)] if count > 1 else []


def exit_reason(code: int | None) -> str:
    if hasattr(signal, "SIGKILL") and code == -signal.SIGKILL:
        return "its process was killed, perhaps because memory ran out"
    return f"its process ended with code {code}"
