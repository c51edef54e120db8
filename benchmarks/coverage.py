"""How often the 95 % intervals of studies and of test.json hold the true value, on simulated networks.

    python benchmarks/coverage.py [REPLICATES]

Prints two tables (docs/studies.md has them). An image has a difficulty that all networks share and one that the
networks of a setting share; each network answers with an error of its own, and each seed shifts the accuracy of its
network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from cnnlab.evaluation.crossed import Answers, contrast
from cnnlab.evaluation.intervals import metric_intervals, ratio_interval
from cnnlab.evaluation.metrics import classification_metrics
from cnnlab.proportions import wilson_interval

SHARED, OWN_EFFECT = 1.0, 0.5  # standard deviations of an image's difficulty for all networks, and for one setting's
TEST_SHARE = 5  # without an official test split, a seed is tested on one in so many images
TRUTH = 400_000  # images whose metrics count as the true ones
Interval = tuple[float, float]


def difference_coverage(
    replicates: int, *, images: int, seeds: int, own: bool, accuracy: float, gap: float, spread: float, seed: int = 0
) -> float:
    """Share of intervals that hold the true difference of two settings.

    With one seed the true difference is that of the two networks, otherwise that of the means over all seeds.

    Args:
        own: each seed has its own test images, drawn from five times as many.
        accuracy, gap: of the first setting, and how much lower that of the second is.
        spread: standard deviation over the seeds, as accuracy.
    """
    random = np.random.default_rng(seed)
    steady = np.sqrt(SHARED**2 + OWN_EFFECT**2 + 1)
    held = 0
    for _ in range(replicates):
        pool = images * TEST_SHARE if own else images
        difficulty = random.normal(0, SHARED, pool)
        tests = [random.permutation(pool)[:images] if own else np.arange(images) for _ in range(seeds)]
        sides, networks = [], []
        for wanted in (accuracy, accuracy - gap):
            place = ndtri(wanted)
            shift = spread * np.sqrt(2 * np.pi) * np.exp(place**2 / 2) * steady  # of the margin, for so much accuracy
            margin = place * np.sqrt(steady**2 + shift**2) + random.normal(0, shift, seeds)
            ease = difficulty + random.normal(0, OWN_EFFECT, pool)
            answers = [
                margin[number] + ease[chosen] + random.normal(0, 1, images) > 0 for number, chosen in enumerate(tests)
            ]
            sides.append({n: Answers(c, a.astype(float)) for n, (c, a) in enumerate(zip(tests, answers, strict=True))})
            networks.append(float(ndtr(margin[0] / steady)))
        low, high = contrast(*sides).interval
        held += low <= (networks[0] - networks[1] if seeds == 1 else gap) <= high
    return held / replicates


def draw(count: int, classes: int, sharpness: float, overconfidence: float, random: torch.Generator) -> list[Tensor]:
    """(n, K) logits and (n,) labels. With an `overconfidence` of 1 the probabilities are calibrated."""
    logits = sharpness * torch.randn(count, classes, generator=random, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0]
    return [logits * overconfidence, labels]


def figure_coverage(
    replicates: int, count: int, classes: int = 10, sharpness: float = 6, overconfidence: float = 1.0
) -> dict[str, float]:
    """Share of intervals that hold the true value, for each metric of test.json that has one."""
    random = torch.Generator().manual_seed(0)
    names = [str(number) for number in range(classes)]
    truth = classification_metrics(*draw(TRUTH, classes, sharpness, overconfidence, random), names)
    held: dict[str, int] = {}
    for _ in range(replicates):
        logits, labels = draw(count, classes, sharpness, overconfidence, random)
        right = int((logits.argmax(1) == labels).sum())
        found = {"accuracy": wilson_interval(right, count), **metric_intervals(logits, labels)}
        for name, (low, high) in found.items():
            held[name] = held.get(name, 0) + (low <= truth[name] <= high)
    return {name: hits / replicates for name, hits in held.items()} | {"true accuracy": truth["accuracy"]}


def pixel_coverage(replicates: int, images: int, accuracy: float, classes: int = 4) -> float:
    """Share of intervals that hold the true mean IoU, of images whose own accuracy varies."""
    random = np.random.default_rng(0)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        own = random.beta(8 * accuracy, 8 * (1 - accuracy), (count, 1))
        sizes = (1000 * random.dirichlet(np.arange(1, classes + 1), count)).astype(int)
        hits = random.binomial(sizes, own)
        missed = sizes - hits
        return torch.from_numpy(hits.astype(float)), torch.from_numpy((sizes + np.roll(missed, 1, 1)).astype(float))

    parts, wholes = drawn(TRUTH)
    truth = (parts.sum(0) / wholes.sum(0)).mean().item()
    bounds: list[Interval] = [ratio_interval(*drawn(images)) for _ in range(replicates)]
    return sum(low <= truth <= high for low, high in bounds) / replicates


def difference_rows(replicates: int) -> Iterator[list[str]]:
    cells = [(0.6, 0.02), (0.9, 0.02), (0.99, 0.003)]
    for own in (False, True):
        for seeds in (1, 3, 5):
            for images in (100, 1000, 10_000):
                few = replicates if images < 10_000 else max(1, replicates // 4)
                row = ["its own" if own else "shared", str(seeds), f"{images:,}"]
                for accuracy, gap in cells:
                    spreads = [part * (1 if accuracy < 0.99 else 0.2) for part in (0, 0.005, 0.02)]
                    found = [
                        difference_coverage(
                            few, images=images, seeds=seeds, own=own, accuracy=accuracy, gap=gap, spread=spread
                        )
                        for spread in spreads
                    ]
                    row.append(" / ".join(f"{100 * value:.1f}" for value in found))
                yield row


def figure_rows(replicates: int) -> Iterator[list[str]]:
    for sharpness, overconfidence in ((6, 1.0), (6, 1.5), (40, 1.0)):
        for count in (100, 360, 2000, 10_000):
            found = figure_coverage(replicates, count, sharpness=sharpness, overconfidence=overconfidence)
            names = ("accuracy", "mean_class_accuracy", "macro_f1", "loss", "top5_accuracy", "ece")
            trust = "calibrated" if overconfidence == 1 else "overconfident"
            cells = [f"{100 * found[name]:.1f}" for name in names]
            yield [f"{100 * found['true accuracy']:.1f} %, {trust}", f"{count:,}", *cells]


def table(headings: list[str], rows: Callable[[int], Iterator[list[str]]], replicates: int) -> None:
    print("| " + " | ".join(headings) + " |\n|" + "---|" * len(headings))
    for row in rows(replicates):
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def main() -> None:
    replicates = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    table(["test split", "seeds", "images", "60 %", "90 %", "99 %"], difference_rows, replicates)
    headings = ["network", "images", "accuracy", "mean class accuracy", "macro F1", "loss", "top-5", "ECE"]
    table(headings, figure_rows, replicates)
    for images in (10, 30, 100):
        values = (100 * pixel_coverage(replicates, images, accuracy) for accuracy in (0.7, 0.95))
        print(f"mean IoU, {images} images:", " / ".join(f"{value:.1f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
