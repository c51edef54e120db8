"""Which epoch of a training is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cnnlab.proportions import score_interval
from cnnlab.tasks import Metric

FEW = 100  # validation images: below, the best epoch of many is best by luck
TOO_FEW = 10  # validation images: below, they say nothing of an epoch

Row = Mapping[str, Any]


def improves(row: Row, history: Sequence[Row], metric: Metric) -> bool:
    """Whether an epoch is better on validation than all before: by the metric, then by a lower loss.

    Without a validation split the latest is best. A validation loss that is no number never is.
    """
    if row["val_accuracy"] is None:
        return True
    before = [one for one in history if math.isfinite(one["val_loss"])]
    return math.isfinite(row["val_loss"]) and all(metric.rank(row) > metric.rank(one) for one in before)


def is_kept(row: Row, history: Sequence[Row], metric: Metric, images: int) -> bool:
    """Whether the weights of an epoch replace those that were kept before.

    Where there are few validation images, the latest epoch is kept whose metric lies within the 95 % interval of the
    highest: the highest of many epochs is high by luck, and at the end the rate has fallen and the weights are averages
    over more steps. (After the one-standard-error rule, Breiman et al. 1984, section 3.4.3; one was too narrow: 24 of
    24 images right by luck ruled 22 out.) The interval is that of a proportion, and of other means between 0 and 1
    an approximation. Where there are hardly any images, the latest is kept.

    Args:
        images: of the validation split.
    """
    if row["val_accuracy"] is None or images >= FEW or improves(row, history, metric):
        return improves(row, history, metric)
    if not math.isfinite(row["val_loss"]):
        return False
    if images < TOO_FEW:
        return True
    values = [one[metric.column] for one in history if math.isfinite(one["val_loss"])]
    known = [value for value in values if value is not None]
    if row[metric.column] is None or not known or not metric.higher or not all(0 <= value <= 1 for value in known):
        return False  # how far it varies by chance is not known
    lowest, _ = score_interval(max(known), images)
    return bool(row[metric.column] >= lowest)
