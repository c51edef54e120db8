"""The confusion matrix: a table of counts for few classes, a heat map as SVG for many, and the worst pairs for both.

A cell is shaded by the square root of its share of the row (of all images that truly are of that class), so that one
image in a hundred still shows, and two runs compare by eye.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from cnnlab.report import marks
from cnnlab.report.formatting import percent, shorten

MAX_TABLE_CLASSES = 20  # up to here every count is printed
MAX_NAMED_CLASSES = 45  # up to here a heat map shows the class names at its natural size
MAX_TOOLTIPS = 6000  # a tooltip is about 120 bytes and one element of the page
LEVELS = 10  # shades of a heat map: cells of one shade share a group
CELL = 12  # SVG units


@dataclass(frozen=True)
class MatrixCell:
    """One count of the matrix, with its shade in [0, 1] and its meaning in words."""

    count: int
    shade: float
    right: bool
    text: str


def as_counts(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the matrix as (C, C) whole numbers, rows true, columns predicted."""
    counts = np.asarray(matrix, dtype=np.int64)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"the confusion matrix of {len(classes)} classes must be square, got shape {counts.shape}")
    return counts


def shades(counts: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the square root of each cell's share of its row, (C, C) in [0, 1]; an empty row stays 0."""
    totals = counts.sum(axis=1, keepdims=True)
    root: np.ndarray[Any, np.dtype[np.float64]] = np.sqrt(counts / np.maximum(totals, 1))
    return root


def in_words(true: str, predicted: str, count: int) -> str:
    return f"{true}: {count} right" if true == predicted else f"{true} → {predicted}: {count}"


def table_rows(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[tuple[str, list[MatrixCell]]]:
    """Return (true class, its cells) in the order of `classes`."""
    counts = as_counts(matrix, classes)
    shade = shades(counts)
    return [
        (
            true,
            [
                MatrixCell(
                    count=int(counts[row, column]),
                    shade=round(float(shade[row, column]), 3),
                    right=row == column,
                    text=in_words(true, predicted, int(counts[row, column])),
                )
                for column, predicted in enumerate(classes)
            ],
        )
        for row, true in enumerate(classes)
    ]


def majority_share(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> float | None:
    """Return the accuracy of always answering with the most common class, None without images."""
    totals = as_counts(matrix, classes).sum(axis=1)
    return float(totals.max() / totals.sum()) if totals.sum() else None


def heat_map(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Draw the non-zero cells as SVG, tooltips on the `MAX_TOOLTIPS` largest. Rows true, columns predicted."""
    counts = as_counts(matrix, classes)
    levels = np.ceil(shades(counts) * LEVELS).astype(int)
    names = [shorten(name, 24) for name in classes]
    side = CELL * len(classes)
    margin = max(12 + round(5.2 * max(len(name) for name in names)), side // 20)  # for the names or the axis titles
    cells = [(int(row), int(column)) for row, column in np.argwhere(counts)]
    cells.sort(key=lambda cell: -counts[cell])
    told = {cell: in_words(names[cell[0]], names[cell[1]], int(counts[cell])) for cell in cells[:MAX_TOOLTIPS]}
    extent, width = side + margin + 2, natural_width(side + margin, len(classes))
    parts = [
        f'<svg class="heat" viewBox="{-margin} {-margin} {extent} {extent}" style="--natural: {width}px"',
        f' role="img" aria-label="{escape(summary(counts))}">',
        f'<rect class="frame" width="{side}" height="{side}"/>',
    ]
    groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for cell in cells:
        astray = f'class="astray" style="--shade:{levels[cell] / LEVELS:g}"'
        groups['class="right"' if cell[0] == cell[1] else astray].append(cell)
    for attributes, chosen in sorted(groups.items()):
        silent = "".join(square(*cell) for cell in chosen if cell not in told)
        shapes = [marks.path("", square(*cell), told[cell]) for cell in chosen if cell in told]
        if silent:
            shapes.append(marks.path("", silent))
        parts.append(f"<g {attributes}>{''.join(shapes)}</g>")
    parts += [name_labels(names), axis_titles(side), "</svg>"]
    return "".join(parts)


def natural_width(units: int, num_classes: int) -> int:
    """Return the width in CSS pixels at which class names are readable: a cell of 15 to 24 pixels."""
    cell = min(24.0, max(15.0, 600 / num_classes))
    return round(units * cell / CELL)


def square(row: int, column: int) -> str:
    return f"M{column * CELL} {row * CELL}h{CELL}v{CELL}h-{CELL}z"


def name_labels(names: Sequence[str]) -> str:
    rows = "".join(marks.text("", -4, CELL * i + 9, name) for i, name in enumerate(names))
    columns = "".join(marks.upright_text(CELL * i + 9, -4, name) for i, name in enumerate(names))
    return f'<g class="names" text-anchor="end">{rows}</g><g class="names">{columns}</g>'


def axis_titles(side: int) -> str:
    """Titles in the margin for the view that is too small for names; sized with the matrix, not with a cell."""
    size = side / 36
    return (
        f'<g class="titles" text-anchor="middle" font-size="{size:.1f}">'
        f"{marks.text('', side / 2, -size / 2, 'predicted')}{marks.upright_text(-size / 2, side / 2, 'true')}</g>"
    )


def summary(counts: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    total, right = int(counts.sum()), int(np.trace(counts))
    share = percent(right / total) if total else "none"
    return f"Confusion matrix of {len(counts)} classes: {right:,} of {total:,} images on the diagonal ({share} right)."
