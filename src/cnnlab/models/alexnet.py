"""AlexNet (Krizhevsky et al. 2012, ImageNet Classification with Deep Convolutional Neural Networks) in one column.

Filters as in Krizhevsky 2014, One Weird Trick for Parallelizing Convolutional Neural Networks: 64, 192, 384, 256, 256,
then two fully connected layers of 4096; 61,100,840 parameters with 1,000 classes. There is no response normalisation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.models.base import Classifier, FeatureInfo, as_pair, check_counts, initialise_he, new_linear

SMALL = 96  # pixels; below, the first convolution's stride of 4 would leave too little


class AlexNet(Classifier):
    """AlexNet for images of any size.

    Args:
        variant: "standard" begins with an 11×11 convolution of stride 4; "small" with a 5×5 convolution of stride 1,
            and its poolings keep the border, so that 8 pixels are enough; "auto" is small below 96 pixels.
        width: filters of the first convolution; the others have 3, 6, 4 and 4 times as many.
        hidden: widths of the fully connected layers before the last.
        dropout: probability of dropping a feature before each fully connected layer but the last, 0 to 1.
        image_size: one number or (height, width) in pixels; chooses the variant, and in the small one the map that the
            fully connected layers see, 6×6 at most. Other sizes are averaged to the same map.
        in_channels: channels of the image.
        num_classes: number of logits.

    Shapes: (B, in_channels, H, W) → features (B, 4·width, about H/16, W/16; small: H/4, W/4) → logits (B, num_classes).
    """

    def __init__(
        self,
        variant: str = "auto",
        width: int = 64,
        hidden: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        image_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        check_counts(width=width, in_channels=in_channels)
        for units in hidden:
            check_counts(hidden=units)
        if not 0 <= dropout < 1:
            raise ModelError(f"dropout must be at least 0 and below 1, got {dropout}.")
        if variant not in ("auto", "standard", "small"):
            raise ModelError(f"variant must be auto, standard or small, got {variant!r}.")
        sides = as_pair(image_size)
        small = min(sides) < SMALL if variant == "auto" else variant == "small"
        smallest = 1 if small else 63  # pixels that leave one place after the last pooling
        if min(sides) < smallest:
            raise ModelError(
                f"an image of {min(sides)} pixels is too small for this AlexNet. Use at least {smallest} pixels"
                " (data.image_size) or model.variant=small."
            )
        self.num_classes = num_classes
        self.channels = 4 * width
        self.stride = 4 if small else 16
        first = (
            nn.Conv2d(in_channels, width, 5, padding=2) if small else nn.Conv2d(in_channels, width, 11, 4, padding=2)
        )
        border = 1 if small else 0
        self.features = nn.Sequential(
            first,
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=border),
            nn.Conv2d(width, 3 * width, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=border),
            nn.Conv2d(3 * width, 6 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(6 * width, 4 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        # The last max pool belongs to the head: activation maps are finer before it.
        height, breadth = (min(6, -(-side // 8)) if small else 6 for side in sides)
        self.pool = nn.Sequential(
            nn.MaxPool2d(3, stride=2, padding=border), nn.AdaptiveAvgPool2d((height, breadth)), nn.Flatten()
        )
        units = self.channels * height * breadth
        self.hidden = nn.Sequential()
        for width_of_layer in hidden:
            self.hidden.extend([nn.Dropout(dropout), nn.Linear(units, width_of_layer), nn.ReLU(inplace=True)])
            units = width_of_layer
        self.stages = tuple(f"features.{i}" for i in (0, 3, 6, 8, 10)) + (("hidden",) if hidden else ())
        initialise_he(self)
        self.head = new_linear(units, num_classes)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo("features", self.channels, self.stride)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)  # (B, 256, 13, 13) for 224 pixels

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.hidden(self.pool(features)))

    def rename_foreign(self, name: str) -> str:
        """torchvision calls the fully connected layers classifier.1, .4 and .6, the last of them our head."""
        match = re.fullmatch(r"classifier\.(\d+)\.(\w+)", name)
        if match is None:
            return name
        return f"head.{match[2]}" if int(match[1]) == len(self.hidden) else f"hidden.{match[1]}.{match[2]}"
