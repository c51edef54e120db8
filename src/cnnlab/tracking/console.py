"""What a person sees: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cnnlab.tracking.base import EpochEnded, Event, Noted, Started, Stepped

QUIET_SECONDS = 2.0  # before lines about decoding are written to what is no terminal
COLUMNS = "{:>9}  {:>10} {:>9}  {:>10} {:>9}  {:>10}  {:>8}  {:>9}"
TITLES = ("epoch", "train loss", "accuracy", "val loss", "accuracy", "rate", "images/s", "time left")


def plain_console(stderr: bool = False) -> Console:
    """A terminal that shows texts as they are: a user's "[/name]" is no markup, and long lines are broken, not cut."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def duration(seconds: float) -> str:
    """75 → "1:15", 4000 → "1:06:40"."""
    minutes, rest = divmod(round(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("left", "")), style="cyan")


class ConsoleTracker:
    """A table, one line per epoch; in a terminal a bar below it moves within the epoch."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or plain_console()
        self.progress: Progress | None = None
        self.started: Started | None = None
        self.epoch_began = 0.0

    def log(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Stepped):
            self._step(event)
        elif isinstance(event, EpochEnded):
            self._epoch(event)
        elif isinstance(event, Noted):
            self.console.print(Text(event.text, style="yellow" if event.warning else ""))

    def _start(self, event: Started) -> None:
        self.started = event
        self.console.print(Text(event.title, style="bold"))
        for key, value in event.facts.items():
            self.console.print(Text(f"  {key:<10} {value}"))
        titles = [*TITLES[:4], event.metric.replace("_", " ")[:9], *TITLES[5:]]
        self.console.print(Text(COLUMNS.format(*titles), style="dim"))
        if self.console.is_terminal:
            self.progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[facts]}"),
                _Left(),
                console=self.console,
                transient=True,
            )
            self.progress.add_task("starting", total=event.steps_per_epoch, facts="", left="")
            self.progress.start()
        self.epoch_began = time.monotonic()

    def _step(self, event: Stepped) -> None:
        if self.progress is None or self.started is None:
            return
        elapsed = time.monotonic() - self.epoch_began
        whole = self.started.epochs - event.epoch - event.step / self.started.steps_per_epoch
        left = elapsed / max(1, event.step) * self.started.steps_per_epoch * whole
        facts = f"loss {event.loss:.4f}  accuracy {percent(event.accuracy)}  {event.images_per_second:,.0f} images/s"
        self.progress.update(
            self.progress.task_ids[0],
            completed=event.step,
            description=f"epoch {event.epoch + 1}/{self.started.epochs}",
            facts=facts,
            left=f"{duration(left)} left",
        )

    def _epoch(self, event: EpochEnded) -> None:
        assert self.started is not None
        row = event.row
        left = (time.monotonic() - self.epoch_began) * (self.started.epochs - row["epoch"])
        line = COLUMNS.format(
            f"{row['epoch']}/{self.started.epochs}",
            number(row["train_loss"]),
            percent(row["train_accuracy"]),
            number(row["val_loss"]),
            (percent if self.started.is_share else number)(row.get(f"val_{self.started.metric}")),
            f"{row['lr']:.3g}",
            f"{row['images_per_second']:,.0f}",
            duration(left),
        )
        self.console.print(Text(line + ("  best" if event.best else ""), style="green" if event.best else ""))
        self.epoch_began = time.monotonic()
        if self.progress is not None:
            self.progress.reset(self.progress.task_ids[0], total=self.started.steps_per_epoch)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


class DecodeBar:
    """A bar that appears only if images have to be decoded, or what `words` say instead."""

    def __init__(self, words: str = "decoding images") -> None:
        self.words = words
        self.progress: Progress | None = None
        self.last = 0
        self.began = time.monotonic()

    def __enter__(self) -> DecodeBar:
        return self

    def update(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            if time.monotonic() - self.began < QUIET_SECONDS:
                return
            if done * 10 // total != self.last * 10 // total or done == total:
                print(f"{self.words}: {done:,} of {total:,}", file=sys.stderr, flush=True)
            self.last = done
            return
        if self.progress is None:
            columns = (TextColumn(self.words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.progress = Progress(*columns, console=plain_console(stderr=True), transient=True)
            self.progress.start()
            self.task = self.progress.add_task("decode", total=total)
        self.progress.update(self.task, completed=done)
        if done == total:
            self.progress.stop()
            self.progress = None  # what is decoded later has a bar of its own

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()


class StepBar:
    """A bar over the steps of something short; nothing where standard error is no terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(
            *columns, console=plain_console(stderr=True), transient=True, disable=not sys.stderr.isatty()
        )
        self.begun = False

    def __enter__(self) -> StepBar:
        return self

    def update(self, done: int, total: int) -> None:
        if not self.begun:
            self.begun = True
            self.progress.start()
            self.task = self.progress.add_task("steps", total=total)
        self.progress.update(self.task, completed=done)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
