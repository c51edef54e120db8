"""Activation functions by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from cnnlab.errors import ModelError, nearest
from cnnlab.values import spelled

# In place where the gradient can be had from the result: one map less in memory.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, inplace=True),
    "elu": partial(nn.ELU, inplace=True),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def new_activation(name: str) -> nn.Module:
    """The layer called `name`, in any case. Raises ModelError with the nearest name for an unknown one."""
    name = spelled(name, ACTIVATIONS)
    if name not in ACTIVATIONS:
        raise ModelError(f"unknown activation {name!r}.{nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]()
