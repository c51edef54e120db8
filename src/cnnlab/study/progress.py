"""One view over all runs of a study: those in progress, the whole, and the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cnnlab.study.plan import PlannedRun
from cnnlab.study.worker import RunProgress
from cnnlab.study.worker_pool import Outcome
from cnnlab.tracking.console import duration, percent, plain_console


class StudyProgress:
    """A table that moves in a terminal, a line for each run that ends elsewhere."""

    def __init__(self, console: Console | None = None, silent: bool = False) -> None:
        self.console = console or plain_console()
        self.silent = silent
        self.live: Live | None = None
        self.active: dict[Path, tuple[PlannedRun, RunProgress | None, float]] = {}
        self.total = self.done = 0
        self.epochs: dict[str, float] = {}  # by run: epochs done now
        self.counted = self.all_epochs = 0.0
        self.began = self.first = time.monotonic()
        self.note, self.aside, self.what, self.heading = "", "", "run", ""

    def begin(self, runs: Sequence[PlannedRun], done: Sequence[PlannedRun]) -> None:
        epochs = sum(run.config.trainer.epochs for run in runs if run not in done)
        self.expect(len(runs), len(done), epochs)

    def expect(self, total: int, done: int, epochs: int, what: str = "run") -> None:
        """So many runs, so many of them done, so many epochs to train. It is said when the first one starts."""
        self.total, self.done, self.began = total, done, time.monotonic()
        self.all_epochs, self.what = epochs, what
        if self.silent or done >= total:
            return
        self.heading = f"{total} {what}{'s' if total > 1 else ''}"
        self.heading += f", {done} of them done already" if done else ""
        if self.console.is_terminal:
            self.live = Live(self._view(), console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def checking(self, run: PlannedRun) -> None:
        self._say(f"checking the images and the model of {run.combination.label}")

    def decoding(self, done: int, total: int) -> None:
        self._say(f"decoding images, once: {done:,} of {total:,}")

    def remark(self, words: str) -> None:
        """Print a note before the first run."""
        if not self.silent:
            self.console.print(Text(words, style="yellow"))

    def started(self, run: PlannedRun) -> None:
        if self.heading:
            self.console.print(Text(self.heading, style="bold"))
            self.heading = ""
        self.active[run.folder] = (run, None, time.monotonic())
        self._say("")

    def advanced(self, run: PlannedRun, progress: RunProgress) -> None:
        began = self.active[run.folder][2]
        if not self.epochs:
            self.first = time.monotonic()  # before that, processes start and images are decoded
        self.epochs.setdefault(run.hash, progress.epoch)  # what an earlier call did is not this one's speed
        self.counted += progress.epoch + progress.fraction - self.epochs[run.hash]
        self.epochs[run.hash] = progress.epoch + progress.fraction
        self.active[run.folder] = (run, progress, began)
        self._refresh()

    def finished(self, run: PlannedRun, outcome: Outcome) -> None:
        _, _, began = self.active.pop(run.folder, (run, None, time.monotonic()))
        if outcome.counts:
            self.done += 1
            self.all_epochs -= max(0.0, run.config.trainer.epochs - self.epochs.get(run.hash, 0.0))  # never to come
        if self.silent:
            return
        place = f"{self.done:>4}/{self.total}" if outcome.counts else " " * (5 + len(str(self.total)))
        line = f"{place}  {run.name:<{max(24, len(run.name))}} "
        if outcome.ok:
            took = duration(time.monotonic() - began)
            self.console.print(Text(f"{line}{outcome.message:>9} {took:>9}"))
        else:
            self.console.print(Text(line + outcome.message, style="yellow"))
        self._refresh()

    def end(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _say(self, note: str) -> None:
        self.note = note
        self._refresh()

    def _refresh(self) -> None:
        if self.live is not None:
            self.live.update(self._view())

    def _view(self) -> RenderableType:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for run, progress, began in self.active.values():
            epochs = progress.epochs if progress else run.config.trainer.epochs
            done = progress.epoch + progress.fraction if progress else 0.0
            bar = ProgressBar(total=epochs, completed=done, width=24)
            words = f"epoch {min(epochs, int(done) + 1)}/{epochs}"
            accuracy = percent(progress.accuracy) if progress else ""
            took = duration(time.monotonic() - began)
            table.add_row(run.name, bar, words, accuracy, took)
        elapsed = time.monotonic() - self.began
        pace = (time.monotonic() - self.first) / self.counted if self.counted > 0.5 else None
        left = pace * (self.all_epochs - self.counted) if pace is not None else None
        words = f"{self.done} of {self.total} {self.what}s  {duration(elapsed)}"
        words += f", about {duration(left)} left" if left is not None else ""
        words += f"  {self.aside}" if self.aside else ""
        return Group(table, Text(self.note, style="dim") if self.note else Text(words, style="cyan"))
