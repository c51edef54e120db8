"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnlab.config import Config
from cnnlab.errors import RunError
from cnnlab.evaluation.plots import plot_curves
from cnnlab.remote import is_remote
from cnnlab.runs.artifact import is_artifact
from cnnlab.runs.folder import open_folder, read_config


@dataclass(frozen=True)
class ComparedRun:
    """One row of the comparison."""

    name: str
    config: Config
    history: list[dict[str, Any]]
    best: dict[str, Any]
    test: dict[str, Any] | None


def compare_runs(paths: Sequence[str], picture: str | Path) -> list[ComparedRun]:
    """Read the runs and draw their curves into `picture`.

    Raises:
        RunError: a folder that is no run or has no epoch yet, or a picture that cannot be written.
    """
    runs = []
    for path in dict.fromkeys(p if is_remote(p) or is_artifact(p) else str(Path(p)) for p in paths):
        folder = open_folder(path)
        history = folder.history()
        if not history:
            raise RunError(f"{folder.path} has not finished an epoch yet; go on with `cnnlab resume {folder.path}`.")
        runs.append(ComparedRun(path, read_config(folder), history, folder.read_card(), folder.test_figures()))
    try:
        plot_curves({run.name: run.history for run in runs}, picture)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write the picture {picture}: {error}; give another file with --out.") from None
    return runs
