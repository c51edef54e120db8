"""Figures of a classifier from its logits. scikit-learn is their oracle in the tests: it takes seconds to import."""

from __future__ import annotations

import math
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
    k = len(classes)
    probabilities = logits.double().softmax(1)
    guesses = logits.argmax(1)
    matrix = torch.bincount(labels * k + guesses, minlength=k * k).view(k, k)
    hits, true, guessed = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    recall, precision = hits / true.clamp_min(1), hits / guessed.clamp_min(1)
    f1 = 2 * hits / (true + guessed).clamp_min(1)
    best = logits.topk(min(5, k)).indices
    return {
        **accuracy_figures(logits, labels),
        "mean_class_accuracy": recall[true > 0].mean().item(),
        "top5_accuracy": (best == labels[:, None]).any(1).double().mean().item(),
        "macro_f1": f1[true + guessed > 0].mean().item(),
        "ece": calibration_error(probabilities.amax(1), guesses == labels),
        "n": len(labels),
        "per_class": [
            {"class": name, "n": n, "precision": p, "recall": r, "f1": f}
            for name, n, p, r, f in zip(
                classes, true.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True
            )
        ],
        "confusion_matrix": matrix.tolist(),
    }


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = ECE_BINS) -> float:
    """Mean distance of confidence and accuracy over bins of equal width (Guo et al. 2017, eq. 3).

    Args:
        confidence: (n,) float64, probability of the class that was answered; correct: (n,) bool.
    """
    place = torch.bucketize(confidence, torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, confidence - correct.double())
    return (gaps.abs().sum() / len(confidence)).item()


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
