"""Our own network for photographs of 128 to 224 pixels, trained from scratch on few images per class.

A strided stem, then stages of residual blocks of two 3×3 convolutions (He et al. 2016) with squeeze-and-excitation (Hu
et al. 2018, section 3), each stage at half the size and with more filters than the one before it, then a global
average. A shortcut that changes size averages 2×2 pixels before its 1×1 convolution, so that none is thrown away (He et
al. 2019, Bag of Tricks, ResNet-D). What was tried for each choice is in docs/results.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.models.base import (
    Classifier,
    FeatureInfo,
    GlobalAveragePool,
    as_pair,
    check_counts,
    initialise_he,
    new_linear,
)


class BlurPool(nn.Module):
    """Binomial filter (1, 2, 1)/4 along each axis, then every second pixel (Zhang 2019): shifts change little."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.channels = channels
        self.register_buffer("kernel", torch.outer(taps, taps).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.to(x.dtype), stride=2, padding=1, groups=self.channels)


class SqueezeExcitation(nn.Module):
    """Each channel is scaled by a gate in (0, 1) computed from the mean of all channels."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.pool = GlobalAveragePool()
        self.reduce = nn.Linear(channels, max(8, channels // reduction))
        self.expand = nn.Linear(self.reduce.out_features, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(self.pool(x)))).sigmoid()  # (B, C)
        return x * gate[:, :, None, None]


class ResidualBlock(nn.Module):
    """Two k×k convolutions and a shortcut: (B, in_channels, H, W) → (B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉).

    Args:
        drop: probability that an image skips the convolutions in training (Huang et al. 2016, stochastic depth).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: int,
        squeeze_excitation: bool,
        blur_pool: bool,
        drop: float,
    ) -> None:
        super().__init__()
        shrinks = stride == 2
        first: list[nn.Module] = [BlurPool(in_channels)] if shrinks and blur_pool else []
        first.append(
            nn.Conv2d(in_channels, out_channels, kernel_size, 1 if first else stride, kernel_size // 2, bias=False)
        )
        self.conv1 = nn.Sequential(*first)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.gate = SqueezeExcitation(out_channels) if squeeze_excitation else nn.Identity()
        self.drop = drop
        shortcut: list[nn.Module] = [nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)] if shrinks else []
        if in_channels != out_channels:
            shortcut += [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.gate(self.norm2(self.conv2(out)))
        if self.training and self.drop:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            out = out * (kept / (1 - self.drop)).to(out.dtype)
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class ConvNet(Classifier):
    """Residual network for photographs; smaller images get a stem without stride and fewer stages.

    Args:
        width: filters of the stem; the stages have 2, 4, 8, … times as many.
        max_width: where the doubling ends. None: 16·width.
        depths: residual blocks of each stage. None: (1, 1, 1, 1), cut where the map would fall below 4 pixels.
        kernel_size: of the blocks' convolutions; odd.
        squeeze_excitation: gate each block's channels.
        blur_pool: blur before each reduction of size inside the blocks.
        stochastic_depth: probability of skipping the last block in training; rises linearly from 0, 0 to 1.
        dropout: probability of dropping a feature before the last layer, 0 to 1.
        image_size: one number or (height, width) in pixels; chooses the strides: stem and first stage halve the size
            from 96 pixels up, from 48 on only the first stage does.
        in_channels: channels of the image.
        num_classes: number of logits.

    Shapes: (B, in_channels, H, W) → features (B, F, H/s, W/s) → logits (B, num_classes); F, s: see `feature_info`.
    """

    def __init__(
        self,
        width: int = 32,
        max_width: int | None = None,
        depths: Sequence[int] | None = None,
        kernel_size: int = 3,
        squeeze_excitation: bool = True,
        blur_pool: bool = False,
        stochastic_depth: float = 0.0,
        dropout: float = 0.0,
        image_size: int | tuple[int, int] = 128,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_counts(width=width, max_width=max_width, kernel_size=kernel_size, in_channels=in_channels)
        max_width = 16 * width if max_width is None else max_width
        if kernel_size % 2 == 0:
            raise ModelError(f"kernel_size must be odd, got {kernel_size}.")
        for name, share in (("dropout", dropout), ("stochastic_depth", stochastic_depth)):
            if not 0 <= share < 1:
                raise ModelError(f"{name} must be at least 0 and below 1, got {share}.")
        shorter = min(as_pair(image_size))
        strides = [2 if shorter >= 96 else 1, 2 if shorter >= 48 else 1]  # of the stem and the first stage
        if depths is None:
            size, depths = shorter // (strides[0] * strides[1]), [1]
            while len(depths) < 4 and size >= 8:
                size, depths = size // 2, [*depths, 1]
        if not isinstance(depths, list | tuple) or not 1 <= len(depths) <= 6:
            raise ModelError(f"depths must be a list of one to six numbers of blocks, got {depths!r}.")
        check_counts(**{f"depths[{i}]": blocks for i, blocks in enumerate(depths)})
        strides += [2] * (len(depths) - 1)
        self.num_classes = num_classes
        self.stages = ("stem", *(f"blocks.{i}" for i in range(len(depths))))
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=strides[0], padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stride, channels, done = strides[0], width, 0
        stages = []
        for stage, (blocks, stride) in enumerate(zip(depths, strides[1:], strict=True)):
            layers = []
            for block in range(blocks):
                done += 1
                layers.append(
                    ResidualBlock(
                        channels,
                        min(width * 2 ** (stage + 1), max_width),
                        stride if block == 0 else 1,
                        kernel_size,
                        squeeze_excitation,
                        blur_pool,
                        stochastic_depth * done / sum(depths),
                    )
                )
                channels = min(width * 2 ** (stage + 1), max_width)
            stages.append(nn.Sequential(*layers))
            self.stride *= stride
        self.blocks = nn.Sequential(*stages)
        self.channels = channels
        self.pool = GlobalAveragePool()
        self.dropout = nn.Dropout(dropout)
        initialise_he(self)
        self.head = new_linear(channels, num_classes)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo("blocks", self.channels, self.stride)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x))

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(self.pool(features)))
