"""Losses against numbers worked out by hand, and against torch's own."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.config import TrainerConfig
from cnnlab.errors import ConfigError
from cnnlab.tasks import losses
from cnnlab.tasks.base import Loss
from cnnlab.tasks.classification import Classification, count_correct
from cnnlab.tasks.losses import LOSSES, find_loss, register_loss

CPU = torch.device("cpu")
LOGITS = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]])  # probabilities ¼ ¾ and ⅘ ⅕
LABELS = torch.tensor([0, 0])


def task(counts: tuple[int, ...] = (1, 1), **settings: Any) -> Classification:
    return Classification(TrainerConfig(**settings), counts, CPU)


def scalar(loss: Loss) -> Tensor:
    return loss.value(loss.sums)


def loss(logits: Tensor = LOGITS, labels: Tensor = LABELS, counts: tuple[int, ...] = (1, 1), **settings: Any) -> float:
    return scalar(task(counts, **settings).loss(logits, labels)).item()


def mixed(chosen: Classification, other: Tensor, share: Tensor) -> Tensor:
    """The loss of images that are mixed of two: what the loop adds up."""
    return scalar(chosen.loss(LOGITS, LABELS, share)) + scalar(chosen.loss(LOGITS, other, 1 - share))


def test_cross_entropy() -> None:
    assert loss() == pytest.approx((math.log(4) + math.log(5 / 4)) / 2)


def test_label_smoothing_gives_a_share_to_every_class() -> None:
    image = 0.9 * math.log(4) + 0.1 * (math.log(4) + math.log(4 / 3)) / 2
    assert loss(LOGITS[:1], LABELS[:1], label_smoothing=0.1) == pytest.approx(image)


def test_focal_loss_weighs_an_image_by_what_is_missing() -> None:
    expected = (0.75**2 * math.log(4) + 0.2**2 * math.log(5 / 4)) / 2
    assert loss(loss="focal") == pytest.approx(expected)
    assert loss(loss="focal", focal_gamma=0.0) == pytest.approx(loss())


def test_mse_is_the_brier_score() -> None:
    assert loss(loss="mse") == pytest.approx((0.75**2 + 0.75**2 + 0.2**2 + 0.2**2) / 2)


def test_mse_with_smoothing_aims_at_the_smoothed_target() -> None:
    expected = (0.25 - 0.95) ** 2 + (0.75 - 0.05) ** 2
    assert loss(LOGITS[:1], LABELS[:1], loss="mse", label_smoothing=0.1) == pytest.approx(expected)


def test_class_weights_are_those_of_torch() -> None:
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 4
    weights = [0.5, 1.0, 2.0, 0.0]
    expected = F.cross_entropy(logits, labels, weight=torch.tensor(weights))
    assert loss(logits, labels, (3, 3, 3, 3), class_weights=weights) == pytest.approx(expected.item(), rel=1e-6)


def test_balanced_weights_make_every_class_count_the_same() -> None:
    weights = task((30, 10, 60), class_weights="balanced").weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([100 / 90, 100 / 30, 100 / 180])
    assert (weights * torch.tensor([30, 10, 60])).tolist() == pytest.approx([100 / 3] * 3)


def test_a_wrong_number_of_class_weights_is_refused_with_both() -> None:
    with pytest.raises(ConfigError, match=r"3 numbers for 2 classes"):
        task(class_weights=[1, 2, 3])


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "mse"])
def test_a_mixed_image_has_the_share_of_both_losses(name: str) -> None:
    other, share = torch.tensor([1, 0]), torch.tensor([0.7, 0.4])
    found = mixed(task(loss=name), other, share).item()
    first = [loss(LOGITS[i : i + 1], LABELS[i : i + 1], loss=name) for i in range(2)]
    second = [loss(LOGITS[i : i + 1], other[i : i + 1], loss=name) for i in range(2)]
    assert found == pytest.approx((0.7 * first[0] + 0.3 * second[0] + 0.4 * first[1] + 0.6 * second[1]) / 2)


def test_mixup_of_cross_entropy_is_cross_entropy_with_the_mixed_target() -> None:
    other, share = torch.tensor([1, 1]), torch.tensor([0.7, 0.4])
    target = torch.tensor([[0.7, 0.3], [0.4, 0.6]])
    torch.testing.assert_close(mixed(task(), other, share), F.cross_entropy(LOGITS, target))


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "mse"])
def test_the_validation_loss_leaves_smoothing_and_weights_out(name: str) -> None:
    strange = task(loss=name, label_smoothing=0.3, class_weights=[3.0, 0.1])
    metrics = strange.metrics()
    for place in range(2):
        metrics.update(LOGITS[place : place + 1], torch.tensor([place]))
    expected = loss(LOGITS, torch.tensor([0, 1]), loss=name)
    assert metrics.compute() == {"loss": pytest.approx(expected), "accuracy": 0.0}


def test_metrics_of_several_processes_are_those_of_all_images() -> None:
    whole, halves = task().metrics(), [task().metrics() for _ in range(3)]
    whole.update(LOGITS, torch.tensor([1, 1]))
    for place in range(2):  # the third process has no image
        halves[place].update(LOGITS[place : place + 1], torch.tensor([1]))
    total = sum(half._sums() for half in halves)
    for half in halves:
        half.merge(SimpleNamespace(total=lambda _: total))
        assert half.compute() == pytest.approx(whole.compute())


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "mse"])
def test_the_gradient_is_that_of_numbers(name: str) -> None:
    logits = LOGITS.clone().requires_grad_()
    chosen = task(loss=name, label_smoothing=0.1)
    scalar(chosen.loss(logits, LABELS)).backward()
    for place in range(4):
        nudge = torch.zeros(4)
        nudge[place] = 1e-2
        up = scalar(chosen.loss(LOGITS + nudge.view(2, 2), LABELS)).item()
        down = scalar(chosen.loss(LOGITS - nudge.view(2, 2), LABELS)).item()
        assert logits.grad is not None
        assert logits.grad.flatten()[place].item() == pytest.approx((up - down) / 2e-2, abs=2e-4)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "mse"])
def test_sure_and_right_costs_nothing_and_stays_finite(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    value = scalar(task(loss=name).loss(logits, torch.tensor([0, 1])))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_loss_in_bfloat16_is_taken_in_float32() -> None:
    assert task().loss(LOGITS.bfloat16(), LABELS).sums.dtype == torch.float32


def test_correct_images_are_counted() -> None:
    assert count_correct(LOGITS, torch.tensor([1, 0])).item() == 2
    assert count_correct(LOGITS, torch.tensor([0, 0])).item() == 1


def test_a_batch_in_parts_has_the_loss_of_the_whole() -> None:
    chosen = task(class_weights=[3.0, 0.5])
    labels = torch.tensor([0, 1])
    halves = [chosen.loss(LOGITS[i : i + 1], labels[i : i + 1]) for i in range(2)]
    whole = chosen.loss(LOGITS, labels)
    torch.testing.assert_close(whole.value(halves[0].sums + halves[1].sums), scalar(whole))


def test_a_registered_loss_is_known_by_its_name() -> None:
    @register_loss("margin")
    def margin(logits: Tensor, labels: Tensor, gamma: float = 9.0) -> Tensor:
        return F.multi_margin_loss(logits, labels, margin=gamma, reduction="none")

    try:
        expected = F.multi_margin_loss(LOGITS, LABELS, margin=0.5).item()
        assert loss(loss="margin", focal_gamma=0.5) == pytest.approx(expected)
        with pytest.raises(ConfigError, match="smooth in your loss"):
            task(loss="margin", label_smoothing=0.1)
    finally:
        del LOSSES.known["margin"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("focla", "must be cross_entropy, focal, mse, or module:name, got 'focla'. Did you mean 'focal'?"),
        ("own", "a function given from Python"),
        ("losses:mine", "is code of your own and is not imported; add --trust-code"),
    ],
)
def test_a_loss_that_is_not_there(name: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_loss(TrainerConfig(loss=name))
    assert reason in str(error.value)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_the_smoothed_loss_of_accelerators_is_torchs(smoothing: float) -> None:
    """And so is its gradient."""
    values = []
    for loss in (losses._smoothed_cross_entropy, losses.cross_entropy):
        logits = LOGITS.clone().requires_grad_()
        each = loss(logits, LABELS, smoothing)
        each.sum().backward()
        values.append((each.detach(), logits.grad))
    for ours, theirs in zip(*values, strict=True):
        torch.testing.assert_close(ours, theirs)
