"""Metrics of a classifier from its logits. scikit-learn is their oracle in the tests: it takes seconds to import."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.evaluation.confusion import most_confused
from cnnlab.proportions import wilson_interval

ECE_BINS = 15
TOP_K = (1, 2, 3, 5, 10)


def classification_metrics(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """What test.json holds.

    Args:
        logits: (n, K) float; labels: (n,) int64; classes: K names.

    Returns:
        loss (cross-entropy), accuracy and its 95 % interval, mean_class_accuracy (the mean recall of the classes that
        have images), top5_accuracy, topk_accuracy (by k as text, for each k below the number of classes), macro_f1,
        ece (15 bins, Guo et al. 2017; biased upwards), ece_debiased, n, per_class (class, n, precision,
        recall, f1), confusion_matrix (rows true, columns predicted) and most_confused (true, predicted, n; the most
        frequent first).
    """
    k = len(classes)
    probabilities = logits.double().softmax(1)
    guesses = logits.argmax(1)
    matrix = torch.bincount(labels * k + guesses, minlength=k * k).view(k, k)
    hits, true, guessed = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    recall, precision = hits / true.clamp_min(1), hits / guessed.clamp_min(1)
    f1 = 2 * hits / (true + guessed).clamp_min(1)
    rank = ranks(logits, labels)
    return {
        **accuracy_metrics(logits, labels),
        "mean_class_accuracy": recall[true > 0].mean().item(),
        "top5_accuracy": (rank < 5).double().mean().item(),
        "topk_accuracy": {str(top): (rank < top).double().mean().item() for top in TOP_K if top < k},
        "macro_f1": f1[true + guessed > 0].mean().item(),
        "ece": calibration_error(probabilities.amax(1), guesses == labels),
        "ece_debiased": debiased_calibration_error(probabilities.amax(1), guesses == labels),
        "n": len(labels),
        "per_class": [
            {"class": name, "n": n, "precision": p, "recall": r, "f1": f}
            for name, n, p, r, f in zip(
                classes, true.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True
            )
        ],
        "confusion_matrix": matrix.tolist(),
        "most_confused": [
            {"true": one.true, "predicted": one.predicted, "n": one.count}
            for one in most_confused(matrix.tolist(), classes)
        ],
    }


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) how many classes stand before the true one; of equal logits the first class wins."""
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(1)


def image_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) cross-entropy of each image, float64."""
    return F.cross_entropy(logits.double(), labels, reduction="none")


def bin_of(confidence: Tensor, bins: int = ECE_BINS) -> Tensor:
    """(n,) float64 in [0, 1] → (n,) number of its bin; of an edge the lower one."""
    return torch.bucketize(confidence, torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = ECE_BINS) -> float:
    """Mean distance of confidence and accuracy over bins of equal width (Guo et al. 2017, eq. 3).

    Args:
        confidence: (n,) float64, probability of the class that was answered; correct: (n,) bool.
    """
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of(confidence, bins), confidence - correct.double())
    return (gaps.abs().sum() / len(confidence)).item()


def debiased_calibration_error(confidence: Tensor, correct: Tensor, bins: int = ECE_BINS) -> float:
    """The calibration error minus its bias (in the manner of Kumar et al. 2019, section 4.3).

    The gap of a bin is known up to a normal error, whose standard deviation follows from the confidences. The mean of
    a folded normal variable lies above the size of the true gap, most where that is 0. The true gap's square is taken
    as the measured one's less the error's variance. Not below 0.

    Args:
        confidence: (n,) float64, probability of the class that was answered; correct: (n,) bool.
    """
    place, zeros = bin_of(confidence, bins), torch.zeros(bins, dtype=torch.float64)
    gaps = zeros.index_add(0, place, confidence - correct.double()) / len(confidence)
    error = zeros.index_add(0, place, confidence * (1 - confidence)).sqrt() / len(confidence)
    true = (gaps.square() - error.square()).clamp_min(0).sqrt()
    ratio = true / error.clamp_min(1e-300)
    folded = error * math.sqrt(2 / math.pi) * (-ratio.square() / 2).exp() + true * torch.erf(ratio / math.sqrt(2))
    return max(0.0, (gaps.abs() - (folded - true)).sum().item())


def accuracy_metrics(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """loss, accuracy and its 95 % interval."""
    correct = int((logits.argmax(1) == labels).sum())
    return {
        "loss": F.cross_entropy(logits.double(), labels).item(),
        "accuracy": correct / len(labels),
        "accuracy_interval": list(wilson_interval(correct, len(labels))),
    }
