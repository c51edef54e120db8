"""Augmentation of whole batches: pure functions of images and draws. Nothing here draws a random number.

Images are (B, H, W, stored channels) uint8 until `to float`, then (B, C, H, W) float32 in [0, 1], channels last.
A box is (top, left, height, width) as shares of the image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.config import AugmentConfig
from cnnlab.device import constant, exact_float32

# What F.interpolate(mode="bilinear", antialias=True) calls. It writes straight into its place: a copy for each image
# would wake the other threads in vain.
_resize = torch.ops.aten._upsample_bilinear2d_aa.out


@dataclass(frozen=True)
class Augmentation:
    """The settings of `augment.*` for images of one size."""

    config: AugmentConfig
    height: int
    width: int

    @property
    def crop(self) -> str:
        """none, pad or resized; "auto" decides by size."""
        if self.config.crop == "auto":
            return "resized" if min(self.height, self.width) >= 64 else "pad"
        return self.config.crop

    def at(self, progress: float) -> Augmentation:
        """These settings after a share `progress` of all epochs: over the first three quarters of them, images grow
        from `start_size` to `end_size` of the side, in eighths of it. The kind of crop stays that of the full size."""
        start, end = self.config.start_size, self.config.end_size
        eighths = max(1, round(8 * (start + (end - start) * min(1.0, progress / 0.75))))
        height, width = (max(1, round(side * eighths / 8)) for side in (self.height, self.width))
        settled = dataclasses.replace(self.config, crop=self.crop)
        return Augmentation(settled, height, width)

    @property
    def border(self) -> tuple[int, int]:
        """Rows and columns of border for crop=pad."""
        return max(1, round(self.height * self.config.padding)), max(1, round(self.width * self.config.padding))

    @property
    def affine(self) -> bool:
        return any((self.config.rotation, self.config.shear, self.config.zoom, self.config.translate))

    @property
    def moves(self) -> bool:
        """Whether it takes for granted that neighbouring pixels belong together."""
        config = self.config
        grows = config.start_size < 1 or config.end_size < 1
        cut = config.erasing or config.cutout or config.cutmix
        return self.affine or config.flip != "none" or self.crop != "none" or grows or bool(cut)


def take_pixels(images: Tensor, rows: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding_mode: str) -> Tensor:
    """Gather images `rows` of `images`, each shifted and perhaps mirrored, in one pass over whole pixels.

    Args:
        images: (N, H, W, 1 or 4) uint8, contiguous, in memory or memory-mapped.
        rows: (B,) numbers of images.
        top, left: (B,) whole pixels; the window starts there, so −2 looks two pixels beyond the border.
        flip: (B,) bool, mirror left to right.
        padding_mode: "reflect" or "zero", for what lies beyond the border.

    Returns:
        (B, H, W, 1 or 4) uint8.
    """
    _, height, width, channels = images.shape
    y = top[:, None] + torch.arange(height, device=rows.device)  # (B, H)
    x = torch.arange(width, device=rows.device)
    x = left[:, None] + torch.where(flip[:, None], width - 1 - x, x)  # (B, W)
    inside = None
    if padding_mode == "zero":
        inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    else:
        y, x = reflect(y, height), reflect(x, width)
    places = ((rows[:, None] * height + y) * width)[:, :, None] + x[:, None, :]  # (B, H, W)
    flat = images.view(-1) if channels == 1 else images.view(torch.int32).view(-1)
    taken = flat.index_select(0, places.view(-1)).view(len(rows), height, width)
    if inside is not None:
        taken = taken * inside
    return taken[..., None] if channels == 1 else taken.view(torch.uint8).view(len(rows), height, width, channels)


def reflect(position: Tensor, size: int) -> Tensor:
    """Mirror positions at the first and the last pixel: −1 → 1, size → size−2."""
    position = position.abs()
    return (size - 1 - (size - 1 - position).abs()).clamp_(min=0)


def resized_crop(images: Tensor, rows: Tensor, boxes: Tensor, flip: Tensor, height: int, width: int) -> Tensor:
    """Cut a box of whole pixels out of each image and resize it to height × width, antialiased.

    Wherever the images lie, the result is the same but for single levels that are rounded the other way.

    Args:
        images: (N, H, W, 1 or 4) uint8.
        boxes: (B, 4), see the module's head; flip: (B,) bool.

    Returns:
        (B, height, width, 1 or 4) uint8.
    """
    _, full_height, full_width, channels = images.shape
    if images.device.type != "cpu":
        return _batched_crop(images.index_select(0, rows), boxes, flip, height, width)
    out = torch.empty(len(rows), height, width, channels, dtype=torch.uint8)
    places = out.permute(0, 3, 1, 2)
    pixels = torch.tensor([full_height, full_width, full_height, full_width])
    whole = (boxes * pixels).round_().long()
    for i, (row, (top, left, tall, wide)) in enumerate(zip(rows.tolist(), whole.tolist(), strict=True)):
        top, left = min(top, full_height - 1), min(left, full_width - 1)
        window = images[row : row + 1, top : top + max(1, tall), left : left + max(1, wide)].permute(0, 3, 1, 2)
        _resize(window, [height, width], False, None, None, out=places[i : i + 1])
    mirrored = flip.nonzero()[:, 0]
    words = out if channels == 1 else out.view(torch.int32)  # a word per pixel
    words[mirrored] = words[mirrored].flip(2)
    return out


def _batched_crop(images: Tensor, boxes: Tensor, flip: Tensor, height: int, width: int) -> Tensor:
    """`resized_crop` of (B, H, W, C) as two products of matrices, for accelerators: across, then down, rounded after
    each, as it is done on the processor."""
    count, full_height, full_width, channels = images.shape
    across = _resize_weights(*_extent(boxes, 1, full_width), full_width, width)
    across = torch.where(flip[:, None, None], across.flip(1), across)
    down = _resize_weights(*_extent(boxes, 0, full_height), full_height, height)
    columns = images.transpose(1, 2).to(torch.float32).reshape(count, full_width, -1)
    with exact_float32():
        columns = _to_levels(across @ columns).view(count, width, full_height, channels)
        rows = _to_levels(down @ columns.transpose(1, 2).reshape(count, full_height, -1))
    return rows.to(torch.uint8).view(count, height, width, channels)


def _resize_weights(low: Tensor, extent: Tensor, full: int, size: int) -> Tensor:
    """(B, size, full): how much each of `full` pixels counts for each of `size` when a window is resized to that.

    The triangle filter of F.interpolate(mode="bilinear", antialias=True).

    Args:
        low, extent: (B,) where the window begins, and its pixels.
    """
    scale = (extent / size)[:, None, None]
    centre = scale * (torch.arange(size, device=low.device)[:, None] + 0.5)  # (B, size, 1)
    pixel = torch.arange(full, device=low.device) - low[:, None, None]  # (B, 1, full), 0 where the window begins
    weights = (1 - (pixel + 0.5 - centre).abs() / scale.clamp_min(1)).clamp_min(0)
    weights = weights * ((pixel >= 0) & (pixel < extent[:, None, None]))
    return weights / weights.sum(2, keepdim=True)


def _to_levels(values: Tensor) -> Tensor:
    """Whole numbers from 0 to 255, a half rounded up."""
    return (values + 0.5).floor_().clamp_(0, 255)


def _extent(boxes: Tensor, axis: int, full: int) -> tuple[Tensor, Tensor]:
    """(B,) first pixel and number of pixels of (B, 4) boxes along an axis of `full` pixels: 0 height, 1 width."""
    low = (boxes[:, axis] * full).round().clamp(max=full - 1)
    extent = (boxes[:, axis + 2] * full).round().clamp_min(1)
    return low, torch.minimum(extent, full - low)


def nearest_crop(masks: Tensor, rows: Tensor, boxes: Tensor, flip: Tensor, height: int, width: int) -> Tensor:
    """`resized_crop` of classes: each pixel takes that of the nearest one.

    Args:
        masks: (N, H, W) uint8; boxes: (B, 4), see the module's head; flip: (B,) bool.

    Returns:
        (B, height, width) uint8.
    """
    full = masks.shape[1:]
    places = []
    for axis, side in enumerate((height, width)):
        low, extent = _extent(boxes, axis, full[axis])  # whole pixels, as the image's window has them
        steps = (torch.arange(side, device=masks.device) + 0.5) / side
        places.append((low[:, None] + (extent[:, None] * steps).floor()).long())
    y, x = places
    x = torch.where(flip[:, None], x.flip(1), x)
    return masks[rows[:, None, None], y[:, :, None], x[:, None, :]]


def affine(images: Tensor, matrices: Tensor, padding_mode: str, mode: str = "bilinear") -> Tensor:
    """Turn, shear, zoom and shift (B, C, H, W) float images by (B, 2, 3) matrices in coordinates −1…1.

    Args:
        mode: bilinear, or nearest for classes.
    """
    with exact_float32():  # a product of matrices, whose pixels TF32 would move
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    beyond = "zeros" if padding_mode == "zero" else "reflection"
    return F.grid_sample(images, grid, mode=mode, padding_mode=beyond, align_corners=False)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor[:, None, None, None]).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Move towards (or away from) the mean grey of each image."""
    mean = grey(images).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, factor[:, None, None, None]).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Move towards (or away from) the grey image; nothing to do for one channel."""
    if images.shape[1] == 1:
        return images
    return torch.lerp(grey(images), images, factor[:, None, None, None]).clamp_(0, 1)


def grey(images: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, 1, H, W) luma of ITU-R BT.601."""
    if images.shape[1] == 1:
        return images
    weights = constant((0.299, 0.587, 0.114), images.device).to(images.dtype).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def box_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """(B, 4) boxes → (B, 1, H, W) bool, true where the pixel's centre is inside."""
    y = (torch.arange(height, device=boxes.device) + 0.5) / height
    x = (torch.arange(width, device=boxes.device) + 0.5) / width
    top, left, tall, wide = (boxes[:, i, None] for i in range(4))
    rows = (y >= top) & (y < top + tall)  # (B, H)
    columns = (x >= left) & (x < left + wide)  # (B, W)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
