"""Residual networks for photographs (He et al. 2016, Deep Residual Learning, section 4.1 and table 1).

A 7×7 convolution and a max pool, then four stages of residual blocks with 1, 2, 4 and 8 times `width` filters, a global
average and a linear layer. In a bottleneck the 3×3 convolution has the stride, not the 1×1 before it (Goyal et al.
2017, Accurate, Large Minibatch SGD, section 5.1). Shortcuts are of option B. With 1,000 classes:

    net           resnet18      resnet34      resnet50
    block         basic         basic         bottleneck
    blocks        2 2 2 2       3 4 6 3       3 4 6 3
    parameters    11,689,512    21,797,672    25,557,032
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

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
from cnnlab.models.resnet import BasicBlock, make_shortcut

SMALL = 64  # pixels; below, the stem neither strides nor pools
EXPANSION = {"basic": 1, "bottleneck": 4}  # channels that a block gives, as a multiple of its 3×3 convolution's


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and the shortcut: (B, in_channels, H, W) → (B, 4·channels, ⌈H/stride⌉, …)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * channels)
        self.shortcut = make_shortcut("B", in_channels, 4 * channels, stride, batch_norm=True)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = F.relu(self.norm2(self.conv2(out)), inplace=True)
        out = self.norm3(self.conv3(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


def new_block(kind: str, in_channels: int, channels: int, stride: int) -> nn.Module:
    if kind == "bottleneck":
        return Bottleneck(in_channels, channels, stride)
    return BasicBlock(in_channels, channels, stride, residual=True, shortcut="B", batch_norm=True)


class ImageNetResNet(Classifier):
    """ResNet of the ImageNet family, any input size from 1×1 pixel up.

    Args:
        block: "basic" or "bottleneck".
        blocks: residual blocks of each stage; stages after the first halve the map.
        width: filters of the stem and of the first stage, which each further stage doubles.
        stem: "imagenet" (7×7 convolution of stride 2, then a max pool of stride 2), "small" (3×3 convolution of stride
            1, no pool), or "auto": small below 64 pixels.
        zero_init_residual: each block begins as its shortcut: its last normalisation has scale 0 (Goyal et al. 2017).
        image_size: one number or (height, width) in pixels; only used to choose the stem.
        in_channels: channels of the image.
        num_classes: number of logits.

    Shapes: (B, in_channels, H, W) → features (B, F, ⌈H/32⌉, ⌈W/32⌉; small: ⌈H/8⌉, ⌈W/8⌉) → logits (B, num_classes).
    """

    def __init__(
        self,
        block: str = "basic",
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        stem: str = "auto",
        zero_init_residual: bool = False,
        image_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        check_counts(width=width, in_channels=in_channels)
        if block not in EXPANSION:
            raise ModelError(f"block must be basic or bottleneck, got {block!r}.")
        if not 1 <= len(blocks) <= 8:
            raise ModelError(f"blocks must be a list of one to eight numbers, got {list(blocks)}.")
        for count in blocks:
            check_counts(blocks=count)
        if stem not in ("auto", "imagenet", "small"):
            raise ModelError(f"stem must be auto, imagenet or small, got {stem!r}.")
        sides = as_pair(image_size)
        check_counts(image_size=min(sides))
        small = min(sides) < SMALL if stem == "auto" else stem == "small"
        expansion = EXPANSION[block]

        self.num_classes = num_classes
        self.stride = (1 if small else 4) * 2 ** (len(blocks) - 1)
        self.channels = expansion * width * 2 ** (len(blocks) - 1)
        layers = [
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
            if small
            else nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        self.stem = nn.Sequential(*layers, *([] if small else [nn.MaxPool2d(3, stride=2, padding=1)]))
        self.body = nn.Sequential()
        previous = width
        for stage, count in enumerate(blocks):
            channels = width * 2**stage
            members = []
            for i in range(count):
                members.append(new_block(block, previous, channels, stride=2 if stage and i == 0 else 1))
                previous = expansion * channels
            self.body.append(nn.Sequential(*members))
        self.stages = ("stem", *(f"body.{stage}" for stage in range(len(blocks))))
        self.pool = GlobalAveragePool()
        initialise_he(self)
        if zero_init_residual:
            for member in self.modules():
                if isinstance(member, BasicBlock | Bottleneck):
                    last = member.norm3 if isinstance(member, Bottleneck) else member.norm2
                    nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        self.head = new_linear(self.channels, num_classes)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo("body", self.channels, self.stride)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, width, H/4, W/4), small: (B, width, H, W)
        return self.body(x)  # (B, F, H/32, W/32), small: (B, F, H/8, W/8)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.pool(features))

    def rename_foreign(self, name: str) -> str:
        """torchvision: conv1, bn1 → stem; layer1 … layer4 → body.0 … body.3; bn → norm; downsample → shortcut."""
        name = re.sub(r"^conv1\.", "stem.0.", name)
        name = re.sub(r"^bn1\.", "stem.1.", name)
        name = re.sub(r"^fc\.", "head.", name)
        name = re.sub(r"^layer([1-9])\.", lambda layer: f"body.{int(layer[1]) - 1}.", name)
        return re.sub(r"\.bn([123])\.", r".norm\1.", name).replace(".downsample.", ".shortcut.")


def _paper_net(name: str, block: str, blocks: tuple[int, ...]) -> Callable[..., ImageNetResNet]:
    def build(
        width: int = 64,
        stem: str = "auto",
        zero_init_residual: bool = False,
        image_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        num_classes: int = 1000,
    ) -> ImageNetResNet:
        return ImageNetResNet(block, blocks, width, stem, zero_init_residual, image_size, in_channels, num_classes)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Stages of {blocks} {block} blocks. Arguments as those of `ImageNetResNet`."
    return build


resnet18 = _paper_net("resnet18", "basic", (2, 2, 2, 2))
resnet34 = _paper_net("resnet34", "basic", (3, 4, 6, 3))
resnet50 = _paper_net("resnet50", "bottleneck", (3, 4, 6, 3))
