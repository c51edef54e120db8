"""Figures of a classifier from its logits; torchmetrics computes them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ECE_BINS = 15


def wilson_interval(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): honest for small counts and near 0 and 1."""
    if count == 0:
        return 0.0, 1.0
    share = correct / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def classification_figures(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """What test.json holds.

    Args:
        logits: (n, K) float; labels: (n,) int64; classes: K names.

    Returns:
        loss (cross-entropy), accuracy and its 95 % interval, mean_class_accuracy (the mean recall of the classes that
        have pictures), top5_accuracy, macro_f1, ece (15 bins, Guo et al. 2017),
        n, per_class (class, n, precision, recall, f1) and confusion_matrix (rows true, columns predicted).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.functional.classification import (
            multiclass_accuracy,
            multiclass_calibration_error,
            multiclass_confusion_matrix,
            multiclass_f1_score,
            multiclass_precision,
            multiclass_recall,
        )
    k = len(classes)
    probabilities = logits.softmax(1)
    matrix = multiclass_confusion_matrix(logits, labels, k)
    each = {
        "precision": multiclass_precision(logits, labels, k, average="none"),
        "recall": multiclass_recall(logits, labels, k, average="none"),
        "f1": multiclass_f1_score(logits, labels, k, average="none"),
    }
    return {
        **accuracy_figures(logits, labels),
        "mean_class_accuracy": each["recall"][matrix.sum(1) > 0].double().mean().item(),
        "top5_accuracy": multiclass_accuracy(logits, labels, k, average="micro", top_k=min(5, k)).item(),
        "macro_f1": multiclass_f1_score(logits, labels, k, average="macro").item(),
        "ece": multiclass_calibration_error(probabilities, labels, k, n_bins=ECE_BINS).item(),
        "n": len(labels),
        "per_class": [
            {"class": name, "n": int(matrix[i].sum()), **{key: value[i].item() for key, value in each.items()}}
            for i, name in enumerate(classes)
        ],
        "confusion_matrix": matrix.tolist(),
    }


def accuracy_figures(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """loss, accuracy and its 95 % interval."""
    correct = int((logits.argmax(1) == labels).sum())
    return {
        "loss": F.cross_entropy(logits.double(), labels).item(),
        "accuracy": correct / len(labels),
        "accuracy_interval": list(wilson_interval(correct, len(labels))),
    }


def most_confused(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], count: int = 10
) -> list[tuple[str, str, int]]:
    """(true, predicted, how often) of the largest cells off the diagonal."""
    table = torch.tensor(matrix)
    table.fill_diagonal_(0)
    values, places = table.flatten().topk(min(count, table.numel()))
    return [
        (classes[p // len(classes)], classes[p % len(classes)], v)
        for v, p in zip(values.tolist(), places.tolist(), strict=True)
        if v
    ]
