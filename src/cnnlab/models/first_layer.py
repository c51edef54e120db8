"""The weights of the first layer as images: what a network looks for before anything else."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def first_layer_weights(model: nn.Module, shape: tuple[int, int, int]) -> Tensor | None:
    """(units, C, h, w) weights of the first layer, as images of the input's channels.

    Args:
        shape: (C, H, W) of the images. A convolution gives its kernels, a linear layer one image of H×W pixels for
            each of its units.

    Returns:
        None if the first layer with weights is neither, or does not see the image itself.
    """
    channels, height, width = shape
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            seen = layer.in_channels == channels and layer.groups == 1
            return layer.weight.detach() if seen else None
        if isinstance(layer, nn.Linear):
            if layer.in_features != channels * height * width:
                return None
            return torch.unflatten(layer.weight.detach(), 1, shape)
    return None
