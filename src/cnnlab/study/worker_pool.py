"""The two sides that `execute` brings together: the workers that train runs, and the source that the runs come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from cnnlab.study.plan import PlannedRun
from cnnlab.study.worker import DecodeProgress, RunProgress, RunResult


class Worker(Protocol):
    """Trains one run at a time; `run` is the one in progress."""

    run: PlannedRun | None


W = TypeVar("W", bound=Worker)
Message = RunProgress | DecodeProgress | RunResult


class WorkerPool(Protocol[W]):
    """Workers that train runs: processes of this machine, or tasks of a Ray cluster."""

    def idle(self) -> Iterator[W]:
        """Workers that can take a run."""

    def busy(self) -> list[Path]:
        """Folders of the runs in progress."""

    def start(self, worker: W, run: PlannedRun, check: bool = False) -> None:
        """Let a worker start or resume a run; `check`: only test whether it could start."""

    def messages(self) -> list[tuple[W, Message]]:
        """What the workers sent, waiting a moment for it; a worker that died gives a `RunResult` "killed"."""

    def stop(self, worker: W) -> None:
        """Ask a worker to save the state of its run and end it."""

    def interrupt(self) -> None:
        """Ask every worker to save the state of its run and end it."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """The line that a user reads when a run has ended.

    `counts`: the study has one run less to do; `ok`: False for a run that failed or was stopped.
    """

    message: str
    counts: bool = True
    ok: bool = True


class RunSource(Protocol):
    """Decides which run comes next and is told how each ended: the queue of a grid, or a search."""

    def next_run(self, busy: Iterable[Path]) -> PlannedRun | None:
        """A run to start now; None if there is none while the runs in the folders `busy` are in progress."""

    def on_epoch(self, run: PlannedRun, progress: RunProgress) -> bool:
        """After each epoch; False stops the run, whose folder stays as it is."""

    def on_done(self, run: PlannedRun) -> Outcome:
        """The run is complete."""

    def retry(self, run: PlannedRun) -> bool:
        """The worker of the run was killed; whether the run is to be resumed."""

    def on_failed(self, run: PlannedRun, result: RunResult) -> Outcome:
        """The run failed or was stopped."""
