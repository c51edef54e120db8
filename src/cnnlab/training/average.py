"""A running average of the weights: often a better network than any single step's."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cnnlab.finite import infinite_buffers


class WeightAverage:
    """Exponential moving average of all floating tensors of a model, normalisation statistics included.

    The decay starts low and rises to `decay`, min(decay, (1 + t)/(10 + t)), so that the first steps are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs = self._tensors(model)

    def _tensors(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Ours and the model's: those of which a mean is taken, and those that are copied, such as counts and masks.

        A weight that layers share comes once. What holds infinities, such as a mask, has no mean.
        """
        ours, theirs, our_copies, their_originals = [], [], [], []
        masks = infinite_buffers(model)
        for (name, mine), (_, other) in zip(_named_tensors(self.model), _named_tensors(model), strict=True):
            if mine.is_floating_point() and name not in masks:
                ours.append(mine)
                theirs.append(other)
            else:
                our_copies.append(mine)
                their_originals.append(other)
        return ours, theirs, our_copies, their_originals

    def share(self, step: int) -> float:
        """How far it moves after `step` steps, from 0 to 1."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def move(self, share: float | Tensor) -> None:
        """Move towards the model by a share of the way; in a graph that is a scalar on the device."""
        ours, theirs, our_copies, their_originals = self._pairs
        if isinstance(share, Tensor):
            way = torch._foreach_sub(theirs, ours)
            torch._foreach_mul_(way, share)
            torch._foreach_add_(ours, way)
        else:
            torch._foreach_lerp_(ours, theirs, share)
        if our_copies:
            torch._foreach_copy_(our_copies, their_originals)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, parameter.detach()) for name, parameter in model.named_parameters())
    yield from model.named_buffers()
