"""Runs what a study still lacks, several side by side, and shows how far all of them are.

What is done is skipped, what was cut off is gone on with, and a run that fails is noted while the others go on.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cnnlab.errors import ConfigError, Interrupted
from cnnlab.runs.folder import RunFolder
from cnnlab.study.crew import Crew, Message, Source, Verdict, W
from cnnlab.study.plan import Planned
from cnnlab.study.progress import StudyProgress
from cnnlab.study.worker import Decoded, Ended, Moved, Order, Stop, serve, set_named
from cnnlab.tracking.console import percent

ATTEMPTS = 3  # for a run whose process was killed
PATIENCE = 120  # seconds for a step in progress to end after Ctrl-C, before its process is ended


def is_done(run: Planned, test_on: Sequence[str] = ()) -> bool:
    """Whether a run is there with its test. The report is what a run writes last."""
    if not (run.folder / "report.html").exists():
        return False
    if not test_on or (name := set_named(test_on)) == run.config.data.name:
        return True
    return (run.folder / f"evaluation-test-{name}.json").exists()


def threads_each(jobs: int) -> int:
    """Processor threads of each of `jobs` processes, so that together they use every core once."""
    return max(1, cores() // jobs)


def cores() -> int:
    """Physical cores that this process may use, as torch counts them for its own threads."""
    import torch

    return torch.get_num_threads()


@dataclass
class _Worker:
    """One process, its end of the pipe, and the run it is at."""

    process: BaseProcess
    pipe: connection.Connection
    run: Planned | None = None
    last: Ended | None = None


@dataclass
class _Queue:
    """Runs that wait, in order. One that begins with another run's weights waits for that one."""

    waiting: collections.deque[Planned]
    attempts: collections.Counter[str] = field(default_factory=collections.Counter)
    ended: dict[Path, str] = field(default_factory=dict)  # why a run of now is not there

    def next(self, busy: Iterable[Path]) -> Planned | None:
        blocked = {run.folder for run in self.waiting} | set(busy)
        for run in list(self.waiting):
            if run.after in blocked:
                continue
            self.waiting.remove(run)
            if run.after in self.ended:
                self.ended[run.folder] = f"not begun: {run.after.name if run.after else ''} is not there"
                continue
            self.attempts[run.hash] += 1
            return run
        return None

    def moved(self, run: Planned, moved: Moved) -> bool:
        return True

    def done(self, run: Planned) -> Verdict:
        test = RunFolder(run.folder).test_figures()
        return Verdict(percent(test["accuracy"]) if test else "")

    def again(self, run: Planned) -> bool:
        if self.attempts[run.hash] >= ATTEMPTS:
            return False
        self.waiting.appendleft(run)
        return True

    def failed(self, run: Planned, ended: Ended) -> Verdict:
        self.ended[run.folder] = ended.message or ended.kind
        return Verdict(f"{ended.kind}: {ended.message}", counts=False, good=False)


def execute(
    runs: Sequence[Planned],
    folder: Path,
    jobs: int | None = None,
    test_on: tuple[str, ...] = (),
    progress: StudyProgress | None = None,
    hire: Callable[[int | None], Crew[Any]] | None = None,
) -> dict[Path, str]:
    """Run all that is not done yet.

    Args:
        folder: of the study; logs of the workers go there.
        jobs: runs side by side.
        test_on: see `Definition.test_on`.
        progress: what a person sees.
        hire: jobs → who carries the runs out; None: processes of this machine.

    Returns:
        Why each run is not there that could not be done: folder → one line.

    Raises:
        ConfigError: what no run could begin with, found before the first one.
        Interrupted: Ctrl-C or SIGTERM; the runs in progress saved their state.
    """
    missing = [run for run in runs if not is_done(run, test_on)]
    view = progress or StudyProgress(silent=True)
    view.begin(runs, [run for run in runs if run not in missing])
    queue = _Queue(collections.deque(missing))
    if not missing:
        view.end()
        return queue.ended
    first = {run.combination.label: run for run in reversed(missing)}
    jobs = min(jobs, len(missing)) if jobs is not None else None
    run_all(queue, list(reversed(first.values())), hire or Local(folder, test_on), jobs, view)
    return queue.ended


def run_all(
    source: Source,
    first: Sequence[Planned],
    hire: Callable[[int | None], Crew[Any]],
    jobs: int | None,
    view: StudyProgress,
) -> None:
    """Try whether the `first` could begin, and carry out all that the source gives; see `execute`."""
    try:
        crew = hire(jobs)
        try:
            with _Signals() as signals:
                _check(crew, first, signals, view)
                _drive(crew, source, signals, view)
        finally:
            crew.close()
    finally:
        view.end()


def _drive(crew: Crew[W], source: Source, signals: _Signals, view: StudyProgress) -> None:
    while True:
        for worker in crew.idle():
            if signals.asked or (run := source.next(crew.busy())) is None:
                break
            crew.give(worker, run)
            view.started(run)
        if not crew.busy():
            if signals.asked:
                raise Interrupted("stopped; the runs in progress are saved. Go on with the same command.")
            return
        for worker, message in crew.messages():
            run = worker.run
            assert run is not None
            if isinstance(message, Decoded):
                continue
            if isinstance(message, Moved):
                view.moved(run, message)
                if message.row is not None and not source.moved(run, message):
                    crew.stop(worker)
                continue
            worker.run = None
            if message.kind == "done":
                view.finished(run, source.done(run))
            elif message.kind in ("interrupted", "killed") and signals.asked:
                view.finished(run, Verdict("stopped", counts=False, good=False))
            elif message.kind == "killed" and source.again(run):
                words = f"{message.message}; it goes on from its last state"
                view.finished(run, Verdict(words, counts=False, good=False))
            else:
                view.finished(run, source.failed(run, message))
        signals.pass_on(crew)


def _check(crew: Crew[W], runs: Sequence[Planned], signals: _Signals, view: StudyProgress) -> None:
    """Try each run once, by one worker, so that pictures are decoded once and typing errors come first."""
    worker = next(crew.idle())
    untested = []
    for run in runs:
        if signals.asked:
            raise Interrupted("stopped before the first run.")
        view.checking(run)
        crew.give(worker, run, check=True)
        message: Message = Decoded(0, 0)
        while not isinstance(message, Ended):
            signals.pass_on(crew)
            for _, message in crew.messages():
                if isinstance(message, Decoded):
                    view.decoding(message.done, message.total)
        worker.run = None
        if message.kind != "done" and not signals.asked:
            raise ConfigError(f"{run.combination.label}: {message.message or message.kind}")
        untested += [run.combination.label] if message.untested else []
    if untested and not runs[0].trial:
        which = "" if len(untested) == len(runs) else f" for {'; '.join(untested)}"
        view.remark(
            f"no test images{which}: no test accuracy, and no difference is stated; to compare on a test split, raise"
            " data.test_fraction."
        )


@dataclass(frozen=True)
class Local:
    """Hires processes of this machine. See `execute` for the fields."""

    folder: Path
    test_on: tuple[str, ...] = ()

    def __call__(self, jobs: int | None) -> _Crew:
        return _Crew(jobs or 1, self.folder, self.test_on, threads_each(jobs or 1))


class _Crew:
    """The worker processes."""

    def __init__(self, jobs: int, folder: Path, test_on: tuple[str, ...], threads: int) -> None:
        self.folder, self.test_on, self.threads = folder, test_on, threads
        self.context = multiprocessing.get_context("spawn")  # forking a process that has threads can hang it
        self.devices = _devices()
        self.workers = [self._start(number) for number in range(jobs)]

    def _start(self, number: int) -> _Worker:
        ours, theirs = self.context.Pipe()
        device = self.devices[number % len(self.devices)] if self.devices else None
        log = self.folder / "logs" / f"worker-{number + 1}.log"
        process = self.context.Process(target=serve, args=(theirs, log, device), name=f"cnnlab-{number}")
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def idle(self) -> Iterator[_Worker]:
        for number, worker in enumerate(self.workers):
            if not worker.process.is_alive() and worker.run is None:
                self.workers[number] = worker = self._start(number)
            if worker.run is None:
                yield worker

    def busy(self) -> list[Path]:
        return [worker.run.folder for worker in self.workers if worker.run is not None]

    def give(self, worker: _Worker, run: Planned, check: bool = False) -> None:
        worker.run = run
        folder = None if check else run.folder
        with contextlib.suppress(OSError):  # one that died between two orders is found dead when its answer is read
            worker.pipe.send(Order(run.config.to_dict(), folder, self.threads, self.test_on, run.trial))

    def messages(self) -> list[tuple[_Worker, Message]]:
        told: list[tuple[_Worker, Message]] = []
        busy = {worker.pipe: worker for worker in self.workers if worker.run is not None}
        for pipe in connection.wait(list(busy), timeout=0.2):
            worker = busy[pipe]  # type: ignore[index]
            try:
                told.append((worker, worker.pipe.recv()))
            except (EOFError, OSError):
                worker.process.join(5)
                told.append((worker, Ended("killed", _cause(worker.process.exitcode))))
        return told

    def stop(self, worker: _Worker) -> None:
        with contextlib.suppress(OSError):
            worker.pipe.send(Stop())

    def interrupt(self) -> None:
        for worker in self.workers:
            if worker.run is not None and worker.process.is_alive() and worker.process.pid is not None:
                if os.name == "posix":
                    os.kill(worker.process.pid, signal.SIGTERM)  # it ends what is no training at once
                else:  # where a signal sent to another process ends it, unsaved
                    self.stop(worker)

    def close(self) -> None:
        for worker in self.workers:
            worker.pipe.close()
        limit = time.monotonic() + 5
        for worker in self.workers:
            worker.process.join(max(0.1, limit - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


class _Signals:
    """Ctrl-C and SIGTERM end the study after the step that each run is in; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked, self.passed = False, False
        self.since = 0.0
        self.previous: dict[int, object] = {}

    def __enter__(self) -> _Signals:
        import threading

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked, self.since = True, time.monotonic()

    def pass_on(self, crew: Crew[W]) -> None:
        if not self.asked:
            return
        if not self.passed:
            self.passed = True
            crew.interrupt()
        elif time.monotonic() - self.since > PATIENCE:
            raise Interrupted("stopped; a run did not end in time and goes on from its last saved state.")

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _devices() -> list[str]:
    """Where several accelerators are there, their names: each worker has one."""
    import torch

    count = torch.cuda.device_count()
    return [f"cuda:{number}" for number in range(count)] if count > 1 else []


def _cause(code: int | None) -> str:
    if hasattr(signal, "SIGKILL") and code == -signal.SIGKILL:
        return "its process was killed, for want of memory perhaps"
    return f"its process ended with code {code}"
