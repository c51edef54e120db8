"""Training that also looks at another domain, whose labels it does not know."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.config import AdaptConfig
from cnnlab.data.load import Data
from cnnlab.data.loader import Batch, Loader
from cnnlab.errors import ConfigError
from cnnlab.models.base import Classifier


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -ctx.strength * gradient, None


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """x itself; its gradient comes back times −strength (Ganin et al. 2016, eqs. 14 and 15)."""
    reversed_: Tensor = _Reverse.apply(x, strength)
    return reversed_


def reversal_strength(progress: float) -> float:
    """From 0 to 1 as training goes from 0 to 1: 2 / (1 + exp(−10 progress)) − 1 (Ganin et al. 2016, section 5.2.2)."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


class DomainAdversary(nn.Module):
    """Tells source from target by the mean of the last feature map; what it learns, the features unlearn.

    Args:
        channels: of the feature map; hidden: units of the two hidden layers.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, model: Classifier, source: Tensor, target: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) pictures of each domain → the source's logits (B, K), and the domain's loss, a scalar.

        Both go through the network together, so batch norm sees one mixture, in training as in a test.
        """
        features = model.forward_features(torch.cat([source, target]))
        logits = model.forward_head(features[: len(source)])
        guesses = self.layers(reverse_gradient(features.mean(dim=(2, 3)), strength)).float()[:, 0]
        truth = torch.cat([torch.zeros(len(source)), torch.ones(len(target))]).to(guesses)
        return logits, F.binary_cross_entropy_with_logits(guesses, truth)


def new_adversary(config: AdaptConfig, model: nn.Module) -> DomainAdversary | None:
    """For adapt.method=dann. Raises ModelError for a model without a feature map."""
    if config.method != "dann":
        return None
    if not isinstance(model, Classifier):
        raise ConfigError("adapt.method=dann needs a cnnlab.Classifier, whose features and head can be told apart.")
    return DomainAdversary(model.feature_info.channels, config.hidden)


def check_target(data: Data) -> None:
    """Raise ConfigError unless the target set has the classes of the source, and pictures to learn from."""
    target = data.target
    if target is not None and target.classes != data.classes:
        odd = sorted(set(target.classes) ^ set(data.classes), key=str)
        named = f", {odd[0]!r} among them" if odd else " in another order"
        raise ConfigError(
            f"adapt.data={target.config.data.name} has other classes than the source{named}; choose a set with"
            " the same."
        )


def with_target(batches: Iterator[Batch], target: Loader, start: int) -> Iterator[Batch]:
    """Give each batch the next pictures of the target domain; batch `start` of all gets the same ones in every run."""
    others = endless(target, start)
    for batch in batches:
        yield batch._replace(target=next(others).images)


def endless(loader: Loader, start: int) -> Iterator[Batch]:
    """Epoch after epoch, from batch number `start` on, counted from the first epoch's first."""
    epoch, batch = divmod(start, len(loader))
    while True:
        yield from loader.epoch(epoch, start=batch)
        epoch, batch = epoch + 1, 0
