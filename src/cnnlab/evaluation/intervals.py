"""How far a figure can be trusted: intervals of 95 % over the pictures that it was measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.evaluation.metrics import ECE_BINS, bin_of, picture_losses, ranks, wilson_interval

RESAMPLES = 1000
CHUNK = 100  # resamples at once: their counts of 10,000 pictures are 4 MB
TAILS = (0.025, 0.975)


def bootstrap_intervals(
    logits: Tensor, labels: Tensor, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, list[float]]:
    """Percentile intervals of 95 % (Efron and Tibshirani 1993, section 13.3) over resamples of the pictures.

    The calibration error of a resample is by chance larger than the figure itself; its interval is moved down by the
    mean of that excess, not below 0.

    Args:
        logits: (n, K) float; labels: (n,) int64.
        seed: of the resamples; the same one gives the same intervals.

    Returns:
        [low, high] of loss, mean_class_accuracy, macro_f1, ece and top5_accuracy.
    """
    sums = _Sums(logits, labels)
    random = np.random.Generator(np.random.PCG64(seed))
    sizes = [min(CHUNK, resamples - first) for first in range(0, resamples, CHUNK)]
    parts = [sums.figures(_counts(len(labels), size, random)) for size in sizes]
    drawn = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    measured = sums.figures(torch.ones(1, len(labels)))
    drawn["ece"] = (drawn["ece"] - drawn["ece"].mean() + measured["ece"]).clamp_min(0)
    tails = torch.tensor(TAILS, dtype=torch.float64)
    return {name: values.quantile(tails).tolist() for name, values in drawn.items()}


def _counts(pictures: int, resamples: int, random: np.random.Generator) -> Tensor:
    """(resamples, pictures) float32: how often each picture was drawn."""
    counts = np.empty((resamples, pictures), np.float32)
    for row in counts:
        row[:] = np.bincount(random.integers(0, pictures, pictures), minlength=pictures)
    return torch.from_numpy(counts)


class _Sums:
    """The sums over the pictures that the figures are made from. float32 counts up to 16 million pictures exactly."""

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        best = logits.double().softmax(1).max(1)
        self.classes = logits.shape[1]
        self.labels, self.guesses = labels, logits.argmax(1)
        self.right = (self.guesses == labels).float()
        gaps = F.one_hot(bin_of(best.values), ECE_BINS) * (best.values - self.right)[:, None]
        top5 = (ranks(logits, labels) < 5).double()
        self.added = torch.cat([picture_losses(logits, labels)[:, None], top5[:, None], gaps], 1).float()

    def figures(self, counts: Tensor) -> dict[str, Tensor]:
        """(R, n) counts of the pictures → each figure as (R,)."""
        means = (counts @ self.added).double() / counts.sum(1, keepdim=True)
        true, guessed = self._by_class(self.labels, counts), self._by_class(self.guesses, counts)
        hits = self._by_class(self.labels, counts * self.right)
        f1 = 2 * hits / (true + guessed).clamp_min(1)
        return {
            "loss": means[:, 0],
            "mean_class_accuracy": (hits / true.clamp_min(1)).sum(1) / (true > 0).sum(1),
            "macro_f1": f1.sum(1) / (true + guessed > 0).sum(1),
            "ece": means[:, 2:].abs().sum(1),
            "top5_accuracy": means[:, 1],
        }

    def _by_class(self, classes: Tensor, counts: Tensor) -> Tensor:
        """(R, K) sums of (R, n) counts."""
        return counts.new_zeros(len(counts), self.classes).index_add_(1, classes, counts).double()


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


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, standard deviation (n − 1) and half of the 95 % interval of the mean, by the normal distribution."""
    tensor = torch.tensor(values, dtype=torch.float64)
    spread = tensor.std().item() if len(values) > 1 else 0.0
    return tensor.mean().item(), spread, 1.959964 * spread / math.sqrt(len(values))
