"""Training that also looks at another domain, whose labels it does not know."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.config import AdaptConfig
from cnnlab.data.batch import Batch
from cnnlab.data.data import Data
from cnnlab.data.loader import WHOLE, Loader
from cnnlab.errors import ConfigError
from cnnlab.models.base import Classifier

PLACES = 7  # along a side of the map that the adversary sees


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
    """Tells source from target by the last feature map; what it learns, the features unlearn.

    Args:
        inputs: numbers of the feature map; hidden: units of the two hidden layers.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, model: Classifier, source: Tensor, target: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) images of each domain → the source's logits (B, K), and the domain's loss, a scalar.

        Each domain is normalised by its own statistics, and those of the target are kept: the model is made for it.
        """
        with statistics_kept(model):
            seen = model.forward_features(source)
        logits = model.forward_head(seen)
        maps = torch.cat([seen, model.forward_features(target)])
        guesses = self.layers(reverse_gradient(as_vectors(maps), strength)).float()[:, 0]
        truth = (torch.arange(len(guesses), device=guesses.device) >= len(source)).to(guesses.dtype)
        return logits, F.binary_cross_entropy_with_logits(guesses, truth)


class Learners(nn.Module):
    """A model and the adversary of its features as one module, for what has to see the parameters of both."""

    def __init__(self, model: Classifier, adversary: DomainAdversary) -> None:
        super().__init__()
        self.model, self.adversary = model, adversary

    def forward(self, source: Tensor, target: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """See DomainAdversary."""
        answers: tuple[Tensor, Tensor] = self.adversary(self.model, source, target, strength)
        return answers


def as_vectors(maps: Tensor) -> Tensor:
    """(B, F, h, w) → (B, F · places): what is where matters; a map of more than PLACES a side is averaged to that."""
    height, width = (min(side, PLACES) for side in maps.shape[2:])
    return F.adaptive_avg_pool2d(maps, (height, width)).flatten(1)


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Within, batch norm normalises by the batch, and its running statistics stay as they are."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def new_adversary(config: AdaptConfig, model: nn.Module, shape: tuple[int, int, int]) -> DomainAdversary | None:
    """For adapt.method=dann and images of `shape` (C, H, W). Raises ModelError for a model without a feature map."""
    if config.method != "dann":
        return None
    if not isinstance(model, Classifier):
        raise ConfigError("adapt.method=dann needs a cnnlab.Classifier, which has its features and its head apart.")
    _ = model.feature_info  # says it for a model without features
    learns = model.training
    with torch.no_grad():
        inputs = as_vectors(model.eval().forward_features(next(model.parameters()).new_zeros(1, *shape))).shape[1]
    model.train(learns)
    return DomainAdversary(inputs, config.hidden)


def check_target(data: Data) -> None:
    """Raise ConfigError unless the target set has the classes of the source, and images to learn from."""
    target = data.target_domain
    if target is not None and (data.multi_label or target.multi_label):
        raise ConfigError("adapt.method is for one label per image, and here an image may have several; leave it out.")
    if target is not None and target.classes != data.classes:
        odd = sorted(set(target.classes) ^ set(data.classes), key=str)
        named = f", {odd[0]!r} among them" if odd else " in another order"
        raise ConfigError(
            f"adapt.data={target.config.data.name} has other classes than the source{named}; choose a set with"
            " the same."
        )


def endless(loader: Loader, start: int, epochs: int = 1, shard: tuple[int, int] = WHOLE) -> Iterator[Batch]:
    """Epoch after epoch, from batch number `start` on, counted from the first epoch's first.

    Args:
        epochs: of the training, over which images grow as those of the source do; shard: see `Loader.epoch`.
    """
    epoch, batch = divmod(start, len(loader))
    while True:
        yield from loader.epoch(epoch, batch, shard=shard, progress=epoch / epochs)
        epoch, batch = epoch + 1, 0
