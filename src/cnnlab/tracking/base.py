"""One tiny interface: a tracker hears events and is closed at the end."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on at `epoch`."""

    title: str
    facts: dict[str, str]  # what a person wants to know first
    config: dict[str, Any]
    epochs: int
    epoch: int
    steps_per_epoch: int
    sample: Any = None  # (images (B, H, W, C) uint8 array, label names) of one training batch
    metric: str = "accuracy"  # of validation, that chooses the best epoch
    is_share: bool = True  # whether it goes from 0 to 1, and is shown in percent


@dataclass(frozen=True)
class Stepped:
    """A step is done; sent a few times a second at the most."""

    epoch: int
    step: int  # within the epoch, from 1
    loss: float
    accuracy: float
    images_per_second: float


@dataclass(frozen=True)
class Gradient:
    """The gradient of one layer in the last step of an epoch: its norm, and a histogram of its values."""

    norm: float
    counts: list[float]
    edges: list[float]


@dataclass(frozen=True)
class EpochEnded:
    """`row` is the line of metrics.jsonl."""

    row: dict[str, Any]
    best: bool
    gradients: dict[str, Gradient] = field(default_factory=dict)  # by layer; with logger.gradients


@dataclass(frozen=True)
class Noted:
    """Something a person should know; `warning` makes it stand out."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Tested:
    """The test split was touched, once, after training."""

    summary: dict[str, Any]
    weights: str


Event = Started | Stepped | EpochEnded | Noted | Tested


class Tracker(Protocol):
    def log(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """Passes each event on. A listener that fails is dropped with a warning; training goes on.

    So is one that does not come back: who has `patience` (seconds) is called in a thread of its own, and waited for no
    longer than that. The thread is left behind.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)
        self._callers = {id(tracker): _Caller() for tracker in trackers if hasattr(tracker, "patience")}

    def log(self, event: Event) -> None:
        for tracker in list(self.trackers):
            self._guard(tracker, lambda tracker=tracker: tracker.log(event))  # type: ignore[misc]

    def close(self) -> None:
        for tracker in list(self.trackers):
            self._guard(tracker, tracker.close)
        for caller in self._callers.values():
            caller.end()

    def _guard(self, tracker: Tracker, call: Callable[[], None]) -> None:
        try:
            if caller := self._callers.get(id(tracker)):
                caller.call(call, tracker.patience)  # type: ignore[attr-defined]
            else:
                call()
        except Exception as error:  # a logger may fail in any way; the run matters more
            self.trackers.remove(tracker)
            print(
                f"warning: {type(tracker).__name__} failed and is off from here on: {error}",
                file=sys.stderr,
                flush=True,
            )


class _Caller:
    """A thread that makes one call at a time, which can be given up."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="tracker", daemon=True).start()

    def call(self, call: Callable[[], None], seconds: float) -> None:
        """Raises what the call raises, or TimeoutError."""
        self._calls.put(call)
        try:
            error = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"no answer in {seconds:g} s") from None
        if error is not None:
            raise error

    def end(self) -> None:
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:
                self._answers.put(error)
            else:
                self._answers.put(None)
