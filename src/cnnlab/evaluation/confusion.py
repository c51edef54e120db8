"""Which classes are taken for which; the report's page reads this without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Confusion:
    """`count` of the `total` images of class `true` were called `predicted`."""

    true: str
    predicted: str
    count: int
    total: int


def most_confused(matrix: Sequence[Sequence[int]], classes: Sequence[str], limit: int = 10) -> list[Confusion]:
    """The largest cells off the diagonal, largest first; ties by share of the row, then by order.

    Args:
        matrix: (K, K) counts, rows true, columns predicted.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    totals = counts.sum(axis=1)
    cells = [(int(row), int(column)) for row, column in np.argwhere(counts) if row != column]
    cells.sort(key=lambda cell: (-counts[cell], totals[cell[0]], cell))
    return [
        Confusion(classes[row], classes[column], int(counts[row, column]), int(totals[row]))
        for row, column in cells[:limit]
    ]
