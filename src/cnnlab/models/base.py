"""The contract that every classifier keeps, and what all of them share.

A model is a plain `nn.Module` with a flat constructor. Its forward pass is cut in two, so that activation maps,
localization and transfer need no branch per model:

    features = model.forward_features(x)   # (B, F, h, w)
    logits = model.forward_head(features)  # (B, num_classes)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.errors import ModelError


@dataclass(frozen=True)
class FeatureInfo:
    """What `forward_features` gives: the module that makes it, its channels F and the stride of its map in pixels."""

    module: str
    channels: int
    stride: int


class Classifier(nn.Module):
    """Base of all models: `forward` is features, then head. The last layer is called `head`.

    Attributes:
        num_classes: number of logits.
        stages: dotted names of the modules before `head` that hold parameters, from the input on; together they hold
            all parameters but those of `head`. Transfer learning freezes the first so many of them.
    """

    num_classes: int
    stages: tuple[str, ...] = ()

    @property
    def feature_info(self) -> FeatureInfo:
        """Describe the last feature map. Raises ModelError for a model without one."""
        raise ModelError(f"{type(self).__name__} has no spatial features; use a convolutional model for this.")

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) images → (B, F, h, w) features."""
        raise ModelError(f"{type(self).__name__} has no spatial features; use a convolutional model for this.")

    def forward_head(self, features: Tensor) -> Tensor:
        """(B, F, h, w) features → (B, num_classes) logits."""
        raise ModelError(f"{type(self).__name__} has no spatial features; use a convolutional model for this.")

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer, `head`, by a fresh one for `num_classes` classes."""
        head = getattr(self, "head", None)
        if not isinstance(head, nn.Linear | nn.Conv2d):
            raise ModelError(f"{type(self).__name__} does not say how to replace its last layer (reset_classifier).")
        self.head = new_head_like(head, num_classes).to(head.weight.device)
        self.num_classes = num_classes

    def rename_foreign(self, name: str) -> str:
        """Name of a tensor in another library's model of the same architecture → its name here."""
        return name

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class GlobalAveragePool(nn.Module):
    """(B, F, h, w) → (B, F): the mean over all positions (Lin et al. 2013, Network in Network, section 3.2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).mean(dim=(1, 2))  # so that a channels_last map gets a channels_last gradient


class GlobalMaxPool(nn.Module):
    """(B, F, h, w) → (B, F): the maximum over all positions (Oquab et al. 2015, Is Object Localization for Free?)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(x, 1).flatten(1)  # a tie has one winner, unlike with amax


def initialise_he(module: nn.Module) -> None:
    """Weights ~ N(0, 2/n), biases 0, scales 1; n is fan_out of convolutions and fan_in of linear layers (He et al.
    2015, Delving Deep into Rectifiers, eqs. 10 and 14)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def new_linear(in_features: int, num_classes: int) -> nn.Linear:
    """The last layer of a classifier: small weights, so that training starts from nearly even probabilities."""
    if num_classes < 1:
        raise ModelError(f"num_classes must be at least 1, got {num_classes}.")
    layer = nn.Linear(in_features, num_classes)
    with torch.no_grad():
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return layer


def new_pixel_classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """A 1×1 convolution as the last layer, with small weights: it classifies every place of a map."""
    check_counts(num_classes=num_classes)
    layer = nn.Conv2d(channels, num_classes, 1)
    with torch.no_grad():
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def new_head_like(head: nn.Linear | nn.Conv2d, num_classes: int) -> nn.Linear | nn.Conv2d:
    """A fresh last layer of the same kind."""
    if isinstance(head, nn.Conv2d):
        return new_pixel_classifier(head.in_channels, num_classes)
    return new_linear(head.in_features, num_classes)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def check_counts(**values: int | None) -> None:
    """Raise ModelError unless each value is a whole number of at least 1, or None."""
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ModelError(f"{name} must be a whole number of at least 1, got {value!r}.")


def as_pair(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """One number or (height, width) → (height, width)."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)
