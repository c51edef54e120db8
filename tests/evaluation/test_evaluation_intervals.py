"""Intervals: how often they hold what they are for, and published examples."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from scipy.stats import t as t_distribution
from sklearn.metrics import f1_score
from torch import Tensor

from cnnlab.evaluation.intervals import (
    class_accuracy_interval,
    difference_interval,
    macro_f1_interval,
    mean_interval,
    mean_interval_of_skewed,
    metric_intervals,
    paired_change,
    ratio_interval,
)
from cnnlab.evaluation.metrics import classification_metrics
from cnnlab.evaluation.tables import fall_text, metrics_text
from cnnlab.proportions import wilson_interval


def drawn(count: int, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=random)
    logits = torch.randn(count, classes, generator=random)
    logits[torch.arange(count), labels] += 1
    return logits, labels


def test_every_interval_holds_its_figure_and_comes_out_the_same_again() -> None:
    logits, labels = drawn(300, 8)
    intervals = metric_intervals(logits, labels)
    metrics = classification_metrics(logits, labels, [str(i) for i in range(8)])
    assert set(intervals) == {"loss", "mean_class_accuracy", "macro_f1", "ece", "top5_accuracy"}
    for name, (low, high) in intervals.items():
        assert low < metrics[name] < high, name
    assert metric_intervals(logits, labels) == intervals


def test_the_interval_of_a_mean_is_students_where_values_are_not_skewed_and_reaches_further_up_where_they_are() -> None:
    even = torch.linspace(-1, 1, 50, dtype=torch.float64)
    theirs = t_distribution.interval(0.95, 49, 0, even.std().item() / 50**0.5)
    assert mean_interval_of_skewed(even) == pytest.approx(theirs)
    low, high = mean_interval_of_skewed(even.exp() ** 3)
    assert high - (even.exp() ** 3).mean() > 1.2 * ((even.exp() ** 3).mean() - low)


def test_without_an_error_an_interval_is_not_a_point() -> None:
    labels = torch.arange(60) % 6
    logits = 20.0 * torch.nn.functional.one_hot(labels, 6)
    intervals = metric_intervals(logits, labels)
    for name in ("mean_class_accuracy", "macro_f1", "top5_accuracy"):
        assert intervals[name] == pytest.approx(wilson_interval(60, 60)), name
    assert intervals["ece"][0] == 0 and intervals["ece"][1] > 0.03  # 60 right answers are no proof of 99.9 %
    assert ratio_interval(torch.ones(20, 1), torch.ones(20, 1))[0] < 0.9
    assert ratio_interval(torch.ones(1, 1), torch.ones(1, 1)) == (0, 1)


def test_one_class_has_wilsons_interval() -> None:
    """The mean over classes of one class is a plain proportion, but for n − 1."""
    labels, guesses = torch.zeros(400, dtype=torch.int64), (torch.arange(400) < 40).long()
    assert class_accuracy_interval(labels, guesses, 2) == pytest.approx(wilson_interval(360, 400), abs=2e-4)


def test_the_variance_of_macro_f1_is_that_of_many_samples() -> None:
    random = torch.Generator().manual_seed(0)

    def sample() -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 4, (2000,), generator=random)
        wrong = torch.rand(2000, generator=random) < 0.1 + 0.1 * labels
        return labels, torch.where(wrong, (labels + torch.randint(1, 4, (2000,), generator=random)) % 4, labels)

    def macro(labels: Tensor, guesses: Tensor) -> float:
        return f1_score(labels, guesses, average="macro")

    spread = np.std([macro(*sample()) for _ in range(300)])
    low, high = macro_f1_interval(*sample(), 4)
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.12)


def test_one_image_is_enough() -> None:
    intervals = metric_intervals(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]))
    assert intervals["mean_class_accuracy"] == pytest.approx(wilson_interval(0, 1))
    assert intervals["top5_accuracy"] == [1, 1]  # of three classes each is among five answers


@pytest.mark.slow
@pytest.mark.parametrize("classes", [10, 101])
def test_ten_thousand_images_take_about_a_second(classes: int) -> None:
    logits, labels = drawn(10_000, classes)
    began = time.process_time()
    metric_intervals(logits, labels)
    assert time.process_time() - began < 4


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [  # Newcombe 1998 (Statistics in Medicine 17, 873), table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ],
)
def test_the_interval_of_a_difference_is_newcombes(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    assert difference_interval(first, second) == pytest.approx((low, high), abs=5e-5)


def test_a_difference_the_other_way_round_has_the_interval_turned() -> None:
    low, high = difference_interval((56, 70), (48, 80))
    assert difference_interval((48, 80), (56, 70)) == pytest.approx((-high, -low))


def test_a_fall_is_told_in_words() -> None:
    own = {"accuracy": 0.9, "difference": -0.123, "interval": [-0.145, -0.101]}
    assert fall_text(own) == (
        "accuracy falls by 12.3 points (95 % interval 10.1–14.5) from the run's own test split, 90.00 %"
    )
    assert "rises by 1.0 points (95 % interval −0.5 to 2.5)" in fall_text(
        own | {"difference": 0.01, "interval": [-0.005, 0.025]}
    )
    assert "falls by 1.0 points (95 % interval −0.5 to 2.5)" in fall_text(
        own | {"difference": -0.01, "interval": [-0.025, 0.005]}
    )


def test_a_mean_comes_with_its_spread() -> None:
    mean, spread, half = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert (mean, spread) == (2.5, pytest.approx((5 / 3) ** 0.5))
    assert half == pytest.approx(3.182446 * (5 / 3) ** 0.5 / 2)  # Student's quantile for three degrees of freedom
    assert mean_interval([0.5]) == (0.5, 0, 0)


def test_metrics_of_pixels_are_printed_with_their_intervals() -> None:
    metrics = {"split": "test", "task": "segmentation", "n": 40, "loss": 0.25, "dice": 0.875, "boundary_f1": 0.75}
    metrics |= {"accuracy": 0.9, "accuracy_interval": [0.85, 0.95], "mean_iou": 0.8, "mean_iou_interval": [0.7, 0.9]}
    text = metrics_text(metrics)
    assert "test split, 40 images" in text
    assert "90.00 %  (right; 95 % interval 85.00–95.00 %)" in text
    assert "80.00 %  (95 % interval 70.00–90.00 %)" in text


@pytest.mark.parametrize(("classes", "said"), [(3, False), (5, False), (6, True)])
def test_the_accuracy_among_five_answers_is_printed_for_more_than_five_classes(classes: int, said: bool) -> None:
    metrics = classification_metrics(*drawn(40, classes), [f"c{i}" for i in range(classes)])
    keys = ("mean_class_accuracy", "top5_accuracy", "macro_f1", "loss", "ece")
    metrics |= {"split": "test", "n": 40, "accuracy_interval": [0, 1], "intervals": {key: [0, 1] for key in keys}}
    metrics |= {"calibration": {"temperature": None, "n": 40}}
    assert ("top-5" in metrics_text(metrics)) == said


def test_a_paired_change_is_that_of_the_same_images() -> None:
    """Agresti and Min 2005: (c − b) / (n + 2) ± 1.96 √(b + c + 1 − (c − b)²/(n + 2)) / (n + 2)."""
    before = torch.tensor([True] * 80 + [False] * 20)
    after = torch.tensor([True] * 70 + [False] * 10 + [True] * 4 + [False] * 16)  # 10 lost, 4 gained
    change, (low, high) = paired_change(before, after)
    assert change == pytest.approx(-0.06)
    assert low == pytest.approx(-6 / 102 - 1.959964 * math.sqrt(15 - 36 / 102) / 102)
    assert high == pytest.approx(-6 / 102 + 1.959964 * math.sqrt(15 - 36 / 102) / 102)
    same, (low, high) = paired_change(before, before)
    assert same == 0
    assert low == pytest.approx(-high) and high > 0
