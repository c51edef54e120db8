"""What a forward pass costs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of the convolutions and linear layers for one picture of `shape` (C, H, W).

    The model runs on torch's meta device: shapes without numbers. Raises what the model raises for a wrong shape.
    """
    total = 0

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            moving = output if isinstance(layer, nn.Conv2d) else _[0]
            per_place = layer.weight[0].numel()
            total += moving.numel() * per_place
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features

    ghost = copy.deepcopy(model).to("meta").eval()
    hooks = [layer.register_forward_hook(count) for layer in ghost.modules()]
    try:
        with torch.no_grad():
            ghost(torch.empty(1, *shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return total
