"""Trains the runs that a study still lacks, several side by side, and shows the progress of all of them.

Runs that are done are skipped, interrupted ones are resumed, and a run that fails is noted while the others go on.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnlab.errors import ConfigError, Interrupted
from cnnlab.runs.folder import RunFolder
from cnnlab.study.definition import Definition
from cnnlab.study.local_pool import LocalPool
from cnnlab.study.plan import PlannedRun
from cnnlab.study.progress import StudyProgress
from cnnlab.study.worker import DecodeProgress, RunProgress, RunResult, set_named
from cnnlab.study.worker_pool import Message, Outcome, RunSource, W, WorkerPool
from cnnlab.tracking.console import percent
from cnnlab.training.interrupt import InterruptGuard

ATTEMPTS = 3  # for a run whose process was killed
PATIENCE = 120  # seconds for a step in progress to end after Ctrl-C, before its process is ended


def is_done(run: PlannedRun, test_on: Sequence[str] = ()) -> bool:
    """Whether a run is complete, with its test. A run writes its report last."""
    if not (run.folder / "report.html").exists():
        return False
    if not test_on or (name := set_named(test_on)) == run.config.data.name:
        return True
    return (run.folder / f"evaluation-test-{name}.json").exists()


@dataclass
class RunQueue:
    """The runs of a grid in order. A run that starts from the weights of another waits for that one."""

    waiting: collections.deque[PlannedRun]
    attempts: collections.Counter[str] = field(default_factory=collections.Counter)
    failed: dict[Path, str] = field(default_factory=dict)  # why a run of this call has no result

    def next_run(self, busy: Iterable[Path]) -> PlannedRun | None:
        blocked = {run.folder for run in self.waiting} | set(busy)
        for run in list(self.waiting):
            if run.after in blocked:
                continue
            self.waiting.remove(run)
            if run.after in self.failed:
                self.failed[run.folder] = f"not started: {run.after.name if run.after else ''} is not there"
                continue
            self.attempts[run.hash] += 1
            return run
        return None

    def on_epoch(self, run: PlannedRun, progress: RunProgress) -> bool:
        return True

    def on_done(self, run: PlannedRun) -> Outcome:
        test = RunFolder(run.folder).test_metrics()
        return Outcome(percent(test["accuracy"]) if test else "")

    def retry(self, run: PlannedRun) -> bool:
        if self.attempts[run.hash] >= ATTEMPTS:
            return False
        self.waiting.appendleft(run)
        return True

    def on_failed(self, run: PlannedRun, result: RunResult) -> Outcome:
        self.failed[run.folder] = result.message or result.status
        return Outcome(f"{result.status}: {result.message}", counts=False, ok=False)


def execute(
    runs: Sequence[PlannedRun], definition: Definition, progress: StudyProgress | None = None
) -> dict[Path, str]:
    """Train all runs that are not done yet.

    Args:
        progress: what the user sees; None: nothing.

    Returns:
        The runs that failed: folder → the reason in one line.

    Raises:
        ConfigError: what no run could start with, found before the first one.
        Interrupted: Ctrl-C or SIGTERM; the runs in progress saved their state.
    """
    missing = [run for run in runs if not is_done(run, definition.test_on)]
    view = progress or StudyProgress(silent=True)
    view.begin(runs, [run for run in runs if run not in missing])
    queue = RunQueue(collections.deque(missing))
    if not missing:
        view.end()
        return queue.failed
    first_of_each = {run.combination.label: run for run in reversed(missing)}
    run_all(queue, list(reversed(first_of_each.values())), definition, len(missing), view)
    return queue.failed


def run_all(
    source: RunSource, to_check: Sequence[PlannedRun], definition: Definition, most_jobs: int, view: StudyProgress
) -> None:
    """Check that the runs `to_check` could start, then train all that the source gives; see `execute`."""
    jobs = None if definition.jobs is None else min(definition.jobs, most_jobs)
    try:
        pool = start_pool(definition, jobs)
        try:
            with _StopGuard() as guard:
                _check(pool, to_check, guard, view)
                _train_all(pool, source, guard, view)
        finally:
            pool.close()
    finally:
        view.end()


def start_pool(definition: Definition, jobs: int | None) -> WorkerPool[Any]:
    """The workers that `study.launcher` asks for: processes of this machine, or tasks of a Ray cluster."""
    if definition.launcher == "ray":
        from cnnlab.study.ray_pool import RayPool

        return RayPool(definition.folder, definition.test_on, definition.address or "auto", jobs)
    return LocalPool(definition.folder, definition.test_on, jobs or 1)


def _train_all(pool: WorkerPool[W], source: RunSource, guard: _StopGuard, view: StudyProgress) -> None:
    while True:
        for worker in pool.idle():
            if guard.requested or (run := source.next_run(pool.busy())) is None:
                break
            pool.start(worker, run)
            view.started(run)
        if not pool.busy():
            if guard.requested:
                raise Interrupted("stopped; the runs in progress are saved. Go on with the same command.")
            return
        for worker, message in pool.messages():
            run = worker.run
            assert run is not None
            if isinstance(message, DecodeProgress):
                continue
            if isinstance(message, RunProgress):
                view.advanced(run, message)
                if message.row is not None and not source.on_epoch(run, message):
                    pool.stop(worker)
                continue
            worker.run = None
            view.finished(run, _outcome(source, run, message, guard))
        guard.pass_on(pool)


def _outcome(source: RunSource, run: PlannedRun, result: RunResult, guard: _StopGuard) -> Outcome:
    if result.status == "done":
        return source.on_done(run)
    if result.status in ("interrupted", "killed") and guard.requested:
        return Outcome("stopped", counts=False, ok=False)
    if result.status == "killed" and source.retry(run):
        return Outcome(f"{result.message}; it goes on from its last state", counts=False, ok=False)
    return source.on_failed(run, result)


def _check(pool: WorkerPool[W], runs: Sequence[PlannedRun], guard: _StopGuard, view: StudyProgress) -> None:
    """Try each run once, in one worker, so that images are decoded once and typing errors are found first."""
    worker = next(pool.idle())
    untested = []
    for run in runs:
        if guard.requested:
            raise Interrupted("stopped before the first run.")
        view.checking(run)
        pool.start(worker, run, check=True)
        message: Message = DecodeProgress(0, 0)
        while not isinstance(message, RunResult):
            guard.pass_on(pool)
            for _, message in pool.messages():
                if isinstance(message, DecodeProgress):
                    view.decoding(message.done, message.total)
        worker.run = None
        if message.status != "done" and not guard.requested:
            raise ConfigError(f"{run.combination.label}: {message.message or message.status}")
        untested += [run.combination.label] if message.untested else []
    if untested and not runs[0].trial:
        which = "" if len(untested) == len(runs) else f" for {'; '.join(untested)}"
        view.remark(
            f"no test images{which}: no test accuracy, and no difference is stated; to compare on a test split, raise"
            " data.test_fraction."
        )


class _StopGuard(InterruptGuard):
    """The first signal ends the study after the step that each run is in."""

    passed_on: float | None = None  # when

    def pass_on(self, pool: WorkerPool[W]) -> None:
        if not self.requested:
            return
        if self.passed_on is None:
            self.passed_on = time.monotonic()
            pool.interrupt()
        elif time.monotonic() - self.passed_on > PATIENCE:
            raise Interrupted("stopped; a run did not end in time and goes on from its last saved state.")
