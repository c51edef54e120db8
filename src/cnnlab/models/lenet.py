"""LeNet-5 (LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition, section II.B and figure 2).

    C1  5×5 convolution, 6 filters     32 → 28     156 parameters
    S2  2×2 pooling                    28 → 14
    C3  5×5 convolution, 16 filters    14 → 10     2,416
    S4  2×2 pooling                    10 → 5
    C5  fully connected, 120           400 → 120   48,120
    F6  fully connected, 84            120 → 84    10,164
    output                             84 → 10     850       together 61,706

Unlike the paper, poolings have no weights, each filter of C3 sees all six maps, and the output layer is linear.
"""

from __future__ import annotations

from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.models.activations import new_activation
from cnnlab.models.base import Classifier, FeatureInfo, as_pair, check_counts, initialise_he, new_linear


class LeNet(Classifier):
    """LeNet-5 for images of any size from 4×4 pixels up.

    From 32 pixels up the convolutions lose two pixels at each border, as in the paper. Images of 28 to 31 pixels get
    a border of two pixels before C1, as the paper did to the digits; smaller ones before C3 too.

    Args:
        activation: "tanh" as in the paper, or relu, leaky_relu, elu, silu, gelu, mish, sigmoid.
        pooling: "average" as in the paper, or "max".
        image_size: one number or (height, width) in pixels. Other sizes are averaged to the same map before C5.
        in_channels: channels of the image.
        num_classes: number of logits.

    Shapes: (B, in_channels, H, W) → features (B, 16, h, w), h = H/4 - 3 from 32 pixels up → logits (B, num_classes).
    """

    def __init__(
        self,
        activation: str = "tanh",
        pooling: str = "average",
        image_size: int | tuple[int, int] = 28,
        in_channels: int = 1,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels)
        if pooling not in ("average", "max"):
            raise ModelError(f"pooling must be average or max, got {pooling!r}.")
        sides = as_pair(image_size)
        if min(sides) < 4:
            raise ModelError(f"image_size must be at least 4 pixels for two poolings, got {min(sides)}.")
        border1 = 0 if min(sides) >= 32 else 2
        border3 = 0 if min(sides) >= 28 else 2
        height, width = (((side + 2 * border1 - 4) // 2 + 2 * border3 - 4) // 2 for side in sides)
        pool = nn.AvgPool2d if pooling == "average" else nn.MaxPool2d

        self.num_classes = num_classes
        self.stages = ("features.conv1", "features.conv3", "hidden")
        self.features = nn.Sequential()
        self.features.add_module("conv1", nn.Conv2d(in_channels, 6, 5, padding=border1))
        self.features.add_module("act1", new_activation(activation))
        self.features.add_module("pool2", pool(2))
        self.features.add_module("conv3", nn.Conv2d(6, 16, 5, padding=border3))
        self.features.add_module("act3", new_activation(activation))
        self.features.add_module("pool4", pool(2))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d((height, width)), nn.Flatten())
        self.hidden = nn.Sequential(
            nn.Linear(16 * height * width, 120), new_activation(activation),
            nn.Linear(120, 84), new_activation(activation),
        )  # fmt: skip
        initialise_he(self)
        self.head = new_linear(84, num_classes)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo("features", 16, stride=4)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)  # (B, 16, 5, 5) for 28 and 32 pixels

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(self.hidden(self.pool(features)))
