"""How well a proportion is known that was counted."""

from __future__ import annotations

import math


def wilson_interval(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): honest for small counts and near 0 and 1."""
    return score_interval(correct / count, count, z) if count else (0.0, 1.0)


def score_interval(share: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval for what varies as a proportion of `count` images does, be `count` whole or not."""
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # at 0 and 1 they differ by rounding
