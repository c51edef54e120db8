"""95 % confidence intervals of the metrics, over the images that they were measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from cnnlab.evaluation.metrics import (
    ECE_BINS,
    bin_of,
    calibration_error,
    image_losses,
    ranks,
)
from cnnlab.proportions import score_interval, wilson_interval
from cnnlab.tasks.multilabel import average_precision

Z = 1.959964
DRAWS = 4000  # of the errors of the bins


def metric_intervals(logits: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Intervals of 95 % over the images, without a resample: where all answers are right those would have no width.

    Args:
        logits: (n, K) float; labels: (n,) int64.

    Returns:
        [low, high] of loss, mean_class_accuracy, macro_f1, ece and top5_accuracy.
    """
    best = logits.double().softmax(1).max(1)
    guesses = logits.argmax(1)
    low, high = mean_interval_of_skewed(image_losses(logits, labels))
    top5 = int((ranks(logits, labels) < 5).sum())
    found = {
        "loss": (max(0.0, low), high),
        "mean_class_accuracy": class_accuracy_interval(labels, guesses, logits.shape[1]),
        "macro_f1": macro_f1_interval(labels, guesses, logits.shape[1]),
        "ece": calibration_interval(best.values, guesses == labels),
        "top5_accuracy": wilson_interval(top5, len(labels)) if logits.shape[1] > 5 else (1.0, 1.0),
    }
    return {name: list(bounds) for name, bounds in found.items()}


def mean_interval_of_skewed(values: Tensor) -> tuple[float, float]:
    """95 % interval of a mean by Student's t, its skewness taken out by a cubic transformation (Hall 1992, eq. 2.4).

    A few images cost most of the loss: an interval of the same reach to both sides lies too low.

    Args:
        values: (n,) float64. One alone, or equal ones, have no spread: both ends are the mean.
    """
    count, mean = len(values), values.mean().item()
    spread = values.std().item() if count > 1 else 0.0
    if not spread > 0:
        return mean, mean
    third = (((values - mean) / values.std(correction=0)) ** 3).mean().item() / 3
    root = math.sqrt(count)

    def transformed(quantile: float) -> float:
        if abs(third) < 1e-6:
            return quantile
        cube = 1 + 3 * third * (quantile / root - third / (2 * count))
        return root / third * (math.copysign(abs(cube) ** (1 / 3), cube) - 1)

    quantile = float(stdtrit(count - 1, 0.975))
    return mean - spread / root * transformed(quantile), mean - spread / root * transformed(-quantile)


def class_accuracy_interval(labels: Tensor, guesses: Tensor, classes: int) -> tuple[float, float]:
    """95 % interval of the mean recall of the classes that have images: Wilson's, for as many images as would make a
    proportion vary so (the effective sample size of a stratified sample, Korn and Graubard 1998).

    Args:
        labels, guesses: (n,) int64. A class with one image is taken to vary as the mean does.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    there = counts > 0
    counts = counts[there]
    recall = torch.bincount(labels, (guesses == labels).double(), classes)[there] / counts
    mean = recall.mean().item()
    spread = torch.where(counts > 1, recall * (1 - recall) / (counts - 1).clamp_min(1), mean * (1 - mean))
    return _effective_interval(mean, spread.sum().item() / len(counts) ** 2, counts)


def macro_f1_interval(labels: Tensor, guesses: Tensor, classes: int) -> tuple[float, float]:
    """95 % interval of macro F1: as `class_accuracy_interval`, with the variance by the delta method (Takahashi et al.
    2022, section 3.2).

    Args:
        labels, guesses: (n,) int64.
    """
    true, guessed = (torch.bincount(part, minlength=classes).double() for part in (labels, guesses))
    right = guesses == labels
    sizes = (true + guessed).clamp_min(1)
    f1 = 2 * torch.bincount(labels, right.double(), classes) / sizes
    there = true + guessed > 0
    moved = 2 * right / sizes[labels] - f1[labels] / sizes[labels] - f1[guesses] / sizes[guesses]  # (n,), sum 0
    variance = moved.square().sum().item() / int(there.sum()) ** 2
    return _effective_interval(f1[there].mean().item(), variance, true[true > 0])


def _effective_interval(value: float, variance: float, counts: Tensor, quantile: float = Z) -> tuple[float, float]:
    """Wilson's interval of a mean over classes; where nothing varies, for images as the (K,) counts share them out."""
    alike = len(counts) ** 2 / (1 / counts).sum().item()
    known = variance > 0 and 0 < value < 1
    return score_interval(value, value * (1 - value) / variance if known else alike, quantile)


def ratio_interval(parts: Tensor, wholes: Tensor) -> tuple[float, float]:
    """95 % interval of the mean over k of (sum of the parts) / (sum of the wholes), such as pixel accuracy or mean IoU.

    The images are the units: the pixels of one are not independent. Variance by the delta method, then Wilson's
    interval with Student's quantile, for as many images as would make a proportion vary so. Of one image nothing is
    known: [0, 1].

    Args:
        parts, wholes: (n, K) float64, pixels of each image. A column without any does not count.
    """
    sums = wholes.sum(0)
    parts, wholes, sums = parts[:, sums > 0], wholes[:, sums > 0], sums[sums > 0]
    images, columns = parts.shape
    if images < 2 or not columns:
        return 0.0, 1.0
    ratios = parts.sum(0) / sums
    value = ratios.mean().item()
    moved = ((parts - ratios * wholes) / sums).sum(1) / columns  # (n,), sum 0
    variance = moved.square().sum().item() * images / (images - 1)
    known = variance > 0 and 0 < value < 1
    return score_interval(value, value * (1 - value) / variance if known else images, float(stdtrit(images - 1, 0.975)))


def mean_ap_interval(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """95 % interval of the mean over the classes of the average precision, as `class_accuracy_interval`.

    The variance over the images is that of the infinitesimal jackknife (Efron 1982, section 6.2): the average precision
    is a smooth function of how much each image counts, and its derivatives are known.

    Args:
        scores: (n, K); targets: (n, K) of 0 and 1. A class that no image has does not count.
    """
    known = targets.sum(0) > 0
    scores, targets = scores[:, known].double(), targets[:, known].double()
    images, classes = scores.shape
    if images < 2 or not classes:
        return 0.0, 1.0
    value = average_precision(scores, targets).mean().item()
    moved = torch.stack([_moved_ap(scores[:, k], targets[:, k]) for k in range(classes)], 1).mean(1)
    variance = moved.square().sum().item() * images / (images - 1)
    fewest = max(2, int(targets.sum(0).min()))  # with few positives the variance is itself uncertain
    return _effective_interval(value, variance, targets.sum(0), float(stdtrit(fewest - 1, 0.975)))


def _moved_ap(scores: Tensor, targets: Tensor) -> Tensor:
    """(n,) derivative of the average precision by how much each image counts; its sum is 0."""
    ordered, order = scores.sort(descending=True, stable=True)
    truth = targets[order]
    last = torch.searchsorted(-ordered, -ordered, right=True)  # images of at least this score
    hits = truth.cumsum(0)[last - 1]
    precision, positives = hits / last, truth.sum()
    mean = (truth * precision).sum() / positives
    # An image counts in the precision at each positive of no higher score: these lie from its first equal on.
    first = torch.searchsorted(-ordered, -ordered)
    gain, loss = (
        torch.cat([part.flip(0).cumsum(0).flip(0), part.new_zeros(1)])[first]
        for part in (truth / last, truth * hits / last.square())
    )
    moved = (truth * (precision - mean) + truth * gain - loss) / positives
    return torch.empty_like(moved).scatter_(0, order, moved)


def calibration_interval(confidence: Tensor, correct: Tensor) -> tuple[float, float]:
    """95 % interval of the calibration error that infinitely many such images would have in the same bins.

    The measured error is larger than the true one by chance, most where that is 0: of a bin whose gap may have either
    sign, noise only adds. Upper end: no gap is larger than its measured size and its error in the worse direction,
    in quadrature over the bins (each bin's error from Wilson's interval of its accuracy). Lower end: less the 97.5 %
    quantile of what noise adds, with the sign of a bin's error where its gap's sign is certain, without elsewhere.

    Args:
        confidence: (n,) float64, probability of the class that was answered; correct: (n,) bool.
    """
    place = bin_of(confidence)
    counts = torch.bincount(place, minlength=ECE_BINS)
    hits = torch.bincount(place, correct.double(), ECE_BINS)
    used = counts > 0
    shares = (counts[used] / len(confidence)).numpy()
    means = (torch.bincount(place, confidence, ECE_BINS)[used] / counts[used]).numpy()
    accuracies = [wilson_interval(int(hit), int(n)) for hit, n in zip(hits[used], counts[used], strict=True)]
    gaps = means - (hits[used] / counts[used]).numpy()
    low, high = (means - [bounds[end] for bounds in accuracies] for end in (1, 0))  # (bins,) of each gap
    certain = (low > 0) | (high < 0)
    outward = np.where(gaps > 0, high - gaps, gaps - low)
    inward = np.where(gaps > 0, gaps - low, high - gaps)
    worse = np.maximum(outward, inward)
    error = calibration_error(confidence, correct)
    between = max(0.0, float((shares * gaps**2).sum()) - error**2) / len(confidence)  # the shares vary, too
    up = math.sqrt(float(np.square(shares * np.where(certain, outward, worse)).sum()) + Z**2 * between)
    draws = np.random.Generator(np.random.PCG64(0)).standard_normal((DRAWS, len(gaps) + 1))
    draws[:, :-1][:, ~certain] = np.abs(draws[:, :-1][:, ~certain])
    sizes = np.append(shares * np.where(certain, inward, worse) / Z, math.sqrt(between))
    return max(0.0, error - float(np.quantile(draws @ sizes, 0.975))), min(1.0, error + up)


def difference_interval(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """95 % interval of the first proportion less the second, of independent samples (Newcombe 1998, method 10).

    Args:
        first, second: (successes, trials).
    """
    (one, trials), (two, others) = first, second
    p, q = one / trials, two / others
    (low, high), (least, most) = wilson_interval(one, trials), wilson_interval(two, others)
    below = math.hypot(p - low, most - q)
    above = math.hypot(high - p, q - least)
    return p - q - below, p - q + above


def paired_change(before: Tensor, after: Tensor) -> tuple[float, tuple[float, float]]:
    """How much larger a proportion is after than before, on the same items, and its 95 % interval (Agresti and Min
    2005: half an item is added to each of the four cells).

    Args:
        before, after: (n,) bool, n ≥ 1.
    """
    gained, lost, count = int((after & ~before).sum()), int((before & ~after).sum()), len(before)
    change = (gained - lost) / (count + 2)
    spread = 1.959964 * math.sqrt(max(0.0, gained + lost + 1 - (gained - lost) ** 2 / (count + 2))) / (count + 2)
    return (gained - lost) / count, (change - spread, change + spread)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, standard deviation (n − 1) and half of the 95 % interval of the mean, by Student's t."""
    tensor = torch.tensor(values, dtype=torch.float64)
    spread = tensor.std().item() if len(values) > 1 else 0.0
    quantile = float(stdtrit(len(values) - 1, 0.975)) if len(values) > 1 else 0.0
    return tensor.mean().item(), spread, quantile * spread / math.sqrt(len(values))
