"""A sample image as a data URI, and the answers the model gave for it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

BOX = 128  # CSS pixels: the longest side of an image on the page
SHEET = 560  # CSS pixels: the longest side of a sheet of weights
TILE = 64  # CSS pixels: the longest side of a channel of a stage
COLUMNS = 4
MAX_LOSSLESS_SIDE = 64  # a larger image is a photograph: JPEG is a tenth of PNG


@dataclass(frozen=True)
class Answer:
    """One class with the probability the model gave it."""

    name: str
    probability: float
    is_true: bool


@dataclass(frozen=True)
class EmbeddedImage:
    """An image for the page: its data URI and its size in CSS pixels; `crisp` when every pixel is to stay a square."""

    uri: str
    width: int
    height: int
    crisp: bool


def embed(image: np.ndarray[Any, Any]) -> EmbeddedImage:
    """Encode a (H, W) or (H, W, 3) uint8 image. Small ones grow by a whole factor, large ones shrink to `BOX`."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"a sample image must be (H, W) or (H, W, 3) uint8, got {image.shape} {image.dtype}")
    from PIL import Image  # here, not above: a page without images does without Pillow

    shown = Image.fromarray(np.ascontiguousarray(image))
    longest = max(shown.size)
    if longest > 2 * BOX:
        shown.thumbnail((2 * BOX, 2 * BOX))
        longest = max(shown.size)
    factor = BOX // longest if longest <= BOX else BOX / longest
    return EmbeddedImage(
        uri=data_uri(shown, lossless=longest <= MAX_LOSSLESS_SIDE),
        width=max(1, round(shown.width * factor)),
        height=max(1, round(shown.height * factor)),
        crisp=longest <= MAX_LOSSLESS_SIDE,
    )


def weight_grid(weights: np.ndarray[Any, Any]) -> EmbeddedImage:
    """(units, C, h, w) weights, C being 1 or 3, as one image: each unit on a scale of its own, grey is zero."""
    from PIL import Image

    units, channels, height, width = weights.shape
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    tiles = 127.5 + 127.5 * weights / np.where(largest > 0, largest, 1)
    columns = min(units, max(1, math.ceil(math.sqrt(units * height / width))))
    rows = math.ceil(units / columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, np.uint8)
    for unit, tile in enumerate(tiles):
        top, left = unit // columns * (height + 1), unit % columns * (width + 1)
        sheet[top : top + height, left : left + width] = np.rint(tile).astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    if max(image.size) > 2 * SHEET:  # units as large as photographs
        image.thumbnail((2 * SHEET, 2 * SHEET))
        longest = max(image.size)
        width, height = (round(side * SHEET / longest) for side in image.size)
        return EmbeddedImage(data_uri(image, lossless=False), width, height, crisp=False)
    factor = max(1, SHEET // max(image.size))
    return EmbeddedImage(data_uri(image, lossless=True), image.width * factor, image.height * factor, crisp=True)


def channel_grid(maps: np.ndarray[Any, Any]) -> EmbeddedImage:
    """(k, h, w) channels as one sheet: each from its lowest value, black, to its highest, white."""
    from PIL import Image

    count, height, width = maps.shape
    maps = np.nan_to_num(maps, posinf=0, neginf=0).astype(np.float64)
    low, high = (edge(maps, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    tiles = np.rint(255 * (maps - low) / np.where(high > low, high - low, 1)).astype(np.uint8)
    crisp = 2 * max(height, width) <= TILE  # else squares would be of unequal size, or the tile far too small
    factor = TILE // max(height, width) if crisp else TILE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    filtering = Image.Resampling.NEAREST if crisp else Image.Resampling.BILINEAR
    columns = min(count, COLUMNS)
    sheet = Image.new("L", (columns * (size[0] + 2) - 2, math.ceil(count / columns) * (size[1] + 2) - 2), 128)
    for number, tile in enumerate(tiles):
        place = number % columns * (size[0] + 2), number // columns * (size[1] + 2)
        sheet.paste(Image.fromarray(tile).resize(size, filtering), place)
    return EmbeddedImage(data_uri(sheet, lossless=True), sheet.width, sheet.height, crisp=True)


def data_uri(image: Image.Image, lossless: bool) -> str:
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=88)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def top_answers(
    probabilities: np.ndarray[Any, Any], classes: Sequence[str], true: Sequence[str], limit: int = 5
) -> list[Answer]:
    """Return the `limit` most probable classes, then the true ones that are not among them."""
    order = np.argsort(-np.asarray(probabilities, dtype=np.float64), kind="stable")
    top = [int(index) for index in order[:limit]]
    top += [index for name in true if name in classes and (index := classes.index(name)) not in top]
    return [Answer(classes[index], float(probabilities[index]), classes[index] in true) for index in top]
