"""Curves of several runs in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> None:
    """Loss and accuracy over the epochs, training dashed and validation solid, one colour a run; saved to `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for number, (run, rows) in enumerate(histories.items()):
            colour = f"C{number % 10}"
            epochs = [row["epoch"] for row in rows]
            marker = "o" if len(rows) < 3 else None
            for part, style in (("train", "--"), ("val", "-")):
                values = [row[f"{part}_{name}"] for row in rows]
                if any(value is not None for value in values):
                    points = [float("nan") if value is None else value for value in values]
                    label = run if part == "val" else None
                    axis.plot(epochs, points, style, color=colour, label=label, marker=marker, linewidth=1.6)
        axis.set_xlabel("epoch")
        axis.set_title(f"{name} (training dashed, validation solid)", loc="left", fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[1].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)
