"""VGG: blocks of 3×3 convolutions with a pooling between two of them (Simonyan and Zisserman 2014, Very Deep …).

`VGG` is the general net, by default with batch normalisation and a global average (Lin et al. 2013) before the last
layer. `vgg11` to `vgg19` are the nets of the paper's table 1, columns A, B, D and E, for images of 224 pixels:

    net                    vgg11         vgg13         vgg16         vgg19
    convolutions a block   1 1 2 2 2     2 2 2 2 2     2 2 3 3 3     2 2 4 4 4
    parameters             132,863,336   133,047,848   138,357,544   143,667,240
    with batch_norm        132,868,840   133,053,736   138,365,992   143,678,248
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.models.activations import new_activation
from cnnlab.models.base import (
    Classifier,
    FeatureInfo,
    GlobalAveragePool,
    as_pair,
    check_counts,
    initialise_he,
    new_linear,
)

LIMIT = 16  # of blocks and strides; beyond it no image is left


class VGG(Classifier):
    """VGG blocks for images of any size. Channels double from block to block.

    Args:
        width: filters of the first block.
        blocks: number of blocks. None: as many as bring the shorter side of `image_size` down to 8 pixels or fewer,
            and two at the least.
        convs_per_block: 3×3 convolutions in a block: one number for all, or a list with one for each block.
        max_width: where the doubling ends. None: 8·width.
        activation: relu, leaky_relu, elu, silu, gelu, mish, tanh or sigmoid.
        downsample: what halves the map between two blocks: "max" (2×2 max pool), "average" (2×2 average pool) or
            "conv" (the block's first convolution has stride 2; Springenberg et al. 2014, Striving for Simplicity).
        stem_stride: stride of the first convolution. None: 2 from 96 pixels up, else 1.
        batch_norm: False leaves normalisation out.
        bias: give the convolutions a bias. None: only without `batch_norm`, which would take it away again.
        head_kind: "average" (global average, then the last layer) or "linear" (one more pooling, then fully connected
            layers, as in the paper).
        hidden: widths of the fully connected layers before the last, with head_kind="linear".
        pool_size: side of the map that they see, with head_kind="linear". None: what `image_size` gives, 7 at most.
        dropout: probability of dropping a feature before the last layer, with head_kind="linear" before each fully
            connected layer but the first; 0 to 1.
        image_size: one number or (height, width) in pixels; only used to choose `blocks`, `stem_stride`, `pool_size`.
        in_channels: channels of the image.
        num_classes: number of logits.

    Shapes: (B, in_channels, H, W) → features (B, F, H/s, W/s) → logits (B, num_classes); F, s: see `feature_info`.
    """

    def __init__(
        self,
        width: int = 32,
        blocks: int | None = None,
        convs_per_block: int | Sequence[int] = 2,
        max_width: int | None = None,
        activation: str = "relu",
        downsample: str = "max",
        stem_stride: int | None = None,
        batch_norm: bool = True,
        bias: bool | None = None,
        head_kind: str = "average",
        hidden: Sequence[int] = (4096, 4096),
        pool_size: int | None = None,
        dropout: float = 0.0,
        image_size: int | tuple[int, int] = 32,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_counts(width=width, blocks=blocks, max_width=max_width, stem_stride=stem_stride, in_channels=in_channels)
        check_counts(pool_size=pool_size)
        for units in hidden:
            check_counts(hidden=units)
        if not 0 <= dropout < 1:
            raise ModelError(f"dropout must be at least 0 and below 1, got {dropout}.")
        if downsample not in ("max", "average", "conv"):
            raise ModelError(f"downsample must be max, average or conv, got {downsample!r}.")
        if head_kind not in ("average", "linear"):
            raise ModelError(f"head_kind must be average or linear, got {head_kind!r}.")
        if bias is None:
            bias = not batch_norm
        if not isinstance(bias, bool):
            raise ModelError(f"bias must be true, false or null, got {bias!r}.")
        if max_width is None:
            max_width = 8 * width
        if max_width < width:
            raise ModelError(f"max_width must be at least the width of {width}, got {max_width}.")
        height_and_width = as_pair(image_size)
        shorter = min(height_and_width)
        stem_stride, convs = _choose_blocks(shorter, stem_stride, blocks, convs_per_block)
        blocks = len(convs)

        self.num_classes = num_classes
        self.stride = stem_stride * 2 ** (blocks - 1)
        self.channels = min(width * 2 ** (blocks - 1), max_width)
        last_pool = head_kind == "linear" and downsample != "conv"
        smallest = 2 * self.stride if last_pool else self.stride
        if shorter < smallest and downsample != "conv":
            raise ModelError(
                f"an image of {shorter} pixels is too small for {blocks} blocks: the last pooling kernel would be"
                f" larger than its input. Use at least {smallest} pixels (data.image_size) or fewer blocks."
            )

        def new_pool() -> nn.Module:
            return nn.MaxPool2d(2) if downsample == "max" else nn.AvgPool2d(2)

        self.features = nn.Sequential()
        previous = in_channels
        for block in range(blocks):
            layers: list[nn.Module] = [new_pool()] if block and downsample != "conv" else []
            channels = min(width * 2**block, max_width)
            for conv in range(convs[block]):
                stride = 1
                if conv == 0:
                    stride = stem_stride if block == 0 else 2 if downsample == "conv" else 1
                layers.append(nn.Conv2d(previous, channels, 3, stride=stride, padding=1, bias=bias))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(new_activation(activation))
                previous = channels
            self.features.append(nn.Sequential(*layers))
        self.lengths = [len(list(block.children())) for block in self.features]
        self.stages = tuple(f"features.{block}" for block in range(blocks))

        if head_kind == "average":
            units = self.channels
            self.pool: nn.Module = GlobalAveragePool()
            self.hidden = nn.Sequential(nn.Dropout(dropout))
        else:
            # The paper's last max pool belongs to the head: activation maps are finer before it.
            side = [pool_size or min(7, pixels // smallest) for pixels in height_and_width]
            units = self.channels * side[0] * side[1]
            adaptive = nn.AdaptiveAvgPool2d((side[0], side[1]))
            self.pool = nn.Sequential(*([new_pool()] if last_pool else []), adaptive, nn.Flatten())
            self.hidden = nn.Sequential()
            for width_of_layer in hidden:
                self.hidden.extend([nn.Linear(units, width_of_layer), new_activation(activation), nn.Dropout(dropout)])
                units = width_of_layer
            self.stages += ("hidden",) if hidden else ()
        initialise_he(self)
        self.head = new_linear(units, num_classes)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo("features", self.channels, self.stride)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.hidden(self.pool(features)))

    def rename_foreign(self, name: str) -> str:
        """torchvision numbers its layers through; here they are numbered within their block."""
        match = re.fullmatch(r"(features|classifier)\.(\d+)\.(\w+)", name)
        if match is None:
            return name
        number, tensor = int(match[2]), match[3]
        if match[1] == "classifier":
            return f"head.{tensor}" if number == len(self.hidden) else f"hidden.{number}.{tensor}"
        for block, length in enumerate(self.lengths):
            if number < length:
                return f"features.{block}.{number}.{tensor}"
            number -= length
        return name


def _choose_blocks(
    shorter: int, stem_stride: int | None, blocks: int | None, convs_per_block: int | Sequence[int]
) -> tuple[int, list[int]]:
    """The stride of the first convolution, and the convolutions of each block, for images of `shorter` pixels."""
    if stem_stride is None:
        stem_stride = 2 if shorter >= 96 else 1
    if not isinstance(convs_per_block, int):
        if blocks not in (None, len(convs_per_block)) or not convs_per_block:
            raise ModelError(
                f"convs_per_block must be one number or a list with one for each of the"
                f" {blocks or 'blocks'}, got {list(convs_per_block)}."
            )
        blocks = len(convs_per_block)
    if blocks is None:
        blocks = 2
        while shorter // stem_stride >> (blocks - 1) > 8:
            blocks += 1
    for name, value in (("blocks", blocks), ("stem_stride", stem_stride)):
        if value > LIMIT:
            raise ModelError(f"{name} must be at most {LIMIT}, got {value}.")
    convs = [convs_per_block] * blocks if isinstance(convs_per_block, int) else list(convs_per_block)
    for count in convs:
        check_counts(convs_per_block=count)
    return stem_stride, convs


def _paper_net(name: str, convs_per_block: list[int]) -> Callable[..., VGG]:
    """What the four nets share: a bias everywhere, and fully connected layers that see 7×7 places at any image size.

    So the weights that torchvision publishes fit them.
    """

    def build(
        batch_norm: bool = False,
        width: int = 64,
        hidden: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        activation: str = "relu",
        image_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        num_classes: int = 1000,
    ) -> VGG:
        return VGG(
            width,
            convs_per_block=convs_per_block,
            batch_norm=batch_norm,
            activation=activation,
            hidden=hidden,
            dropout=dropout,
            image_size=image_size,
            in_channels=in_channels,
            num_classes=num_classes,
            stem_stride=1,
            bias=True,
            head_kind="linear",
            pool_size=7,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{sum(convs_per_block)} convolutions, 3 fully connected layers. Arguments as those of `VGG`."
    return build


vgg11 = _paper_net("vgg11", [1, 1, 2, 2, 2])
vgg13 = _paper_net("vgg13", [2, 2, 2, 2, 2])
vgg16 = _paper_net("vgg16", [2, 2, 3, 3, 3])
vgg19 = _paper_net("vgg19", [2, 2, 4, 4, 4])
