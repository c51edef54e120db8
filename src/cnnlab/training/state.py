"""How far a training is: what a resume restores beside the weights and what the optimizer remembers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cnnlab.device import sum_type

ON_DEVICE = ("loss", "correct", "norm", "norms", "lost")  # of the sums
COUNTERS = ("epoch", "step", "batch", "stale", "rate")


@dataclass
class Sums:
    """Running sums over the steps of the epoch so far; `norm` and `norms` over those whose gradient was measured.

    `lost` counts the images of batches whose loss overflowed in float16, and is not in `loss`.
    """

    loss: Tensor
    correct: Tensor
    norm: Tensor
    norms: Tensor
    lost: Tensor
    count: int = 0
    seconds: float = 0.0

    @classmethod
    def zero(cls, device: torch.device) -> Sums:
        """Scalars on the device, so that no step has to wait for it."""
        zero = torch.zeros((), dtype=sum_type(device), device=device)
        return cls(zero.clone(), zero.clone(), zero.clone(), zero.clone(), zero.clone())

    def clear(self) -> None:
        """Begin anew, in the same tensors: graphs of training steps know them by their address."""
        torch._foreach_zero_([self.loss, self.correct, self.norm, self.norms, self.lost])
        self.count, self.seconds = 0, 0.0

    def fetch(self) -> dict[str, float]:
        """The sums that lie on the device, in one copy."""
        values = torch.stack([getattr(self, name) for name in ON_DEVICE]).tolist()
        return dict(zip(ON_DEVICE, values, strict=True))

    def metrics(self) -> tuple[float, float, float | None]:
        """Mean loss and accuracy of the images so far, and mean norm of the gradient, None where none was a number.

        Images whose loss was lost count as the mean of the others; NaN where all were.
        """
        of = self.fetch()
        kept = self.count - of["lost"]
        loss = of["loss"] / max(1, kept) if kept or not self.count else math.nan
        return loss, of["correct"] / max(1, self.count), of["norm"] / of["norms"] if of["norms"] else None


@dataclass
class TrainingState:
    """What is done.

    Attributes:
        sums: of the epoch so far.
        epoch, step: epochs, and steps of the optimizer, that are done; batch: batches of the epoch so far.
        stale: epochs since the best one.
        rate: learning rate of the last step.
        history: a row per epoch, as in metrics.jsonl; best: epoch, step and validation metrics of the one that is kept.
    """

    sums: Sums
    epoch: int = 0
    step: int = 0
    batch: int = 0
    stale: int = 0
    rate: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As it is saved in last/state.pt."""
        sums = self.sums
        of = sums.fetch()
        return {
            "counters": {name: getattr(self, name) for name in COUNTERS},
            "sums": [of["loss"], of["correct"], sums.count, sums.seconds],
            "norms": [of["norm"], of["norms"]],
            "lost": of["lost"],
            "history": self.history,
            "best": self.best,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], device: torch.device) -> TrainingState:
        """The state that `to_dict` gave, after it was checked (`training/restore.py`)."""
        sums = Sums.zero(device)
        loss, correct, sums.count, sums.seconds = saved["sums"]
        norm, norms = saved["norms"]
        totals = (sums.loss, sums.correct, sums.norm, sums.norms, sums.lost)
        for total, value in zip(totals, (loss, correct, norm, norms, saved["lost"]), strict=True):
            total += value
        counters = {name: saved["counters"][name] for name in COUNTERS}
        return cls(sums, **counters, history=saved["history"], best=saved["best"])
