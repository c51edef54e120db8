"""The difference of two settings whose runs (seeds) and images are both drawn by chance: a crossed design.

A seed's runs answer the images of its test split. These are the same ones for every seed where the set has an official
test split; without one each seed has its own, and two of them share some images. Both cases, and settings that were
tested on other images, are one: sums over images and sums over seeds of the same residuals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Answers:
    """One run: what it scores on each image it was tested on.

    images: (n,) int, the same number for the same image in every run; scores: (n,) float in [0, 1].
    """

    images: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Contrast:
    """Mean of the first setting less that of the second, with its 95 % interval.

    `seeds`: the fewer of the two sides. `paired`: both sides answered the same images.
    """

    points: float
    interval: tuple[float, float]
    seeds: int
    paired: bool


@dataclass(frozen=True)
class _Side:
    """Runs that differ in the seed alone: (S,) the mean of each, (images, S) what each image adds to its run's mean,
    less what a mean image does, and (images,) what it adds to the mean of all runs."""

    means: np.ndarray
    residuals: np.ndarray
    scores: np.ndarray


def contrast(first: Mapping[int, Answers], second: Mapping[int, Answers]) -> Contrast:
    """Compare two settings by what their runs, by seed, score on their test images.

    The variance of the difference has two parts. What varies from seed to seed is in the means of the runs: its
    standard error takes Student's quantile for so few seeds (of two sides with Welch's degrees of freedom). What all
    seeds share, as an image is hard for each of them, does not show there: it is the variance of each image's mean
    residual less what that owes to the seeds (the method of moments for two crossed random factors: Searle, Casella and
    McCulloch 1992, chapter 4). The two half-widths are added in quadrature (Zou and Donner 2008). Where all scores are
    0 or 1, two images join in, one that only the first answers right and one that only the second does (Bonett and
    Price 2012): without them, no disagreement would be certainty.

    With all runs on the same images, the seeds of the two sides count as independent of each other. Where each seed has
    its own, the runs of a seed share them, and seeds that both sides have are compared pair by pair. With one seed on a
    side the interval covers the images alone: it is about these networks.

    Args:
        first, second: by seed; at least one each, none without images.
    """
    first, second = ({seed: _in_order(run) for seed, run in side.items()} for side in (first, second))
    alike = first.keys() & second.keys()
    paired = bool(alike) and all(np.array_equal(first[seed].images, second[seed].images) for seed in alike)
    everywhere = next(iter(first.values())).images
    shared = all(np.array_equal(run.images, everywhere) for side in (first, second) for run in side.values())
    if paired and not shared:
        first, second = ({seed: side[seed] for seed in sorted(alike)} for side in (first, second))
        sides = [[Answers(first[seed].images, first[seed].scores - second[seed].scores) for seed in first]]
    else:
        sides = [list(first.values()), list(second.values())]
    count = 1 + max(int(run.images.max()) for side in sides for run in side)
    parts = [_side(runs, count) for runs in sides]
    signs = (1, -1)[: len(parts)]
    points = float(sum(sign * part.means.mean() for sign, part in zip(signs, parts, strict=True)))
    seeds = min(len(part.means) for part in parts)
    variance, freedom = _image_variance(signs, parts, sides)
    square = stdtrit(freedom, 0.975) ** 2 * variance
    if seeds > 1:
        noise = sum(part.residuals.var(1, ddof=1).sum() / len(part.means) for part in parts)
        raw = np.array([part.means.var(ddof=1) / len(part.means) for part in parts])
        square = stdtrit(freedom, 0.975) ** 2 * max(0.0, variance - noise)
        if raw.any():
            freedoms = np.array([len(part.means) - 1 for part in parts])
            welch = raw.sum() ** 2 / (raw**2 / (freedoms + 2)).sum() - 2  # Welch 1947, eq. 29: unbiased for few seeds
            square += stdtrit(min(welch, freedoms.sum()), 0.975) ** 2 * raw.sum()
    half = math.sqrt(square)
    return Contrast(points, (max(-1.0, points - half), min(1.0, points + half)), seeds, shared or paired)


def _in_order(run: Answers) -> Answers:
    order = np.argsort(run.images, kind="stable")
    return Answers(run.images[order], run.scores[order])


def _side(runs: Sequence[Answers], count: int) -> _Side:
    means = np.array([run.scores.mean(dtype=np.float64) for run in runs])
    residuals = [
        np.bincount(run.images, (run.scores - mean) / len(run.scores), count)
        for run, mean in zip(runs, means, strict=True)
    ]
    scores = sum((np.bincount(run.images, run.scores / len(run.scores), count) for run in runs), np.zeros(count))
    return _Side(means, np.stack(residuals, 1), scores / len(runs))


def _image_variance(
    signs: Sequence[int], parts: Sequence[_Side], sides: Sequence[Sequence[Answers]]
) -> tuple[float, int]:
    """Variance of the difference by the images, whatever the seeds, and its degrees of freedom."""
    least = min(len(run.scores) for runs in sides for run in runs)
    if least < 2:
        return math.inf, 1  # of one image nothing is known
    residuals = sum(sign * part.residuals.mean(1) for sign, part in zip(signs, parts, strict=True))
    variance = float(np.square(residuals).sum()) * least / (least - 1)
    if all(np.isin(run.scores, (-1, 0, 1)).all() for runs in sides for run in runs):
        scores = sum(sign * part.scores for sign, part in zip(signs, parts, strict=True))
        size = float(np.abs(scores).sum())
        step = float(np.square(scores).sum()) / size if size else 1 / least  # what one image weighs
        variance += 2 * step**2
    return variance, least - 1
