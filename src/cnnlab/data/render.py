"""From stored pixels to the images of a batch: augmentation, masks, normalisation.

Pure functions of pixels and draws, in three steps: `axes_of` works out on the processor what follows from the draws,
`take` cuts the images out where the pixels lie, and `render` makes floats of them on the device. Nothing here fetches,
and nothing draws a random number.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.data.augment import (
    Augmentation,
    Draws,
    affine,
    affine_axes,
    batched_crop,
    box_axes,
    box_mask,
    brightness,
    contrast,
    crop_axes,
    nearest_axes,
    nearest_crop,
    resized_crop,
    saturation,
    shift_axes,
    take_pixels,
    windows,
)
from cnnlab.data.preprocess import Preprocess, scaled, without_padding
from cnnlab.device import constant

COLOURS = {"brightness": brightness, "contrast": contrast, "saturation": saturation}  # in this order
HOLES = ("erasing", "cutout")


def axes_of(
    rows: Tensor,
    draws: Draws,
    augmentation: Augmentation | None,
    full: tuple[int, int],
    on_device: bool = False,
    masked: bool = False,
) -> tuple[Draws, Draws]:
    """All that a batch needs beside the pixels, on the processor: for `take`, and for `render`.

    Args:
        rows: (B,) which of the stored images.
        draws: what `plan_epoch` drew for these images; augmentation: None leaves them as they are.
        full: height and width of the stored images; on_device: whether an accelerator will cut them.
        masked: the fourth byte of a pixel is its class.
    """
    if augmentation is None:
        return {"rows": rows}, {}
    height, width = augmentation.height, augmentation.width
    taken = full
    still = torch.zeros(len(rows), dtype=torch.int64)
    flip = draws.get("flip", still.bool())
    if augmentation.crop == "resized":
        taken = height, width
        whole = windows(draws["box"], *full)
        to_take = {"rows": rows, "windows": whole, "flip": flip}
        if on_device:
            to_take = crop_axes(rows, whole, flip, full, height, width)
        if masked:
            to_take |= nearest_axes(rows, whole, flip, height, width)
    elif "top" in draws or "flip" in draws:
        top, left = draws.get("top", still), draws.get("left", still)
        to_take = shift_axes(rows, top, left, flip, *full, augmentation.config.padding_mode)
    else:
        to_take = {"rows": rows}
    to_render = {name: draws[name] for name in COLOURS if name in draws}
    if "affine" in draws:
        to_render["affine_y"], to_render["affine_x"] = affine_axes(draws["affine"], *taken)
    for name in HOLES:
        if name in draws:
            to_render[f"{name}_y"], to_render[f"{name}_x"] = box_axes(draws[name], height, width)
    return to_take, to_render


def take(pixels: Tensor, axes: Draws, augmentation: Augmentation | None) -> Draws:
    """The images of a batch cut out of the pixels, and mirrored: `taken` (B, h, w, stored channels) uint8, and
    `classes` (B, h, w) uint8 where these do not come with whole pixels.

    Args:
        pixels: (N, H, W, stored channels) uint8; axes: the first of what `axes_of` gave, where the pixels are.
    """
    if "take_y" in axes:
        return {"taken": take_pixels(pixels, axes)}
    if augmentation is None or augmentation.crop != "resized":
        return {"taken": pixels.index_select(0, axes["rows"])}
    if "windows" in axes:
        size = augmentation.height, augmentation.width
        parts = {"taken": resized_crop(pixels, axes["rows"], axes["windows"], axes["flip"], *size)}
    else:
        parts = {"taken": batched_crop(pixels, axes)}
    return parts | ({"classes": nearest_crop(pixels[..., 3], axes)} if "nearest_y" in axes else {})


def render(
    parts: Draws, augmentation: Augmentation | None, preprocess: Preprocess, masked: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Images of a batch, augmented and normalised, and where pixels have classes their masks.

    Args:
        parts: what `take` gave, and the second of what `axes_of` gave, on the device of the result.

    Returns:
        (B, C, H, W) float32, channels last, and (B, H, W) int64 or None.
    """
    taken = parts["taken"]
    classes = parts.get("classes", taken[..., 3]) if masked else None
    if augmentation is None:
        return preprocess.normalise(taken), None if classes is None else classes.long()
    height, width = augmentation.height, augmentation.width
    grid = parts["affine_y"][:, :, None] + parts["affine_x"][:, None] if "affine_y" in parts else None  # (B, H, W, 2)
    masks = None if classes is None else _masks(classes, grid, augmentation)
    if grid is not None or any(name in parts for name in COLOURS):
        images = _float_stage(taken, parts, grid, augmentation.config.padding_mode, preprocess)
    else:
        images = preprocess.normalise(taken)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
    for name in HOLES:
        if f"{name}_y" in parts:
            images = images.masked_fill(box_mask(parts[f"{name}_y"], parts[f"{name}_x"]), 0)
    return images.contiguous(memory_format=torch.channels_last), masks


def _masks(classes: Tensor, grid: Tensor | None, augmentation: Augmentation) -> Tensor:
    """(B, H, W) int64: the masks go where the images go, but each pixel keeps one class of the original, the nearest.

    What lies beyond the border is class 0, or mirrored, as the image is.
    """
    size = augmentation.height, augmentation.width
    if grid is None and classes.shape[1:] == size:
        return classes.long()
    masks = classes[:, None].float()
    if grid is not None:
        masks = affine(masks, grid, augmentation.config.padding_mode, mode="nearest")
    if masks.shape[2:] != size:
        masks = F.interpolate(masks, size=size, mode="nearest-exact")
    return masks[:, 0].long()


def _float_stage(taken: Tensor, parts: Draws, grid: Tensor | None, padding_mode: str, preprocess: Preprocess) -> Tensor:
    pixels = without_padding(taken, preprocess.layout.channels)
    images = pixels.to(torch.float32).div_(255).permute(0, 3, 1, 2)
    if grid is not None:
        images = affine(images, grid, padding_mode)
    for name, change in COLOURS.items():
        if name in parts:
            images = change(images, parts[name])
    scale, shift = preprocess.scale_and_shift()
    scale = [float(np.float32(255) * np.float32(factor)) for factor in scale]  # images are from 0 to 1 here
    factors, terms = (constant(tuple(values), taken.device)[:, None, None] for values in (scale, shift))
    return scaled(images, factors, terms)
