"""Metrics against scikit-learn, and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as oracle
import torch
from torch import Tensor

from cnnlab.evaluation.confusion import most_confused
from cnnlab.evaluation.metrics import (
    calibration_error,
    classification_metrics,
    debiased_calibration_error,
    wilson_interval,
)


def example(count: int = 400, classes: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=random)
    logits = torch.randn(count, classes, generator=random) * 2
    logits[torch.arange(count), labels] += 1.5
    return logits, labels


def names(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def slow_ece(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Guo et al. 2017, equation 3, one image after the other."""
    confidence, guess = probabilities.max(1), probabilities.argmax(1)
    total = 0.0
    for number in range(bins):
        inside = [i for i in range(len(labels)) if number / bins < confidence[i] <= (number + 1) / bins]
        if inside:
            right = sum(guess[i] == labels[i] for i in inside) / len(inside)
            sure = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(labels) * abs(right - sure)
    return total


@pytest.mark.parametrize(("count", "classes"), [(400, 7), (50, 2), (1000, 30), (3, 5)])
def test_metrics_are_those_of_scikit_learn(count: int, classes: int) -> None:
    logits, labels = example(count, classes)
    metrics = classification_metrics(logits, labels, names(classes))
    probabilities = logits.double().softmax(1).numpy()
    truth, guess = labels.numpy(), probabilities.argmax(1)
    everyone = list(range(classes))
    assert metrics["n"] == count
    assert metrics["accuracy"] == oracle.accuracy_score(truth, guess)
    assert metrics["loss"] == pytest.approx(oracle.log_loss(truth, probabilities, labels=everyone), rel=1e-6)
    assert metrics["confusion_matrix"] == oracle.confusion_matrix(truth, guess, labels=everyone).tolist()
    present = sorted({*truth.tolist(), *guess.tolist()})
    f1 = oracle.f1_score(truth, guess, labels=present, average="macro", zero_division=0)
    assert metrics["macro_f1"] == pytest.approx(f1, abs=1e-6)
    if classes > 5:
        top5 = oracle.top_k_accuracy_score(truth, probabilities, k=5, labels=everyone)
        assert metrics["top5_accuracy"] == pytest.approx(top5, abs=1e-6)
    else:
        assert metrics["top5_accuracy"] == 1
    assert metrics["ece"] == pytest.approx(slow_ece(probabilities, truth), abs=1e-5)
    seen = sorted(set(truth.tolist()))
    mean = oracle.recall_score(truth, guess, labels=seen, average="macro", zero_division=0)
    assert metrics["mean_class_accuracy"] == pytest.approx(mean, abs=1e-6)
    precision, recall, f1s, support = oracle.precision_recall_fscore_support(
        truth, guess, labels=everyone, zero_division=0
    )
    for number, line in enumerate(metrics["per_class"]):
        assert line["class"] == f"class {number}"
        assert line["n"] == support[number]
        expected = [precision[number], recall[number], f1s[number]]
        assert [line["precision"], line["recall"], line["f1"]] == pytest.approx(expected, abs=1e-6)


def test_two_classes_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    metrics = classification_metrics(logits, torch.tensor([0, 0, 1, 1]), ["cat", "dog"])
    assert metrics["accuracy"] == 0.75
    assert metrics["confusion_matrix"] == [[2, 0], [1, 1]]
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    sure = 1 / (1 + math.exp(-2))
    assert metrics["ece"] == pytest.approx(abs(sure - 0.75), abs=1e-6)
    assert metrics["loss"] == pytest.approx((3 * -math.log(sure) - math.log(1 - sure)) / 4)


def test_everything_right_and_sure() -> None:
    logits = torch.eye(4) * 100
    metrics = classification_metrics(logits, torch.arange(4), names(4))
    assert (metrics["accuracy"], metrics["macro_f1"], metrics["top5_accuracy"]) == (1, 1, 1)
    assert metrics["ece"] == pytest.approx(0, abs=1e-6)
    assert metrics["accuracy_interval"][1] == pytest.approx(1)
    assert metrics["accuracy_interval"][0] < 0.6  # four images prove little


def test_one_image_is_enough() -> None:
    metrics = classification_metrics(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]), names(3))
    assert metrics["accuracy"] == 0
    assert all(math.isfinite(metrics[key]) for key in ("loss", "macro_f1", "ece", "top5_accuracy"))


def test_nothing_is_computed_in_low_precision() -> None:
    logits = torch.zeros(100_001, 2)
    logits[1:, 0] = 1
    metrics = classification_metrics(logits, torch.zeros(100_001, dtype=torch.int64), ["a", "b"])
    assert metrics["accuracy"] == 1  # a tie is won by the first
    assert metrics["loss"] == pytest.approx((100_000 * math.log(1 + math.exp(-1)) + math.log(2)) / 100_001, rel=1e-9)


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_interval_is_wilsons(correct: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_holds_the_share_and_narrows() -> None:
    widths = []
    for count in (10, 100, 1000):
        low, high = wilson_interval(count * 9 // 10, count)
        assert low < 0.9 < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_the_largest_confusions_come_first_then_the_larger_share_of_a_class() -> None:
    matrix = [[8, 1, 0, 1], [3, 6, 0, 0], [0, 3, 0, 0], [0, 0, 0, 30]]
    pairs = most_confused(matrix, ["dog", "cat", "frog", "ant"])
    assert [(pair.true, pair.predicted, pair.count, pair.total) for pair in pairs] == [
        ("frog", "cat", 3, 3),  # all of the frogs
        ("cat", "dog", 3, 9),
        ("dog", "cat", 1, 10),
        ("dog", "ant", 1, 10),
    ]
    assert most_confused(matrix, ["dog", "cat", "frog", "ant"], limit=1) == pairs[:1]
    assert most_confused([[4, 0], [0, 4]], ["a", "b"]) == most_confused([[1]], ["a"]) == []


def test_chance_is_taken_out_of_the_calibration_error() -> None:
    """Calibrated networks: the error is 0, and 300 images measure 5 %. One that is 20 points too sure stays so."""
    random = torch.Generator().manual_seed(0)
    plain, debiased = [], []
    for _ in range(100):
        confidence = 0.3 + 0.7 * torch.rand(300, generator=random, dtype=torch.float64)
        right = torch.rand(300, generator=random, dtype=torch.float64) < confidence
        plain.append(calibration_error(confidence, right))
        debiased.append(debiased_calibration_error(confidence, right))
    assert np.mean(plain) > 0.05 and np.mean(debiased) < 0.4 * np.mean(plain) and min(debiased) >= 0
    sure = torch.full((1000,), 0.9, dtype=torch.float64)
    right = torch.arange(1000) < 700
    assert calibration_error(sure, right) == pytest.approx(0.2)
    assert debiased_calibration_error(sure, right) == pytest.approx(0.2)


def test_the_debiased_error_takes_odd_confidences() -> None:
    for confidence in (0.0, 0.5, 1.0):
        for count in (1, 3):
            value = debiased_calibration_error(
                torch.full((count,), confidence, dtype=torch.float64), torch.ones(count, dtype=torch.bool)
            )
            assert 0 <= value <= 1
