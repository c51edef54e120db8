"""What carries runs out, and what gives them: the two sides that `execute` brings together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from cnnlab.study.plan import Planned
from cnnlab.study.worker import Decoded, Ended, Moved


class HasRun(Protocol):
    """A place where one run at a time is carried out."""

    run: Planned | None


W = TypeVar("W", bound=HasRun)
Message = Moved | Decoded | Ended


class Crew(Protocol[W]):
    """Those who carry out runs: processes of this machine, or tasks on a cluster."""

    def idle(self) -> Iterator[W]:
        """Who could take a run."""

    def busy(self) -> list[Path]:
        """Folders of the runs in progress."""

    def give(self, worker: W, run: Planned, check: bool = False) -> None:
        """Let a worker begin or go on with a run; `check`: try whether it could begin."""

    def messages(self) -> list[tuple[W, Message]]:
        """What the workers tell, waiting a moment for it; the death of one is told as an `Ended` of kind "killed"."""

    def stop(self, worker: W) -> None:
        """Let its run save its state and end."""

    def interrupt(self) -> None:
        """Let every run save its state and end."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Verdict:
    """What a person reads of a run that ended; whether the study has one less to run, and whether all is well."""

    words: str
    counts: bool = True
    good: bool = True


class Source(Protocol):
    """Where runs come from and what becomes of them: the list of a grid, or a search."""

    def next(self, busy: Iterable[Path]) -> Planned | None:
        """A run to begin now; None where there is none as long as these are in progress."""

    def moved(self, run: Planned, moved: Moved) -> bool:
        """At the end of each epoch; False stops the run, its folder stays as it is."""

    def done(self, run: Planned) -> Verdict:
        """It was carried out."""

    def again(self, run: Planned) -> bool:
        """Its process was killed; whether it is taken up again."""

    def failed(self, run: Planned, ended: Ended) -> Verdict:
        """It could not be carried out, or was stopped."""
