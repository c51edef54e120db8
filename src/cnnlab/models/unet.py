"""U-Net (Ronneberger et al. 2015, U-Net: Convolutional Networks for Biomedical Image Segmentation, figure 1).

An encoder that halves the map and doubles the filters `depth` times, and a decoder that goes back up and sees, at each
size, what the encoder had there. 31,030,658 parameters with width 64, depth 4, deconvolutions, no normalisation, one
channel and two classes, as in the paper. Unlike the paper's, convolutions keep the size: every pixel gets a class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.models.base import Classifier, FeatureInfo, check_counts, initialise_he, new_pixel_classifier

DEEPEST = 8  # 256 pixels to a place


def double_conv(in_channels: int, out_channels: int, batch_norm: bool) -> nn.Sequential:
    """Two 3×3 convolutions, each with a ReLU: (B, in_channels, h, w) → (B, out_channels, h, w)."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class UpStep(nn.Module):
    """One size up: (B, 2·channels, ⌈h/2⌉, ⌈w/2⌉) and the encoder's (B, channels, h, w) → (B, channels, h, w)."""

    def __init__(self, channels: int, upsample: str, batch_norm: bool) -> None:
        super().__init__()
        if upsample == "deconv":
            self.up: nn.Module = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        else:
            double = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            self.up = nn.Sequential(nn.Conv2d(2 * channels, channels, 1), double)
        self.convs = double_conv(2 * channels, channels, batch_norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        if x.shape[2:] != skip.shape[2:]:  # of an odd side, the pooling made one place too many
            x = x[:, :, : skip.shape[2], : skip.shape[3]]
        return self.convs(torch.cat([skip, x], dim=1))


class UNet(Classifier):
    """Classes of pixels, for images of any size from 1×1 pixel up.

    Args:
        depth: how often the map is halved.
        width: filters at full size; each halving doubles them.
        upsample: "deconv" (2×2 transposed convolution, as in the paper) or "bilinear" (1×1 convolution, then bilinear
            interpolation: no checkerboard).
        batch_norm: False leaves normalisation out, as the paper does.
        in_channels: channels of the image.
        num_classes: number of logits of each pixel.

    Shapes: (B, in_channels, H, W) → features (B, width, H, W) → logits (B, num_classes, H, W).
    """

    def __init__(
        self,
        depth: int = 4,
        width: int = 64,
        upsample: str = "deconv",
        batch_norm: bool = True,
        in_channels: int = 3,
        num_classes: int = 2,
    ) -> None:
        super().__init__()
        check_counts(depth=depth, width=width, in_channels=in_channels)
        if depth > DEEPEST:
            raise ModelError(f"depth must be at most {DEEPEST}, got {depth}.")
        if upsample not in ("deconv", "bilinear"):
            raise ModelError(f"upsample must be deconv or bilinear, got {upsample!r}.")
        self.num_classes = num_classes
        self.width = width
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.encoder = nn.ModuleList()
        previous = in_channels
        for level in range(depth):
            self.encoder.append(double_conv(previous, width * 2**level, batch_norm))
            previous = width * 2**level
        self.bottom = double_conv(previous, 2 * previous, batch_norm)
        self.decoder = nn.ModuleList(UpStep(width * 2**level, upsample, batch_norm) for level in reversed(range(depth)))
        levels = range(depth)
        self.stages = (*(f"encoder.{i}" for i in levels), "bottom", *(f"decoder.{i}" for i in levels))
        initialise_he(self)
        self.head = new_pixel_classifier(width, num_classes)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo(self.stages[-1], self.width, stride=1)

    def forward_features(self, x: Tensor) -> Tensor:
        skips = []
        for convs in self.encoder:
            skips.append(convs(x))  # (B, width·2^level, H/2^level, W/2^level), sides rounded up
            x = self.pool(skips[-1])
        x = self.bottom(x)  # (B, width·2^depth, H/2^depth, W/2^depth)
        for step in self.decoder:
            x = step(x, skips.pop())
        return x  # (B, width, H, W)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(features)
