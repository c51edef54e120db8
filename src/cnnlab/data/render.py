"""From stored pixels to the images of a batch: augmentation, masks, normalisation.

A pure function of pixels and draws: nothing here fetches, and nothing draws a random number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.data.augment import (
    Augmentation,
    affine,
    box_mask,
    brightness,
    contrast,
    nearest_crop,
    resized_crop,
    saturation,
    take_pixels,
)
from cnnlab.data.preprocess import Preprocess, without_padding
from cnnlab.device import constant

Draws = dict[str, Tensor]


def render(
    pixels: Tensor,
    rows: Tensor,
    draws: Draws,
    augmentation: Augmentation | None,
    preprocess: Preprocess,
    device: torch.device,
    masked: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Images of a batch, augmented and normalised, and where pixels have classes their masks.

    Args:
        pixels: (N, H, W, stored channels) uint8; rows: (B,) which of them.
        draws: what `plan_epoch` drew for these images; augmentation: None leaves them as they are.
        masked: the fourth byte of a pixel is its class.

    Returns:
        (B, C, H, W) float32, channels last, and (B, H, W) int64 or None, on `device`.
    """
    if augmentation is None:
        taken = pixels.index_select(0, rows).to(device)
        return preprocess.normalise(taken), taken[..., 3].long() if masked else None
    config, height, width = augmentation.config, augmentation.height, augmentation.width
    still = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    flip = draws.get("flip", still.bool())
    if augmentation.crop == "resized":
        taken = resized_crop(pixels, rows, draws["box"], flip, height, width)
    elif "top" in draws or "flip" in draws:
        top, left = draws.get("top", still), draws.get("left", still)
        taken = take_pixels(pixels, rows, top, left, flip, config.padding_mode)
    else:
        taken = pixels.index_select(0, rows)
    taken = taken.to(device)
    masks = _masks(pixels, rows, taken, draws, flip, augmentation) if masked else None
    colour = [name for name in ("brightness", "contrast", "saturation") if name in draws]
    if "affine" in draws or colour:
        images = _float_stage(taken, draws, config.padding_mode, colour, preprocess)
    else:
        images = preprocess.normalise(taken)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
    for name in ("erasing", "cutout"):
        if name in draws:
            images = images.masked_fill(box_mask(draws[name].to(device), height, width), 0)
    return images.contiguous(memory_format=torch.channels_last), masks


def _masks(
    pixels: Tensor,
    rows: Tensor,
    taken: Tensor,
    draws: Draws,
    flip: Tensor,
    augmentation: Augmentation,
) -> Tensor:
    """(B, H, W) int64: the masks went where the images went, but each pixel keeps one class of the original.

    Whole pixels (`taken`, when moved and mirrored) brought theirs along; what is resized or turned is looked up
    again, the nearest pixel. What lies beyond the border is class 0, or mirrored, as the image is.
    """
    height, width = augmentation.height, augmentation.width
    if augmentation.crop == "resized":
        classes = nearest_crop(pixels[..., 3], rows, draws["box"], flip, height, width).to(taken.device)
    else:
        classes = taken[..., 3]
    masks = classes[:, None].float()
    if "affine" in draws:
        masks = affine(masks, draws["affine"].to(taken.device), augmentation.config.padding_mode, mode="nearest")
    if masks.shape[2:] != (height, width):
        masks = F.interpolate(masks, size=(height, width), mode="nearest-exact")
    return masks[:, 0].round().long()


def _float_stage(
    taken: Tensor, draws: Draws, padding_mode: str, colour: Sequence[str], preprocess: Preprocess
) -> Tensor:
    pixels = without_padding(taken, preprocess.layout.channels)
    images = pixels.to(torch.float32).div_(255).permute(0, 3, 1, 2)
    if "affine" in draws:
        images = affine(images, draws["affine"].to(taken.device), padding_mode)
    for name in colour:
        change = {"brightness": brightness, "contrast": contrast, "saturation": saturation}[name]
        images = change(images, draws[name].to(taken.device))
    scale, shift = (constant(tuple(v), taken.device)[:, None, None] for v in preprocess.scale_and_shift())
    return images.mul_(scale * 255).add_(shift)
