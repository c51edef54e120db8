"""A VGG-style network: blocks of 3×3 convolutions with a max pool between them, then a global average.

Simonyan and Zisserman 2014 for the blocks, Lin et al. 2013 for the head. Channels double from block to block.
"""

from __future__ import annotations

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


class ConvNet(Classifier):
    """VGG-style blocks for pictures of any size.

    Args:
        width: filters of the first block; each block has twice the one before it, 8·width at the most.
        blocks: number of blocks, with a 2×2 max pool between two of them. None: as many as bring the shorter side
            of `image_size` down to 8 pixels or fewer, and two at the least.
        convs_per_block: 3×3 convolutions in a block.
        stem_stride: stride of the first convolution. None: 2 from 96 pixels up, else 1.
        batch_norm: False leaves normalisation out and gives the convolutions a bias.
        dropout: probability of dropping a feature before the last layer, 0 to 1.
        image_size: one number or (height, width) in pixels; only used to choose `blocks` and `stem_stride`.
        in_channels: channels of the picture.
        num_classes: number of logits.

    Shapes: (B, in_channels, H, W) → features (B, F, H/s, W/s) → logits (B, num_classes); F, s: see `feature_info`.
    """

    def __init__(
        self,
        width: int = 32,
        blocks: int | None = None,
        convs_per_block: int = 2,
        stem_stride: int | None = None,
        batch_norm: bool = True,
        dropout: float = 0.0,
        image_size: int | tuple[int, int] = 32,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_counts(width=width, convs_per_block=convs_per_block, blocks=blocks, in_channels=in_channels)
        check_counts(stem_stride=stem_stride)
        if not 0 <= dropout < 1:
            raise ModelError(f"dropout must be at least 0 and below 1, got {dropout}.")
        for name, value in (("blocks", blocks), ("stem_stride", stem_stride)):
            if value is not None and value > 16:
                raise ModelError(f"{name} must be at most 16, got {value}.")
        shorter = min(as_pair(image_size))
        if stem_stride is None:
            stem_stride = 2 if shorter >= 96 else 1
        if blocks is None:
            blocks = 2
            while shorter // stem_stride >> (blocks - 1) > 8:
                blocks += 1
        smallest = stem_stride * 2 ** (blocks - 1)
        if shorter < smallest:
            raise ModelError(
                f"a picture of {shorter} pixels is too small for {blocks} blocks: the last pooling kernel would be"
                f" larger than its input. Use at least {smallest} pixels (data.image_size) or fewer model.blocks."
            )
        self.num_classes = num_classes
        self.stride = smallest
        self.channels = width
        layers: list[nn.Module] = []
        previous = in_channels
        for block in range(blocks):
            if block:
                layers.append(nn.MaxPool2d(2))
            self.channels = width * 2 ** min(block, 3)
            for conv in range(convs_per_block):
                stride = stem_stride if block == conv == 0 else 1
                layers.append(nn.Conv2d(previous, self.channels, 3, stride=stride, padding=1, bias=not batch_norm))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(self.channels))
                layers.append(nn.ReLU(inplace=True))
                previous = self.channels
        self.features = nn.Sequential(*layers)
        self.pool = GlobalAveragePool()
        self.dropout = nn.Dropout(dropout)
        initialise_he(self)
        self.head = new_linear(self.channels, num_classes)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo("features", self.channels, self.stride)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(self.pool(features)))

    def reset_classifier(self, num_classes: int) -> None:
        self.head = new_linear(self.channels, num_classes).to(self.head.weight.device)
        self.num_classes = num_classes
