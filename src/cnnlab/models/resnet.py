"""Residual networks for small images (He et al. 2016, Deep Residual Learning, section 4.2), and their plain twins.

A 3×3 convolution, then three stages of n blocks of two 3×3 convolutions with width, 2·width and 4·width filters, a
global average and a linear layer: 6n+2 layers with weights. Stages two and three begin with stride 2. Parameters with
ten classes, three channels, width 16 and shortcut A:

    depth          20        32        44        56         110
    parameters     269,722   464,154   658,586   853,018    1,727,962
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.models.base import Classifier, FeatureInfo, GlobalAveragePool, check_counts, initialise_he, new_linear
from cnnlab.values import spelled

SHORTCUTS = ("A", "B", "C")


class PadShortcut(nn.Module):
    """Shortcut A: every second pixel, zeros for the new channels, no parameters.

    Channels are taken last, so that the gradient of a channels_last map is channels_last too; the mixed layouts that
    slicing (B, C, H, W) leads to slow a whole training step by 7 %.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        extra = out_channels - in_channels
        self.pad = (extra // 2, extra - extra // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)[:, :: self.stride, :: self.stride]
        return F.pad(x, self.pad).permute(0, 3, 1, 2)


def make_shortcut(option: str, in_channels: int, out_channels: int, stride: int, batch_norm: bool) -> nn.Module:
    """A: zero padding. B: a 1×1 convolution where the shape changes. C: a 1×1 convolution everywhere."""
    if option != "C" and stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if option == "A":
        return PadShortcut(in_channels, out_channels, stride)
    projection = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=not batch_norm)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels)) if batch_norm else projection


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and, if residual, the addition of the shortcut before the last ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, residual: bool, shortcut: str, batch_norm: bool
    ) -> None:
        super().__init__()
        bias = not batch_norm
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
        self.shortcut = make_shortcut(shortcut, in_channels, out_channels, stride, batch_norm) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        if self.shortcut is not None:
            out += self.shortcut(x)
        return F.relu(out, inplace=True)


class ResNet(Classifier):
    """ResNet of the CIFAR family, any input size from 1×1 pixel up.

    Args:
        depth: 6n+2 layers: 8, 14, 20, 26, 32, 44, 56, 110, …
        residual: False gives the plain net: the same layers without the additions.
        shortcut: "A" (zero padding), "B" (1×1 convolution where the shape changes) or "C" (everywhere); in any case.
        batch_norm: False leaves normalisation out and gives the convolutions a bias.
        width: filters of the first stage.
        in_channels: channels of the image.
        num_classes: number of logits.

    Shapes: (B, in_channels, H, W) → features (B, 4·width, ⌈H/4⌉, ⌈W/4⌉) → logits (B, num_classes).
    """

    def __init__(
        self,
        depth: int = 20,
        residual: bool = True,
        shortcut: str = "A",
        batch_norm: bool = True,
        width: int = 16,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            below = max(8, (depth - 2) // 6 * 6 + 2)
            near = f"{below}, {below + 6}" if depth > 8 else "8"
            raise ModelError(f"depth must be 6n+2 for a CIFAR ResNet, got {depth} (nearest: {near}).")
        shortcut = spelled(shortcut, SHORTCUTS)
        if shortcut not in SHORTCUTS:
            raise ModelError(f"shortcut must be A, B or C, got {shortcut!r}.")
        check_counts(width=width, in_channels=in_channels)
        self.num_classes = num_classes
        self.width = width
        blocks = (depth - 2) // 6

        def stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
            shape = [(in_channels, stride)] + [(out_channels, 1)] * (blocks - 1)
            return nn.Sequential(*(BasicBlock(c, out_channels, s, residual, shortcut, batch_norm) for c, s in shape))

        self.stages = ("stem", "stage1", "stage2", "stage3")
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=not batch_norm),
            nn.BatchNorm2d(width) if batch_norm else nn.Identity(),
            nn.ReLU(inplace=True),
        )
        self.stage1 = stage(width, width, stride=1)
        self.stage2 = stage(width, 2 * width, stride=2)
        self.stage3 = stage(2 * width, 4 * width, stride=2)
        self.pool = GlobalAveragePool()
        initialise_he(self)
        self.head = new_linear(4 * width, num_classes)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo("stage3", 4 * self.width, stride=4)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, width, H, W)
        x = self.stage1(x)  # (B, width, H, W)
        x = self.stage2(x)  # (B, 2·width, H/2, W/2)
        return self.stage3(x)  # (B, 4·width, H/4, W/4)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.pool(features))
