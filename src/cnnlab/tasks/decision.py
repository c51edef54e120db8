"""From logits to probabilities, and from these to the classes that an image is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

THRESHOLD = 0.5  # where none was fitted


def are_thresholds(values: object, classes: Sequence[str]) -> bool:
    """Whether these are a number from 0 to 1 for each class."""
    if not isinstance(values, Sequence) or len(values) != len(classes):
        return False
    return all(isinstance(value, int | float) and 0 <= value <= 1 for value in values)


@dataclass(frozen=True)
class DecisionRule:
    """How an image gets its classes.

    Attributes:
        thresholds: of a multi-label model, the probability from which on an image has a class, for each class; None:
            an image has one class, the likeliest.
    """

    thresholds: tuple[float, ...] | None = None

    @classmethod
    def of(cls, card: Mapping[str, Any], thresholds: Sequence[float] | None = None) -> DecisionRule:
        """That of a model's card (`task`, `classes`), with the thresholds that were fitted, else 0.5."""
        if card.get("task") != "multilabel":
            return cls()
        return cls(tuple(thresholds) if thresholds is not None else (THRESHOLD,) * len(card["classes"]))

    @property
    def multi_label(self) -> bool:
        return self.thresholds is not None

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, K, …) logits → probabilities: they sum to 1 over the classes, or each class has one of its own."""
        return logits.sigmoid() if self.multi_label else logits.softmax(1)

    def chosen(self, probabilities: Tensor) -> Tensor:
        """(B, K) probabilities → (B, K) bool, the classes that each image is given."""
        if self.thresholds is None:
            best = probabilities.argmax(1, keepdim=True)
            return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(1, best, True)
        return probabilities >= torch.tensor(self.thresholds, dtype=probabilities.dtype, device=probabilities.device)


SINGLE_LABEL = DecisionRule()
