"""Temperature: found again where it is known, and where the slope is zero; bins against numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.evaluation.calibration import Temperature, calibration_metrics, fit_temperature
from cnnlab.evaluation.metrics import calibration_error
from cnnlab.evaluation.tables import no_temperature


def honest(count: int = 20_000, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits whose probabilities are those that the labels were drawn from."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=random)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0]


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0, 40.0])
def test_the_factor_that_logits_were_scaled_by_is_found(scale: float) -> None:
    logits, labels = honest()
    found = fit_temperature(scale * logits, labels)
    assert found.value == pytest.approx(scale, rel=0.03)
    assert found.n == 20_000


def test_the_loss_is_lowest_at_the_temperature() -> None:
    logits, labels = honest(300, 5)
    temperature = fit_temperature(3 * logits, labels).value
    assert temperature is not None

    def loss(value: float) -> float:
        return F.cross_entropy(3 * logits.double() / value, labels).item()

    factors = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(3 * logits.double() * factors, labels), factors)
    assert slope.item() == pytest.approx(0, abs=1e-7)
    assert loss(temperature) < min(loss(0.9 * temperature), loss(1.1 * temperature))


def test_it_mends_loss_and_ece_and_leaves_the_accuracy() -> None:
    logits, labels = honest()
    temperature = fit_temperature(3 * logits[:10_000], labels[:10_000])
    metrics = calibration_metrics(3 * logits[10_000:], labels[10_000:], temperature)
    before, after = metrics["before"], metrics["after"]
    assert after["loss"] < before["loss"]
    assert after["ece"] < 0.02 < 0.1 < before["ece"]
    hits = [sum(b["n"] * b["accuracy"] for b in part["bins"] if b["n"]) for part in (before, after)]
    assert hits[0] == pytest.approx(hits[1])


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
        (torch.eye(3), torch.arange(3)),  # all right: the loss falls for ever with T
        (torch.full((2, 3), math.nan), torch.tensor([0, 1])),
    ],
    ids=["no images", "no mistakes", "no numbers"],
)
def test_where_there_is_no_lowest_loss_there_is_no_temperature(logits: Tensor, labels: Tensor) -> None:
    assert fit_temperature(logits, labels) == Temperature(None, len(labels))


def test_logits_that_are_worse_than_chance_end_at_the_edge() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0], [5.0, 0.0]])
    assert fit_temperature(logits, torch.tensor([1, 0, 0])).value == pytest.approx(100)


def test_bins_by_hand() -> None:
    sure, unsure = math.log(3), math.log(5 / 3)  # probabilities 0.75 and 0.625
    logits = torch.tensor([[sure, 0], [sure, 0], [0, sure], [unsure, 0]])
    metrics = calibration_metrics(logits, torch.tensor([0, 1, 1, 1]), Temperature(None, 0))
    bins = metrics["before"]["bins"]
    assert [b["n"] for b in bins] == [0] * 9 + [1, 0, 3, 0, 0, 0]
    assert bins[9] == {"low": 9 / 15, "n": 1, "confidence": pytest.approx(0.625), "accuracy": 0}
    assert bins[11]["confidence"] == pytest.approx(0.75)
    assert bins[11]["accuracy"] == pytest.approx(2 / 3)
    assert bins[0] == {"low": 0, "n": 0, "confidence": None, "accuracy": None}
    assert metrics["before"]["ece"] == pytest.approx((3 * (0.75 - 2 / 3) + 0.625) / 4, abs=1e-6)
    assert metrics["after"] is None


def test_the_bins_give_the_calibration_error() -> None:
    logits, labels = honest(500)
    metrics = calibration_metrics(logits, labels, Temperature(2.0, 1))
    for part, scaled in (("before", logits), ("after", logits / 2)):
        gaps = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in metrics[part]["bins"] if b["n"])
        assert metrics[part]["ece"] == pytest.approx(gaps / 500)
        best = scaled.double().softmax(1).max(1)
        assert metrics[part]["ece"] == pytest.approx(calibration_error(best.values, best.indices == labels))


def test_why_there_is_none_is_said() -> None:
    assert "no validation split" in no_temperature(0)
    assert "classified correctly" in no_temperature(7)
