"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cnnlab.config import Config
from cnnlab.errors import RunError
from cnnlab.evaluation.plots import plot_curves
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
    for path in dict.fromkeys(str(Path(p)) for p in paths):
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


def comparison_table(runs: Sequence[ComparedRun]) -> Table:
    """Run, model, epochs, validation and test accuracy with its interval, seconds, images/s."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("run", overflow="fold")
    for heading in ("data", "model", "epochs", "val", "test", "95 % interval", "time", "images/s"):
        table.add_column(heading, justify="left" if heading in ("data", "model") else "right", no_wrap=True)
    for run in runs:
        seconds = sum(row["seconds"] for row in run.history)
        rates = sorted(row["images_per_second"] for row in run.history)
        val = run.best.get("val_accuracy")
        low, high = run.test["accuracy_interval"] if run.test else (None, None)
        table.add_row(
            run.name,
            run.config.data.name,
            str(run.config.model["name"]),
            str(len(run.history)),
            "–" if val is None else f"{100 * val:.2f} %",
            f"{100 * run.test['accuracy']:.2f} %" if run.test else "–",
            "–" if low is None or high is None else f"{100 * low:.2f}–{100 * high:.2f} %",
            f"{seconds:,.0f} s",
            f"{rates[len(rates) // 2]:,.0f}",
        )
    return table
