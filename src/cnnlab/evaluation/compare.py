"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnlab.config import Config
from cnnlab.errors import RunError
from cnnlab.evaluation.plots import plot_curves
from cnnlab.files import given_path
from cnnlab.runs.folder import RunFolder, open_folder, read_config


@dataclass(frozen=True)
class ComparedRun:
    """One row of the comparison; `finished` where the run came to its report."""

    name: str
    config: Config
    history: list[dict[str, Any]]
    best: dict[str, Any]
    test: dict[str, Any] | None
    finished: bool

    @property
    def state(self) -> str:
        """ "" for a sound run; else what to know before its metrics are read."""
        if not self.finished:
            return f"unfinished, {len(self.history)} of {self.config.trainer.epochs} epochs"
        return "at chance" if self.test is not None and at_chance(self.test) else ""


def at_chance(test: dict[str, Any]) -> bool:
    """Whether a test is no better than always answering its most common class: its interval reaches down to that."""
    counts = [row["n"] for row in test.get("per_class", []) if "n" in row]
    if not counts or "accuracy_interval" not in test:
        return False
    return bool(test["accuracy_interval"][0] <= max(counts) / max(1, sum(counts)))


def runs_below(path: str) -> list[str]:
    """A run as it is; of a folder of runs each one that has trained an epoch, sorted by name.

    Raises:
        RunError: a folder of runs of which none has.
    """
    folder = given_path(path, "RUN")
    runs = [] if RunFolder(folder).config.exists() else sorted(file.parent for file in folder.glob("*/config.yaml"))
    begun = [str(run) for run in runs if RunFolder(run).history()]
    if runs and not begun:
        raise RunError(f"of the {len(runs)} runs in {folder} none has finished an epoch yet; compare them later.")
    return begun or [str(folder)]


def compare_runs(folders: Mapping[str, Path], plot: str | Path) -> list[ComparedRun]:
    """Read the runs and draw their curves into `plot`.

    Args:
        folders: the run folders by the names that the runs are shown under.

    Raises:
        RunError: a folder that is no run or has no epoch yet, or a plot that cannot be written.
    """
    runs = []
    for name, path in folders.items():
        folder = open_folder(path)
        history = folder.history()
        if not history:
            raise RunError(f"{folder.path} has not finished an epoch yet; go on with `cnnlab resume {folder.path}`.")
        facts = read_config(folder), history, folder.read_card(), folder.test_metrics()
        runs.append(ComparedRun(name, *facts, folder.report.exists()))
    try:
        plot_curves({run.name: run.history for run in runs}, plot)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write the plot {plot}: {error}; give another file with --out.") from None
    return runs
