"""A running average of the weights: often a better network than any single step's."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all floating tensors of a model, normalisation statistics included.

    The decay starts low and rises to `decay`, min(decay, (1 + t)/(10 + t)), so that the first steps are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs = self._tensors(model)

    def _tensors(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        ours, theirs, whole = [], [], []
        for mine, other in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                ours.append(mine)
                theirs.append(other)
            else:
                whole.append((mine, other))
        return ours, theirs, whole

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model as it stands after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        ours, theirs, whole = self._pairs
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for mine, other in whole:
            mine.copy_(other)
