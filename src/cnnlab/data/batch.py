"""A batch, and two batches mixed into one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cnnlab.data.augment import box_mask


class Batch(NamedTuple):
    """`images` (B, C, H, W) float32 normalised; `targets` (B, …), what the task learns; `members` (B,) places in the
    split.

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


def mix(batch: Batch, other: Batch, draws: dict[str, Tensor]) -> Batch:
    """Mixup, or cutmix where boxes were drawn. Classes of pixels are cut out as the images are; of labels both stay.

    Args:
        draws: `mix` (B,), how much of the first image is left; `cutmix` (B, 4), the box that is taken from the second.
    """
    images = batch.images
    share = draws["mix"].to(images.device)
    if "cutmix" in draws:
        inside = box_mask(draws["cutmix"].to(images.device), images.shape[2], images.shape[3])
        images = torch.where(inside, other.images, images).contiguous(memory_format=torch.channels_last)
        if batch.targets.ndim == 3:
            return batch._replace(images=images, targets=torch.where(inside[:, 0], other.targets, batch.targets))
        share = 1 - inside.float().mean(dim=(1, 2, 3))  # what is truly left of the first image
    else:
        images = torch.lerp(other.images, images, share[:, None, None, None])
        images = images.contiguous(memory_format=torch.channels_last)
    return batch._replace(images=images, second=other.targets, share=share)
