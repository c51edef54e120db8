"""Multi-layer perceptron: every pixel to every unit, no idea of neighbourhood. The baseline of the course."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.models.base import Classifier, as_pair, check_counts, initialise_he, new_linear


class MLP(Classifier):
    """Linear layers with ReLU between them.

    Args:
        hidden: widths of the hidden layers; an empty list gives softmax regression.
        batch_norm: normalise before each ReLU.
        dropout: probability of dropping a hidden unit, 0 to 1.
        image_size: one number or (height, width) in pixels; the MLP takes this size only.
        in_channels: channels of the image.
        num_classes: number of logits.

    Shapes: (B, in_channels, H, W) → logits (B, num_classes).
    """

    def __init__(
        self,
        hidden: Sequence[int] = (512, 256),
        batch_norm: bool = False,
        dropout: float = 0.0,
        image_size: int | tuple[int, int] = 28,
        in_channels: int = 1,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels)
        for units in hidden:
            check_counts(hidden=units)
        if not 0 <= dropout < 1:
            raise ModelError(f"dropout must be at least 0 and below 1, got {dropout}.")
        self.num_classes = num_classes
        self.stages = ("hidden",)
        self.input_shape = (in_channels, *as_pair(image_size))
        self.units = in_channels * self.input_shape[1] * self.input_shape[2]
        layers: list[nn.Module] = [nn.Flatten()]
        for units in hidden:
            layers.append(nn.Linear(self.units, units))
            if batch_norm:
                layers.append(nn.BatchNorm1d(units))
            layers.append(nn.ReLU(inplace=True))
            if dropout:
                layers.append(nn.Dropout(dropout))
            self.units = units
        self.hidden = nn.Sequential(*layers)
        initialise_he(self)
        self.head = new_linear(self.units, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.input_shape:
            raise ModelError(
                f"the MLP was built for images of shape {self.input_shape}, got {tuple(x.shape[1:])}."
                " Resize them, or build it with another model.image_size."
            )
        return self.head(self.hidden(x))
