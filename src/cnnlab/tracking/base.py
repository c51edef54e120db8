"""One tiny interface: a tracker hears events and is closed at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    """Passes each event on. A listener that fails is dropped with a warning; training goes on."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)

    def log(self, event: Event) -> None:
        for tracker in list(self.trackers):
            self._guard(tracker, lambda tracker=tracker: tracker.log(event))  # type: ignore[misc]

    def close(self) -> None:
        for tracker in list(self.trackers):
            self._guard(tracker, tracker.close)

    def _guard(self, tracker: Tracker, call: Any) -> None:
        try:
            call()
        except Exception as error:  # a logger may fail in any way; the run matters more
            self.trackers.remove(tracker)
            print(
                f"warning: {type(tracker).__name__} failed and is off from here on: {error}",
                file=sys.stderr,
                flush=True,
            )
