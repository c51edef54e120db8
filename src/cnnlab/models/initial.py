"""Weights to begin with that are better than random ones: identities, and filters that whiten the images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.errors import ModelError

BLOCK = 20  # images whose patches are held at once
FLOOR = 5e-4  # added to the variances, of images of variance 1: without it noise would be blown up to full size


@torch.no_grad()
def begin_as_identity(model: nn.Module) -> None:
    """Each convolution with an odd kernel begins by passing on its inputs (Zagoruyko and Komodakis 2017, DiracNets).

    Filter i is the identity of input i as far as both go; further filters stay random. Grouped convolutions, 1×1 ones
    and the first one, which sees the image, stay as they are.
    """
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions[1:]:
        height, width = layer.kernel_size
        if layer.groups == 1 and height * width > 1 and height % 2 and width % 2:
            nn.init.dirac_(layer.weight[: layer.in_channels])


@torch.no_grad()
def whiten_first_layer(model: nn.Module, images: Tensor) -> None:
    """The first convolution begins with filters whose responses to `images` are uncorrelated and of variance 1.

    Its filters become the eigenvectors of the covariance of the patches it sees, each divided by the square root of its
    eigenvalue, largest first, and their negatives beside them (K. Jordan 2024, section 3.1). Filters beyond twice the
    numbers of a patch stay random; a bias becomes 0.

    Args:
        images: (B, C, H, W) normalised images; a few thousand are enough.

    Raises:
        ModelError: the model's first layer is no plain convolution of these images.
    """
    layer = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)), None)
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1 or layer.in_channels != images.shape[1]:
        raise ModelError(f"init.whiten needs a model that begins with a convolution; {type(model).__name__} does not.")
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(side < needed for side, needed in zip(images.shape[2:], reach, strict=True)):
        raise ModelError(
            f"init.whiten needs whole patches: the first kernel spans {reach[0]}×{reach[1]} pixels, the training"
            f" images have {images.shape[2]}×{images.shape[3]}. Use larger ones or leave init.whiten out."
        )
    numbers = layer.weight[0].numel()  # of a patch
    products, sums, count = torch.zeros(numbers, numbers, dtype=torch.float64), torch.zeros(numbers).double(), 0
    for part in torch.split(images.float(), BLOCK):
        patches = F.unfold(part, layer.kernel_size, dilation=layer.dilation).transpose(1, 2).flatten(0, 1)
        products += (patches.T @ patches).double()
        sums += patches.double().sum(0)
        count += len(patches)
    mean = sums / count
    values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))  # eigenvalues rise
    filters = (vectors / (values.clamp_min(0) + FLOOR).sqrt()).flip(1).T  # (n, n), a row each
    both = torch.stack([filters, -filters], 1).flatten(0, 1)[: layer.out_channels]
    layer.weight[: len(both)] = both.view(-1, *layer.weight.shape[1:]).to(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
