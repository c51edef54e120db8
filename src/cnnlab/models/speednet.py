"""A net that learns small images in few epochs (after K. Jordan 2024, 94 % on CIFAR-10 in 3.29 seconds).

A 2×2 convolution that is meant to whiten (`init.whiten=true`), then groups of two 3×3 convolutions; the maximum over
2×2 places comes right after a group's first convolution, before its normalisation, so that most of the arithmetic is
done on small maps. A global maximum precedes the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.models.activations import new_activation
from cnnlab.models.base import (
    Classifier,
    FeatureInfo,
    GlobalMaxPool,
    as_pair,
    check_counts,
    initialise_he,
    new_linear,
)


class SpeedNet(Classifier):
    """Few wide layers for images of 8 to 64 pixels.

    Args:
        widths: channels of each group; as many groups are built as the shorter side of `image_size` can be halved.
        whiten_size: side of the first convolution's kernels. It has two filters for each number of its patches: the
            directions in which they vary, and their negatives.
        activation: relu, leaky_relu, elu, silu, gelu, mish, tanh or sigmoid.
        norm_momentum: share of the latest batch in the running statistics; few steps need a high one.
        image_size: one number or (height, width) in pixels; only used to leave out groups for which it is too small.
        in_channels: channels of the image.
        num_classes: number of logits.

    Shapes: (B, in_channels, H, W) → features (B, F, h, w) → logits (B, num_classes); F and the stride: see
    `feature_info`; the first convolution takes `whiten_size` − 1 rows and columns.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 256, 256),
        whiten_size: int = 2,
        activation: str = "gelu",
        norm_momentum: float = 0.4,
        image_size: int | tuple[int, int] = 32,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_counts(whiten_size=whiten_size, in_channels=in_channels)
        if not 1 <= len(widths) <= 6:
            raise ModelError(f"widths must be a list of one to six numbers of channels, got {list(widths)}.")
        check_counts(**{f"widths[{i}]": width for i, width in enumerate(widths)})
        if not 0 < norm_momentum <= 1:
            raise ModelError(f"norm_momentum must be above 0 and at most 1, got {norm_momentum}.")
        shorter = min(as_pair(image_size)) - whiten_size + 1
        if shorter < 2:
            given, least = min(as_pair(image_size)), whiten_size + 1
            raise ModelError(f"an image of {given} pixels is too small; use at least {least} pixels.")
        self.num_classes = num_classes
        channels = 2 * in_channels * whiten_size**2
        self.whiten = nn.Sequential(nn.Conv2d(in_channels, channels, whiten_size), new_activation(activation))
        self.groups = nn.Sequential()
        for width in widths[: shorter.bit_length() - 1]:
            self.groups.append(
                nn.Sequential(
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.MaxPool2d(2),
                    nn.BatchNorm2d(width, momentum=norm_momentum),
                    new_activation(activation),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width, momentum=norm_momentum),
                    new_activation(activation),
                )
            )
            channels = width
        self.stages = ("whiten", *(f"groups.{i}" for i in range(len(self.groups))))
        self.channels, self.stride = channels, 2 ** len(self.groups)
        self.pool = GlobalMaxPool()
        initialise_he(self)
        self.head = new_linear(channels, num_classes)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo("groups", self.channels, self.stride)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.groups(self.whiten(x))

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.pool(features))
