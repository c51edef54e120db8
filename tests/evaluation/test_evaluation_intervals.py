"""Intervals: how often they hold what they are for, and published examples."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from torch import Tensor

from cnnlab.evaluation.intervals import bootstrap_intervals, difference_interval, mean_interval
from cnnlab.evaluation.metrics import classification_figures, picture_losses
from cnnlab.evaluation.tables import fall_text, figures_text


def drawn(count: int, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=random)
    logits = torch.randn(count, classes, generator=random)
    logits[torch.arange(count), labels] += 1
    return logits, labels


def test_every_interval_holds_its_figure_and_comes_out_the_same_again() -> None:
    logits, labels = drawn(300, 8)
    intervals = bootstrap_intervals(logits, labels)
    figures = classification_figures(logits, labels, [str(i) for i in range(8)])
    assert set(intervals) == {"loss", "mean_class_accuracy", "macro_f1", "ece", "top5_accuracy"}
    for name, (low, high) in intervals.items():
        assert low < figures[name] < high, name
    assert bootstrap_intervals(logits, labels) == intervals
    assert bootstrap_intervals(logits, labels, seed=1) != intervals


def test_the_figures_of_every_picture_once_are_those_of_test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each resample is the pictures themselves, both ends are the figure."""
    from cnnlab.evaluation import intervals

    monkeypatch.setattr(intervals, "_counts", lambda pictures, resamples, random: torch.ones(resamples, pictures))
    for count, classes in ((200, 8), (7, 30), (1, 3)):
        logits, labels = drawn(count, classes)
        figures = classification_figures(logits, labels, [str(i) for i in range(classes)])
        for name, (low, high) in bootstrap_intervals(logits, labels, 3).items():
            assert low == pytest.approx(figures[name], abs=1e-6), name
            assert low == high


def test_the_interval_of_the_loss_is_that_of_scipy() -> None:
    logits, labels = drawn(200)
    losses = picture_losses(logits, labels).numpy()
    theirs = bootstrap((losses,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0))
    expected = theirs.confidence_interval
    low, high = bootstrap_intervals(logits, labels, resamples=4000)["loss"]
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    truth = picture_losses(*drawn(200_000, seed=99)).mean().item()
    held = 0
    for seed in range(200):
        low, high = bootstrap_intervals(*drawn(100, seed=seed), resamples=200)["loss"]
        held += low < truth < high
    assert 0.89 <= held / 200 <= 0.99


def test_one_picture_is_enough() -> None:
    intervals = bootstrap_intervals(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]))
    assert intervals["mean_class_accuracy"] == [0, 0]
    assert intervals["top5_accuracy"] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("classes", [10, 101])
def test_ten_thousand_pictures_take_about_a_second(classes: int) -> None:
    logits, labels = drawn(10_000, classes)
    began = time.process_time()
    bootstrap_intervals(logits, labels)
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
    assert half == pytest.approx(1.959964 * (5 / 3) ** 0.5 / 2)
    assert mean_interval([0.5]) == (0.5, 0, 0)


def test_figures_of_pixels_are_printed_with_their_intervals() -> None:
    figures = {"split": "test", "task": "segmentation", "n": 40, "loss": 0.25, "dice": 0.875, "boundary_f1": 0.75}
    figures |= {"accuracy": 0.9, "accuracy_interval": [0.85, 0.95], "mean_iou": 0.8, "mean_iou_interval": [0.7, 0.9]}
    text = figures_text(figures)
    assert "test split, 40 pictures" in text
    assert "90.00 %  (right; 95 % interval 85.00–95.00 %)" in text
    assert "80.00 %  (95 % interval 70.00–90.00 %)" in text
