"""Whether predicted probabilities match the accuracy, and the one number that corrects most of it: the temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnlab.evaluation.metrics import ECE_BINS, bin_of, calibration_error, debiased_calibration_error, image_losses

STEPS = 60  # a dozen are enough, unless Newton's steps lead out of the bracket
RANGE = 100.0  # temperatures are sought from 1/100 to 100


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by before the softmax, None where there is none, and the images it was fitted on."""

    value: float | None
    n: int


def fit_temperature(logits: Tensor, labels: Tensor) -> Temperature:
    """The temperature that minimises the cross-entropy of logits / T (Guo et al. 2017, section 4.2).

    The cross-entropy is convex in 1/T: Newton's method within a bracket finds its only minimum. There is none where
    every image is classified correctly, as it then falls with T without end, and none without images.

    Args:
        logits: (n, K) float of the validation split; labels: (n,) int64.
    """
    if not len(labels) or not logits.isfinite().all() or bool((logits.argmax(1) == labels).all()):
        return Temperature(None, len(labels))
    logits = logits.double() - logits.amax(1, keepdim=True)
    true = logits.gather(1, labels[:, None])[:, 0]
    low, factor, high = 1 / RANGE, 1.0, RANGE  # of 1/T
    for _ in range(STEPS):
        probabilities = (logits * factor).softmax(1)
        mean = (probabilities * logits).sum(1)
        slope = (mean - true).mean().item()
        bend = ((probabilities * logits.square()).sum(1) - mean.square()).mean().item()
        low, high = (low, factor) if slope > 0 else (factor, high)
        guess = factor - slope / bend if bend > 0 else 0.0
        before, factor = factor, guess if low < guess < high else math.sqrt(low * high)
        if abs(factor - before) <= 1e-9 * factor:
            break
    return Temperature(1 / factor, len(labels))


def calibration_metrics(logits: Tensor, labels: Tensor, temperature: Temperature) -> dict[str, Any]:
    """How well confidence meets accuracy, as it is and with the temperature.

    Args:
        logits: (n, K) float of the split that is tested; labels: (n,) int64.

    Returns:
        temperature and n of the validation images it was fitted on; before and after (None without a temperature):
        loss, ece, ece_debiased, and bins of the confidence (low edge, n, mean confidence, accuracy; the last two None
        if empty).
    """
    after = None if temperature.value is None else _metrics(logits.double() / temperature.value, labels)
    return {
        "temperature": temperature.value,
        "n": temperature.n,
        "before": _metrics(logits.double(), labels),
        "after": after,
    }


def _metrics(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    best = logits.softmax(1).max(1)
    right = best.indices == labels
    return {
        "loss": image_losses(logits, labels).mean().item(),
        "ece": calibration_error(best.values, right),
        "ece_debiased": debiased_calibration_error(best.values, right),
        "bins": reliability(best.values, right),
    }


def reliability(confidence: Tensor, correct: Tensor) -> list[dict[str, Any]]:
    """Bins of equal width over the confidence: low edge, n, mean confidence and accuracy.

    Args:
        confidence: (n,) float64 in [0, 1], probability of the class that was answered; correct: (n,) bool.
    """
    place = bin_of(confidence)
    counts = torch.bincount(place, minlength=ECE_BINS)
    sums = torch.zeros(2, ECE_BINS, dtype=torch.float64).index_add_(
        1, place, torch.stack([confidence, correct.double()])
    )
    means = (sums / counts.clamp_min(1)).T.tolist()
    return [
        {
            "low": number / ECE_BINS,
            "n": count,
            "confidence": means[number][0] if count else None,
            "accuracy": means[number][1] if count else None,
        }
        for number, count in enumerate(counts.tolist())
    ]
