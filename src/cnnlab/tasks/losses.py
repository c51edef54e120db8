"""Losses of one label per image, by name. Each maps logits (B, K) and labels (B,) to a loss per image, (B,)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.config import TrainerConfig
from cnnlab.device import constant
from cnnlab.errors import ConfigError
from cnnlab.imports import Registry

LossFunction = Callable[..., Tensor]
GIVEN = "own"  # trainer.loss of a function that cnnlab.fit was given, which no name finds again
LOSSES: Registry[LossFunction] = Registry("trainer.loss")


def register_loss(name: str) -> Callable[[LossFunction], LossFunction]:
    """Decorator: make a function of (logits (B, K), labels (B,)) known as `trainer.loss=name`.

    It gives a loss per image, (B,), or their mean, a scalar. Where it has arguments `smoothing` or `gamma`, these are
    trainer.label_smoothing and trainer.focal_gamma. A class is built without arguments.
    """
    return LOSSES.register(name)


@register_loss("cross_entropy")
def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """−log p[label], with label smoothing (Szegedy et al. 2016, section 7)."""
    if smoothing and logits.device.type != "cpu" and logits.ndim == 2 and not labels.is_floating_point():
        return _smoothed_cross_entropy(logits, labels, smoothing)
    return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")


def _smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """The same in 7 kernels, of which torch's takes 17: −Σ p log q, with p all in one tensor."""
    classes = logits.shape[1]
    hot = labels[:, None] == constant(tuple(range(classes)), logits.device)
    share = constant((-smoothing / classes,), logits.device)
    return (torch.add(share, hot, alpha=smoothing - 1) * logits.log_softmax(1)).sum(1)  # (B, K) → (B,)


@register_loss("focal")
def focal(logits: Tensor, labels: Tensor, smoothing: float = 0.0, gamma: float = 2.0) -> Tensor:
    """−(1 − p[label])^γ · log p[label] (Lin et al. 2017, eq. 4)."""
    probability = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return (1 - probability) ** gamma * cross_entropy(logits, labels, smoothing)


@register_loss("mse")
def mse(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Σ (p − one-hot)², the Brier score."""
    target = F.one_hot(labels, logits.shape[1]).float()
    target = target * (1 - smoothing) + smoothing / logits.shape[1]
    return ((logits.softmax(1) - target) ** 2).sum(1)


def find_loss(config: TrainerConfig, given: LossFunction | None = None) -> LossFunction:
    """The loss that trainer.loss names, or the one that is given; its arguments besides logits and labels are bound.

    Raises:
        ConfigError: no loss of that name, or one that takes no label smoothing where there is some.
    """
    function = given if given is not None else named_loss(config.loss)
    if isinstance(function, nn.Module) and any(parameter.requires_grad for parameter in function.parameters()):
        raise ConfigError("the loss has parameters, and only those of the model learn; make them the model's.")
    takes = _parameters(function)
    if config.label_smoothing and "smoothing" not in takes:
        raise ConfigError(
            "trainer.label_smoothing is of cnnlab's own losses; smooth in your loss, or give it an argument smoothing."
        )
    options = {"smoothing": config.label_smoothing, "gamma": config.focal_gamma}
    bound = {name: value for name, value in options.items() if name in takes}
    return functools.partial(function, **bound) if bound else function


def losses_of(function: LossFunction, logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) what a loss gives; where that is their mean, it stands for each image. Raises ConfigError for anything else.

    A mean is told by its stride, 0.
    """
    value, count = function(logits, targets), len(targets)
    if isinstance(value, Tensor) and targets.ndim == 2 and value.shape == targets.shape:
        return value.mean(1)  # of a multi-label set: a loss for each class
    if not isinstance(value, Tensor) or value.shape not in ((), (1,), (count,)):
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ConfigError(f"the loss must give a scalar tensor, the mean over the batch, or ({count},), got {what}.")
    return value if value.shape == (count,) else value.reshape(()).expand(count)


def refuse_mean(losses: Tensor) -> None:
    """Raise ConfigError where `losses_of` has but a mean, and each image's loss is to be weighed."""
    if losses.stride() == (0,):
        raise ConfigError(
            "mixup, cutmix and class weights weigh the loss of each image, and loss= gives their mean; let it"
            " give (B,), as with reduction='none'."
        )


def named_loss(name: str) -> LossFunction:
    """The loss that trainer.loss=`name` means. Raises ConfigError where there is none."""
    if name == GIVEN:
        raise ConfigError(
            "trainer.loss=own is a function given from Python, cnnlab.fit(..., loss=...), which no command has; use"
            " cross_entropy, focal or mse here."
        )
    found = LOSSES.find(name)
    return cast(LossFunction, found() if inspect.isclass(found) else found)


def _parameters(function: Any) -> set[str]:
    called: Any = function.forward if isinstance(function, nn.Module) else function
    try:
        return set(inspect.signature(called).parameters)
    except (TypeError, ValueError):  # of a function in C
        return set()
