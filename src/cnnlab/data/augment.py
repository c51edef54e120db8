"""Augmentation of whole batches: pure functions of images and draws. Nothing here draws a random number.

Most transforms come in two functions: `…_axes` works out on the processor, from the draws alone, what each row and each
column of pixels needs, and the other one computes pixels of it, wherever they lie, in few steps.

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

Draws = dict[str, Tensor]  # what was drawn for the images of a batch, or follows from it, by name

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


def shift_axes(
    rows: Tensor, top: Tensor, left: Tensor, flip: Tensor, height: int, width: int, padding_mode: str
) -> Draws:
    """Where `take_pixels` finds what it takes: images `rows`, each shifted and perhaps mirrored.

    Args:
        rows: (B,) numbers of images.
        top, left: (B,) whole pixels; the window starts there, so −2 looks two pixels beyond the border.
        flip: (B,) bool, mirror left to right.
        padding_mode: "reflect" or "zero", for what lies beyond the border.

    Returns:
        `take_y` (B, H), where rows of pixels begin, and `take_x` (B, W), pixels of a row; for padding with zero also
        `inside_y` and `inside_x`, bool.
    """
    y = top[:, None] + torch.arange(height)  # (B, H)
    x = torch.arange(width)
    x = left[:, None] + torch.where(flip[:, None], width - 1 - x, x)  # (B, W)
    inside = {}
    if padding_mode == "zero":
        inside = {"inside_y": (y >= 0) & (y < height), "inside_x": (x >= 0) & (x < width)}
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    else:
        y, x = reflect(y, height), reflect(x, width)
    return {"take_y": (rows[:, None] * height + y) * width, "take_x": x, **inside}


def take_pixels(images: Tensor, axes: Draws) -> Tensor:
    """Gather whole pixels in one pass, each image shifted and perhaps mirrored.

    Args:
        images: (N, H, W, 1 or 4) uint8, contiguous, in memory or memory-mapped.
        axes: what `shift_axes` gave.

    Returns:
        (B, H, W, 1 or 4) uint8.
    """
    channels = images.shape[3]
    places = axes["take_y"][:, :, None] + axes["take_x"][:, None, :]  # (B, H, W)
    flat = images.view(-1) if channels == 1 else images.view(torch.int32).view(-1)
    taken = flat.index_select(0, places.view(-1)).view(places.shape)
    if "inside_y" in axes:
        taken = taken * (axes["inside_y"][:, :, None] & axes["inside_x"][:, None, :])
    return taken[..., None] if channels == 1 else taken.view(torch.uint8).view(*places.shape, channels)


def reflect(position: Tensor, size: int) -> Tensor:
    """Mirror positions at the first and the last pixel: −1 → 1, size → size−2."""
    position = position.abs()
    return (size - 1 - (size - 1 - position).abs()).clamp_(min=0)


def windows(boxes: Tensor, height: int, width: int) -> Tensor:
    """(B, 4) boxes as shares of an image → int64 whole pixels, at least one each."""
    full = torch.tensor([height, width])
    whole = (boxes * full.repeat(2)).round_().long()
    low = torch.minimum(whole[:, :2], full - 1)
    return torch.cat([low, torch.minimum(whole[:, 2:].clamp_min(1), full - low)], 1)


def resized_crop(images: Tensor, rows: Tensor, windows: Tensor, flip: Tensor, height: int, width: int) -> Tensor:
    """Cut a window out of each image and resize it to height × width, antialiased; on the processor.

    Args:
        images: (N, H, W, 1 or 4) uint8.
        windows: (B, 4) top, left, height and width in whole pixels; flip: (B,) bool.

    Returns:
        (B, height, width, 1 or 4) uint8.
    """
    channels = images.shape[3]
    out = torch.empty(len(rows), height, width, channels, dtype=torch.uint8)
    places = out.permute(0, 3, 1, 2)
    for i, (row, (top, left, tall, wide)) in enumerate(zip(rows.tolist(), windows.tolist(), strict=True)):
        window = images[row : row + 1, top : top + tall, left : left + wide].permute(0, 3, 1, 2)
        _resize(window, [height, width], False, None, None, out=places[i : i + 1])
    mirrored = flip.nonzero()[:, 0]
    words = out if channels == 1 else out.view(torch.int32)  # a word per pixel
    words[mirrored] = words[mirrored].flip(2)
    return out


def crop_axes(rows: Tensor, windows: Tensor, flip: Tensor, full: tuple[int, int], height: int, width: int) -> Draws:
    """What `batched_crop` needs of each axis, y and x: `centre` (B, size), where in the image a pixel of the result
    lies, `sharpness` (B,), one over the reach of its filter, and `window` (B, full), 1 within and 0 elsewhere.

    Args:
        full: of the stored images; the others are those of `resized_crop`.
    """
    axes = {"rows": rows}
    for axis, name, size in ((0, "y", height), (1, "x", width)):
        low, extent = windows[:, axis, None], windows[:, axis + 2, None]
        scale = extent / size
        centre = scale * (torch.arange(size) + 0.5) + (low - 0.5)
        pixel = torch.arange(full[axis])
        axes[f"centre_{name}"] = torch.where(flip[:, None], centre.flip(1), centre) if name == "x" else centre
        axes[f"sharpness_{name}"] = 1 / scale[:, 0].clamp_min(1)
        axes[f"window_{name}"] = ((pixel >= low) & (pixel < low + extent)).float()
    return axes


def batched_crop(images: Tensor, axes: Draws) -> Tensor:
    """`resized_crop` as two products of matrices, for accelerators: across, then down, rounded after each, as it is
    done on the processor. Single levels may be rounded the other way.

    Args:
        images: (N, H, W, C) uint8; axes: what `crop_axes` gave.

    Returns:
        (B, height, width, C) uint8.
    """
    taken = images.index_select(0, axes["rows"])
    count, full_height, full_width, channels = taken.shape
    pixel = constant(tuple(range(max(full_height, full_width))), images.device)
    down, across = (
        _resize_weights(pixel[:full], axes[f"centre_{name}"], axes[f"sharpness_{name}"], axes[f"window_{name}"])
        for name, full in (("y", full_height), ("x", full_width))
    )
    height, width = down.shape[1], across.shape[1]
    columns = taken.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    with exact_float32():
        columns = (across @ columns.view(count, full_width, -1)).add_(0.5).floor_()  # levels, a half rounded up
        columns = columns.view(count, width, full_height, channels).transpose(1, 2)
        levels = (down @ columns.reshape(count, full_height, -1)).add_(0.5)
    return levels.to(torch.uint8).view(count, height, width, channels)


def _resize_weights(pixel: Tensor, centre: Tensor, sharpness: Tensor, window: Tensor) -> Tensor:
    """(B, size, full): how much each of `full` pixels counts for each of `size` when a window is resized to that.

    The triangle filter of F.interpolate(mode="bilinear", antialias=True). Arguments: (full,), and as `crop_axes` gives
    them.
    """
    distance, one = (pixel - centre[:, :, None]).abs_(), constant((1.0,), pixel.device)
    weights = torch.addcmul(one, distance, sharpness[:, None, None], value=-1).clamp_min_(0).mul_(window[:, None])
    return weights.div_(weights.sum(2, keepdim=True))


def nearest_axes(rows: Tensor, windows: Tensor, flip: Tensor, height: int, width: int) -> Draws:
    """What `nearest_crop` takes of each axis: `rows`, `nearest_y` (B, height) and `nearest_x` (B, width), int64."""
    places = []
    for axis, side in enumerate((height, width)):
        low, extent = windows[:, axis, None], windows[:, axis + 2, None]
        steps = (torch.arange(side) + 0.5) / side
        places.append(low + (extent * steps).floor().long())
    y, x = places
    return {"rows": rows, "nearest_y": y, "nearest_x": torch.where(flip[:, None], x.flip(1), x)}


def nearest_crop(masks: Tensor, axes: Draws) -> Tensor:
    """`resized_crop` of classes: each pixel takes that of the nearest one.

    Args:
        masks: (N, H, W) uint8; axes: what `nearest_axes` gave.

    Returns:
        (B, height, width) uint8.
    """
    return masks[axes["rows"][:, None, None], axes["nearest_y"][:, :, None], axes["nearest_x"][:, None, :]]


def affine_axes(matrices: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """What the places of `affine` consist of: (B, H, 2) of each row and (B, W, 2) of each column, to be added.

    The same as F.affine_grid, whose product of matrices TF32 would round.

    Args:
        matrices: (B, 2, 3) in coordinates −1…1, from the new image to the old one.
    """
    y, x = ((2 * torch.arange(size) + 1) / size - 1 for size in (height, width))  # centres of pixels
    return matrices[:, None, :, 1] * y[:, None] + matrices[:, None, :, 2], matrices[:, None, :, 0] * x[:, None]


def affine(images: Tensor, grid: Tensor, padding_mode: str, mode: str = "bilinear") -> Tensor:
    """Turn, shear, zoom and shift (B, C, H, W) float images.

    Args:
        grid: (B, H, W, 2) where each pixel comes from, in coordinates −1…1, x before y.
        mode: bilinear, or nearest for classes.
    """
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
    weights = constant((0.299, 0.587, 0.114), images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def box_axes(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """(B, 4) boxes → (B, H) and (B, W) bool, true where the centre of a row or a column of pixels is inside."""
    y, x = ((torch.arange(size) + 0.5) / size for size in (height, width))
    top, left, tall, wide = (boxes[:, i, None] for i in range(4))
    return (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)


def box_mask(rows: Tensor, columns: Tensor) -> Tensor:
    """(B, H) and (B, W) of `box_axes` → (B, 1, H, W) bool, true where the pixel's centre is inside."""
    return (rows[:, :, None] & columns[:, None, :])[:, None]
