"""Any number of classes per image: the loss by hand, the metrics against scikit-learn's, and thresholds."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as oracle
from torch import Tensor

from cnnlab.config import TrainerConfig
from cnnlab.data.sources.base import strata_of
from cnnlab.errors import ConfigError
from cnnlab.evaluation.intervals import mean_ap_interval
from cnnlab.evaluation.multilabel import best_thresholds, multi_label_metrics
from cnnlab.tasks import DecisionRule
from cnnlab.tasks.multilabel import MultiLabel, average_precision

LOGITS = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]])  # probabilities ½ ¾ and ⅘ ½
TARGETS = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
ENTROPY = torch.tensor([[math.log(2), math.log(4)], [math.log(5 / 4), math.log(2)]])


def task(weights: Tensor | None = None, **settings: Any) -> MultiLabel:
    return MultiLabel(TrainerConfig(**settings), 2, weights)


def loss(chosen: MultiLabel, targets: Tensor = TARGETS, share: Tensor | None = None) -> float:
    found = chosen.loss(LOGITS, targets, share)
    return found.value(found.sums).item()


def scores(count: int, classes: int, seed: int, ties: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, classes, generator=generator) < 0.3).float()
    logits = torch.randn(count, classes, generator=generator) + targets
    return ((2 * logits).round() / 2 if ties else logits), targets


def test_binary_cross_entropy_is_the_mean_over_images_and_classes() -> None:
    assert loss(task()) == pytest.approx(ENTROPY.mean().item())


def test_the_focal_loss_weighs_each_answer_by_what_is_missing() -> None:
    missing = torch.tensor([[0.5, 0.75], [0.2, 0.5]])
    assert loss(task(loss="focal")) == pytest.approx((missing**2 * ENTROPY).mean().item())
    assert loss(task(loss="focal", focal_gamma=0.0)) == pytest.approx(loss(task()))


def test_class_weights_count_the_images_that_have_a_class() -> None:
    weighed = ENTROPY * torch.tensor([[3.0, 1.0], [3.0, 5.0]])
    assert loss(task(torch.tensor([3.0, 5.0]))) == pytest.approx(weighed.mean().item())


def test_label_smoothing_moves_both_answers_to_the_middle() -> None:
    expected = F.binary_cross_entropy_with_logits(LOGITS, TARGETS * 0.8 + 0.1).item()
    assert loss(task(label_smoothing=0.2)) == pytest.approx(expected)


def test_a_mixed_image_has_the_loss_of_the_mixed_targets() -> None:
    other, share = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([0.25, 0.75])
    both = loss(task(), TARGETS, share) + loss(task(), other, 1 - share)
    mixed = TARGETS * share[:, None] + other * (1 - share)[:, None]
    assert both == pytest.approx(F.binary_cross_entropy_with_logits(LOGITS, mixed).item())


def test_what_is_for_one_label_is_refused() -> None:
    with pytest.raises(ConfigError, match="use cross_entropy or focal"):
        task(loss="mse")
    with pytest.raises(ConfigError, match=r"use trainer\.class_weights=balanced"):
        task(balanced_sampling=True)


def test_a_loss_of_the_users_own_may_give_a_number_per_class_per_image_or_one() -> None:
    for reduction in ("none", "mean"):
        own = MultiLabel(TrainerConfig(), 2, None, torch.nn.BCEWithLogitsLoss(reduction=reduction))
        assert loss(own) == pytest.approx(loss(task()))
    with pytest.raises(ConfigError, match=r"mixup, cutmix and class weights weigh the loss"):
        own.loss(LOGITS, TARGETS, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_scikit_learns(ties: bool) -> None:
    for seed, count in enumerate((2, 7, 60, 301)):
        logits, targets = scores(count, 4, seed, ties)
        for found, column, truth in zip(average_precision(logits, targets), logits.T, targets.T, strict=True):
            if truth.any():
                assert found.item() == pytest.approx(oracle.average_precision_score(truth, column), abs=1e-12)
            else:
                assert found.isnan()


def test_the_metrics_are_scikit_learns() -> None:
    logits, targets = scores(200, 3, 1)
    rule = DecisionRule((0.4, 0.5, 0.7))
    chosen = logits.sigmoid() >= torch.tensor([0.4, 0.5, 0.7])
    found = multi_label_metrics(logits, targets, rule, ["a", "b", "c"])
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(targets, chosen))
    assert found["label_accuracy"] == pytest.approx(1 - oracle.hamming_loss(targets, chosen))
    for average in ("micro", "macro"):
        score = oracle.f1_score(targets, chosen, average=average)
        assert found[f"{average}_f1"] == pytest.approx(score)
        low, high = found["intervals"][f"{average}_f1"]
        assert low < score < high and high - low < 0.25
    each = oracle.precision_recall_fscore_support(targets, chosen)
    for k, row in enumerate(found["per_class"]):
        assert [row["precision"], row["recall"], row["f1"], row["n"]] == pytest.approx([part[k] for part in each])
        assert row["f1_interval"][0] < row["f1"] < row["f1_interval"][1]


def test_a_class_that_nobody_has_is_no_number() -> None:
    logits, targets = scores(30, 2, 2)
    targets[:, 1] = 0
    logits[:, 1] = -5
    found = multi_label_metrics(logits, targets, DecisionRule((0.5, 0.5)), ["a", "b"])
    assert found["per_class"][1]["ap"] is None and found["per_class"][1]["f1"] is None
    assert found["mean_ap"] == found["per_class"][0]["ap"]


def test_the_interval_of_the_mean_average_precision_holds_the_truth() -> None:
    true = average_precision(*scores(100_000, 4, 10)).mean().item()
    held = 0
    for seed in range(200):
        low, high = mean_ap_interval(*scores(150, 4, 100 + seed))
        held += low <= true <= high
    assert 180 <= held <= 199  # 95 % of 200, less three standard deviations


def test_several_processes_give_the_metrics_of_one() -> None:
    logits, targets = scores(50, 2, 3)
    whole, halves = task().metrics(), [task().metrics() for _ in range(2)]
    whole.update(logits, targets)
    for half, part in zip(halves, (slice(0, 17), slice(17, 50)), strict=True):
        half.update(logits[part], targets[part])
    given = iter([logits, targets])
    halves[0].merge(SimpleNamespace(concatenate=lambda rows: next(given)))  # type: ignore[arg-type]
    assert halves[0].compute() == pytest.approx(whole.compute())


def test_thresholds_make_f1_as_high_as_any_other_would() -> None:
    logits, targets = scores(80, 3, 4, ties=True)
    probabilities = logits.sigmoid()
    for column, truth, threshold in zip(
        probabilities.T, targets.T, best_thresholds(probabilities, targets), strict=True
    ):
        answers = column[:, None] >= torch.tensor([threshold, *np.linspace(0, 1, 1001)])
        f1 = 2 * (answers & (truth[:, None] > 0)).sum(0) / (answers.sum(0) + truth.sum())
        assert f1[0] == f1.max()
    assert best_thresholds(probabilities, torch.zeros_like(targets)) == [0.5] * 3


def test_a_threshold_between_neighbouring_numbers_takes_in_the_upper_one_alone() -> None:
    upper = torch.tensor([0.9], dtype=torch.float32)
    for _ in range(50):
        lower = torch.nextafter(upper, torch.zeros(1))
        column = torch.stack([upper, lower])
        (threshold,) = best_thresholds(column, torch.tensor([[1.0], [0.0]]))
        assert DecisionRule((threshold,)).chosen(column).tolist() == [[True], [False]]
        upper = lower


def test_the_stratum_of_an_image_is_its_rarest_class() -> None:
    multi_hot = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert strata_of(multi_hot).tolist() == [1, 0, 2, 3, 1]
