"""What the objects of a run's own images are like, measured once when a run is tested: the scale for those on others.

A network of digits that fill their image knows none that fills two thirds of it, and one of light digits on dark ground
has never seen a dark one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from cnnlab.data.data import Data
from cnnlab.errors import ModelError, RunError
from cnnlab.runs.files import read_record
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.schema import OBJECTS

MEASURED = 64  # images
PLAIN = 0.1  # of the largest distance from the background: below it lies more than half of a plain image
OBJECT = 0.4  # of the largest distance from the background: above it lies the object
FILL = 0.72  # of the image's side, for the object's longer side, where nothing was measured (MNIST: 20 of 28)


@dataclass(frozen=True)
class ObjectScale:
    """Of a run's own images, where most of them are plain but for one object.

    Attributes:
        fill: share of the image's side that the object's longer side takes, in (0, 1].
        background: (C,) its colour, normalised; None where it was not measured, or most images are not plain.
        contrast: the typical largest distance of an image's colours from it; 0 without background.
    """

    fill: float = FILL
    background: list[float] | None = None
    contrast: float = 0.0

    @classmethod
    def of(cls, folder: RunFolder, channels: int) -> ObjectScale:
        """What best/objects.json says; runs that were never tested have none. Raises RunError if it is damaged."""
        if not folder.objects.exists():
            return cls()
        facts = read_record(folder.objects, OBJECTS)
        fits = facts["background"] is None or len(facts["background"]) == channels
        if not (0.01 <= facts["fill"] <= 1 and facts["contrast"] >= 0 and fits):
            raise RunError(f"{folder.objects} is damaged: its values are out of range; delete it.")
        return cls(**{field.name: facts[field.name] for field in fields(cls)})

    def check_background(self, colour: Tensor) -> None:
        """Raise ModelError where the background (C,) of a plain image is nothing like that of the run's own images."""
        if self.background is None:
            return
        if (colour - torch.tensor(self.background)).norm() > self.contrast / 2:
            lighter = (colour - torch.tensor(self.background)) > 0
            if not (lighter.all() or (~lighter).all()):
                raise ModelError(
                    "its background has another colour than that of the run's images; give one with theirs."
                )
            here, there = ("light", "dark") if lighter.all() else ("dark", "light")
            raise ModelError(
                f"its background is {here}, and the run's images have a {there} one: the network has never seen such an"
                " object. Invert the image, such as with Pillow's ImageOps.invert."
            )


UNMEASURED = ObjectScale()


def measure_objects(data: Data) -> ObjectScale | None:
    """From validation images, evenly spaced. None without any, for own batches, and for classes of pixels."""
    if data.in_batches or data.pixel_targets or not data.val.count:
        return None
    val = data.split.val  # sorted, and so by class in a folder
    loader = data.evaluation_loader(val[np.linspace(0, len(val) - 1, min(MEASURED, len(val))).astype(int)])
    images = torch.cat([batch.images.float().cpu() for batch in loader.epoch()])  # (B, C, H, W)
    colours = background(images)
    distances = (images - colours).norm(dim=1)  # (B, H, W)
    plain = torch.tensor([is_plain(one) for one in distances])
    if 2 * plain.sum() <= len(plain):
        return UNMEASURED
    fill = torch.tensor([_fill(one) for one in distances[plain]]).median().item()
    colour = [round(value, 4) for value in colours[plain].flatten(1).median(dim=0).values.tolist()]
    return ObjectScale(round(fill, 4), colour, round(distances[plain].amax(dim=(1, 2)).median().item(), 4))


def is_plain(distance: Tensor) -> bool:
    """Whether more than half of an image is background, from each pixel's distance (H, W) to it."""
    return bool(distance.median() < PLAIN * distance.max())


def background(images: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C, 1, 1): the median colour."""
    return images.flatten(2).median(dim=2).values[:, :, None, None]


def _fill(distance: Tensor) -> float:
    shown = distance > OBJECT * distance.max()
    sides = []
    for axis in (0, 1):
        at = shown.any(dim=1 - axis).nonzero()
        sides.append((at.max() - at.min() + 1).item() / distance.shape[axis])
    return max(sides)
