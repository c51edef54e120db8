"""A batch, and two batches mixed into one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cnnlab.data.augment import Draws, box_axes, box_mask


class Batch(NamedTuple):
    """`images` (B, C, H, W) float32 normalised; `targets` (B, …), what the task learns; `members` (B,) places in the
    split, on the processor.

    Targets are labels (B,) or classes of pixels (B, H, W), int64 both, or (B, K) float of 0 and 1 where an image may
    have several classes. After mixup or cutmix of images with labels, `second` holds the target of the second image
    and `share` (B,) how much of the first is in the mix.
    """

    images: Tensor
    targets: Tensor
    members: Tensor
    second: Tensor | None = None
    share: Tensor | None = None

    @property
    def parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """Targets, and how much of each image is what they say (None: all of it)."""
        if self.second is None or self.share is None:
            return [(self.targets, None)]
        return [(self.targets, self.share), (self.second, 1 - self.share)]


def mix_axes(draws: Draws, height: int, width: int) -> Draws:
    """What `mix` needs: `share` (B,), how much of the first image is left, and for cutmix `cutmix_y` (B, H) and
    `cutmix_x` (B, W), which rows and columns the box has that is taken from the second.

    Args:
        draws: `mix` (B,), how much is left; `cutmix` (B, 4), the box.
    """
    if "cutmix" not in draws:
        return {"share": draws["mix"]}
    rows, columns = box_axes(draws["cutmix"], height, width)
    share = 1 - (rows.sum(1) * columns.sum(1)).float() / (height * width)  # what is truly left
    return {"share": share, "cutmix_y": rows, "cutmix_x": columns}


def mix(images: Tensor, targets: Tensor, members: Tensor, axes: Draws) -> Batch:
    """Mixup, or cutmix where boxes were drawn: each of B images with the one that lies B places further on.

    Classes of pixels are cut out as the images are; of labels both stay.

    Args:
        images, targets: (2B, …); members: (B,); axes: what `mix_axes` gave.
    """
    (images, other), (targets, second) = images.chunk(2), targets.chunk(2)
    share = axes["share"]
    if "cutmix_y" not in axes:
        mixed = torch.lerp(other, images, share[:, None, None, None])
    else:
        inside = box_mask(axes["cutmix_y"], axes["cutmix_x"])
        mixed = torch.where(inside, other, images)
        if targets.ndim == 3:
            return Batch(_channels_last(mixed), torch.where(inside[:, 0], second, targets), members)
    return Batch(_channels_last(mixed), targets, members, second, share)


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
