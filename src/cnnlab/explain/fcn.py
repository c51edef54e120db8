"""A classifier as a convolution over images of any size: it answers at every place (Long et al. 2015, section 3)."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.explain.head import as_convolutions, averages_everywhere, head_layers
from cnnlab.explain.hooks import evaluation_mode, find_layer
from cnnlab.geometry import ReceptiveField
from cnnlab.models.base import Classifier
from cnnlab.models.cost import run_on_meta_device, to_meta_device
from cnnlab.models.trace import TraceMode


class FullyConvolutional(nn.Module):
    """The logits of a classifier for every window of the size it was trained with.

    Args:
        model: a trained classifier with a feature map; its layers are used, not copied, but for those of the head.
        shape: (C, h, w) of the images it was trained with.

    Attributes:
        window: (h, w) in pixels; stride: pixels from one window to the next.
        places: (rows, columns) of the feature map that one window covers.
        fields: along height and width, what each position of the feature map sees of the image.

    Shapes: (B, C, H, W), H ≥ h, W ≥ w → (B, K, n, m). For an image of h × w the answer is 1 × 1 and the classifier's
    own. On a larger one, a window is seen with what surrounds it, where the classifier would see padding.

    Raises:
        ModelError: no feature map, or a head that has no convolutional form.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        layers = head_layers(model)
        assert isinstance(model, Classifier)
        self.model, self.window = model, shape[1:]
        with evaluation_mode(model), torch.no_grad():
            first = next(model.parameters())
            features = model.forward_features(first.new_zeros(1, *shape))
            if model.forward_head(features).ndim == 4:
                raise ModelError(f"{type(model).__name__} classifies every pixel already; use predict for its masks.")
            self.places = tuple(features.shape[2:])
            self.head = as_convolutions(layers, *self.places).eval()
        self.averages = averages_everywhere(layers)
        self.fields = layer_fields(model, shape, model.feature_info.module)
        self.stride = model.feature_info.stride
        for layer in self.head:
            step = getattr(layer, "stride", 1)
            self.stride *= max(step) if isinstance(step, tuple) else step

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < self.window[0] or x.shape[3] < self.window[1]:
            raise ModelError(
                f"an image of {x.shape[2]}×{x.shape[3]} pixels is smaller than the {self.window[0]}×{self.window[1]}"
                " that the model was trained with; enlarge it."
            )
        return self.head(self.model.forward_features(x))

    def class_maps(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K, n, m) logits of each place of the feature map by itself, whose mean over a window is
        the window's answer; for a head that does not average, the answers of the windows around the places.

        Their centres in pixels along an axis: `self.centre(axis)` + i·`self.jump(axis)`.
        """
        if not self.averages:
            return self(x)
        return self.head[-1](self.model.forward_features(x))

    def centre(self, axis: int) -> float:
        """Pixel at the centre of the first place of `class_maps`; axis 0 is the height."""
        field = self.fields[axis]
        beyond = 0 if self.averages else (self.places[axis] - 1) / 2
        return float(field.start + field.jump * Fraction(beyond))

    def jump(self, axis: int) -> float:
        """Pixels from one place of `class_maps` to the next."""
        return float(self.fields[axis].jump) if self.averages else float(self.stride)

    def dense(self, x: Tensor, stride: int) -> Tensor:
        """`forward` at a smaller stride: what the dilated form of the net computes, by shift and stitch (Long et al.
        2015, section 3.2). The image is shifted by `stride` pixels and again, and the answers are interlaced, so it
        works for every model; `self.stride` must be a multiple of `stride`.

        Returns:
            (B, K, n, m); place (i, j) is the window that begins `stride`·(i, j) pixels after the first one.
        """
        shifts, rest = divmod(self.stride, stride) if stride > 0 else (0, 1)
        if rest:
            raise ModelError(f"stride must divide the net's own of {self.stride} pixels, got {stride}.")
        lost = (shifts - 1) * stride
        height, width = x.shape[2] - lost, x.shape[3] - lost
        rows = [
            torch.stack([self(x[:, :, i : i + height, j : j + width]) for j in range(0, lost + 1, stride)], dim=-1)
            for i in range(0, lost + 1, stride)
        ]
        answers = torch.stack(rows, dim=3)  # (B, K, n, shifts, m, shifts)
        return answers.flatten(4, 5).flatten(2, 3)


def layer_fields(model: nn.Module, shape: tuple[int, int, int], layer: str) -> tuple[ReceptiveField, ReceptiveField]:
    """Along height and width: the pixels that each position of a layer's map sees.

    Raises:
        ModelError: no such layer, or one whose positions cannot be distinguished.
    """
    modes: list[TraceMode] = []

    def watch(image: Tensor) -> TraceMode:
        modes.append(TraceMode(image, lambda operation: None))
        return modes[0]

    meta_model, outputs = to_meta_device(model), []
    find_layer(meta_model, layer).register_forward_hook(lambda module, given, output: outputs.append(output))
    run_on_meta_device(meta_model, shape, watch)
    traced = modes[0].traced(outputs[-1]) if outputs else None
    fields = traced.fields if traced is not None and traced.is_map else (None, None)
    if fields[0] is None or fields[1] is None:
        raise ModelError(f"layer {layer!r} of {type(model).__name__} has no positions with a local receptive field.")
    return fields[0], fields[1]
