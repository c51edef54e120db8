"""Curves of several runs in one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG_FROM = 100.0  # largest over smallest loss from which on the axis is logarithmic: one outlier would flatten the rest
Histories = Mapping[str, Sequence[Mapping[str, Any]]]  # the rows of each run's metrics.jsonl, by the run's name


def plot_curves(histories: Histories, path: str | Path | None = None) -> Figure:
    """Draw loss and accuracy over the epochs, training dashed and validation solid, one colour a run.

    Args:
        histories: a name for the legend → the rows of a run's metrics.jsonl, as `run.history` has them.
        path: also save the plot there, as PNG, SVG or PDF.

    Example:
        >>> cnnlab.plot_curves({"mlp": first.history, "vgg": second.history})
    """
    from cnnlab.figure import NotebookFigure, save_figure

    figure = NotebookFigure(figsize=(11, 4.4), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for number, (run, rows) in enumerate(histories.items()):
            colour = f"C{number % 10}"
            epochs = [row["epoch"] for row in rows]
            marker = "o" if len(rows) < 3 else None
            label: str | None = run
            for part, style in (("val", "-"), ("train", "--")):
                values = [row[f"{part}_{name}"] for row in rows]
                if any(value is not None for value in values):
                    points = [float("nan") if value is None else value for value in values]
                    axis.plot(epochs, points, style, color=colour, label=label, marker=marker, linewidth=1.6)
                    label = None
        losses = [y for line in axis.lines for y in np.asarray(line.get_ydata(), float) if np.isfinite(y)]
        if name == "loss" and losses and min(losses) > 0 and max(losses) > LOG_FROM * min(losses):
            axis.set_yscale("log")
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(f"{name} (training dashed, validation solid)", loc="left", fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[1].legend(fontsize=8, loc="lower right")
    if path is not None:
        save_figure(figure, path, dpi=130)
    return figure
