"""The one evaluation transform: validation, test, predict and every export call this and nothing else."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnnlab.data.decode import Layout, arrange, read_image, upright
from cnnlab.device import constant
from cnnlab.errors import DataError


@dataclass(frozen=True)
class Preprocess:
    """Upright 8-bit pixels → resize → crop → (x/255 − mean)/std. `mean`, `std`: one number per channel, in [0, 1].

    With `own`, images are made by code of the user's: `denormalise` shows them, and there is no way from an image.
    """

    layout: Layout
    mean: tuple[float, ...]
    std: tuple[float, ...]
    own: bool = False

    @classmethod
    def for_showing(cls, images: Tensor) -> Preprocess:
        """For (B, C, H, W) images of the user's own: beyond [0, 1] they are stretched from 1st to 99th percentile."""
        channels = images.transpose(0, 1).flatten(1).float().cpu().numpy()
        low, high = (np.percentile(channels, q, axis=1) for q in (1, 99))
        inside = channels.min() >= 0 and channels.max() <= 1
        mean = [0.0] * len(channels) if inside else low.tolist()
        std = [1.0] * len(channels) if inside else np.maximum(high - low, 1e-6).tolist()
        layout = Layout(images.shape[2], images.shape[3], "L" if len(channels) == 1 else "RGB")
        return cls(layout, tuple(mean), tuple(std), own=True)

    def __call__(self, image: str | Path | bytes | Image.Image) -> Tensor:
        """One image file or Pillow image → (C, height, width) float32."""
        return self.normalise(torch.from_numpy(self.pixels(image))[None])[0]

    def pixels(self, image: str | Path | bytes | Image.Image) -> np.ndarray:
        """One image file or Pillow image → (height, width, stored channels) uint8, for `normalise`.

        Raises DataError for what is not an image, and where only code of the user's can make an image of one.
        """
        self.refuse_own()
        read = upright(image) if isinstance(image, Image.Image) else read_image(image)
        return arrange(read, self.layout)

    def refuse_own(self) -> None:
        """Raise DataError where only the user's own code can turn an image into a tensor."""
        if self.own:
            raise DataError(
                "this run was trained on images that code of your own made, which no run folder keeps: make them in the"
                " same way, and give them to Predictor.probabilities or to the model of cnnlab.load_run."
            )

    def normalise(self, stored: Tensor) -> Tensor:
        """(B, H, W, stored channels) uint8 → (B, C, H, W) float32, channels last in memory."""
        pixels = without_padding(stored, self.layout.channels).to(torch.float32)
        count, height, width, channels = pixels.shape
        times = 1 if channels == 1 else width  # long rows, for vector instructions
        rows = pixels.view(count * height * width // times, times * channels)
        scale, shift = (constant(tuple(v), stored.device, times) for v in self.scale_and_shift())
        return scaled(rows, scale, shift).view(pixels.shape).permute(0, 3, 1, 2)

    def scale_and_shift(self) -> tuple[list[float], list[float]]:
        """Factors a, b a channel with a·x + b = (x/255 − mean)/std."""
        return [1 / (255 * s) for s in self.std], [-m / s for m, s in zip(self.mean, self.std, strict=True)]

    def denormalise(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float → (B, H, W, C) uint8, for showing."""
        mean, std = (constant(v, images.device) for v in (self.mean, self.std))
        pixels = images.float().permute(0, 2, 3, 1) * std + mean
        return (pixels * 255).round().clamp(0, 255).to(torch.uint8)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        if not self.own:
            del values["own"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Read back what `to_dict` wrote. Raises DataError for anything else."""
        try:
            layout = Layout(**values["layout"])
            layout.check()
            mean, std = (tuple(float(v) for v in values[key]) for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"the preprocess of this model is damaged ({error}).") from None
        if len(mean) != layout.channels or len(std) != layout.channels or not all(0 < s < math.inf for s in std):
            raise DataError(f"the preprocess of this model is damaged: mean {mean} and std {std}.")
        if not all(map(math.isfinite, mean)):
            raise DataError(f"the preprocess of this model is damaged: mean {mean}.")
        return cls(layout, mean, std, own=values.get("own") is True)


def scaled(x: Tensor, factors: Tensor, terms: Tensor) -> Tensor:
    """factors · x + terms; on the processor in the memory of x, on an accelerator in one kernel, rounded once."""
    return x.mul_(factors).add_(terms) if x.device.type == "cpu" else torch.addcmul(terms, x, factors)


def without_padding(stored: Tensor, channels: int) -> Tensor:
    """(B, H, W, stored channels) uint8 → (B, H, W, channels); on the processor contiguous.

    There a channel at a time: that is three times as fast as one copy whose inner loop has three steps.
    """
    if stored.shape[3] == channels:
        return stored.contiguous()
    if stored.device.type != "cpu":
        return stored[..., :channels]  # what makes floats of it leaves the rest out
    pixels = stored.new_empty(*stored.shape[:3], channels)
    for channel in range(channels):
        pixels[..., channel] = stored[..., channel]
    return pixels
