"""Canvases with known boxes: digits at random places and sizes on a larger image, to test localization on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cnnlab.errors import DataError

GAP = 2  # pixels between the boxes of two digits, at least
CLUTTER_PATCH = 8  # side of a piece of clutter (Mnih et al. 2014, Recurrent Models of Visual Attention, section 4.2)
CLUTTER_PIECES = 8
TRIES = 200
BACKGROUNDS = ("blank", "clutter")

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Canvas:
    """An image (H, W) uint8 and what is on it: boxes (n, 4) int64 (left, top, right, bottom; right and bottom are the
    first pixels outside), drawn tightly around the ink, and labels (n,) int64."""

    image: Pixels
    boxes: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, np.dtype[np.int64]]


def digit_canvases(
    digits: Pixels,
    labels: Sequence[int] | np.ndarray[Any, Any],
    count: int,
    *,
    size: int = 96,
    objects: tuple[int, int] = (1, 1),
    scale: tuple[float, float] = (0.75, 1.5),
    background: str = "blank",
    seed: int = 0,
) -> list[Canvas]:
    """Place digits at random; the same arguments give the same canvases.

    Args:
        digits: (N, h, w) uint8, bright on black.
        count: canvases to make.
        size: side of a canvas in pixels.
        objects: fewest and most digits on one; their number is drawn evenly.
        scale: smallest and largest factor by which a digit grows; drawn evenly.
        background: blank, or clutter: small pieces of other digits.
        seed: of all draws. Canvas i depends on (seed, i) alone.

    Raises:
        DataError: arguments with which no canvas can be made.
    """
    largest = round(max(digits.shape[1:]) * scale[1])
    if digits.ndim != 3 or not len(digits) or len(digits) != len(labels):
        raise DataError(f"digits must be (N, h, w) with a label each, got {digits.shape} and {len(labels)} labels.")
    if not 1 <= objects[0] <= objects[1] or not 0 < scale[0] <= scale[1] or background not in BACKGROUNDS:
        raise DataError(f"no canvases of {objects} digits at scale {scale} on a {background!r} background.")
    if largest > size:
        raise DataError(
            f"a digit of {largest} pixels does not fit a canvas of {size}; use a larger size or less scale."
        )

    @functools.cache
    def tile(number: int, height: int, width: int) -> tuple[Pixels, tuple[int, int, int, int] | None]:
        pixels = np.asarray(Image.fromarray(digits[number]).resize((width, height), Image.Resampling.BILINEAR))
        return pixels, _ink(pixels)

    return [
        _canvas(
            digits,
            tile,
            np.asarray(labels),
            np.random.Generator(np.random.PCG64([seed, i])),
            size,
            objects,
            scale,
            background,
        )
        for i in range(count)
    ]


def _canvas(
    digits: Pixels,
    resized: Callable[[int, int, int], tuple[Pixels, tuple[int, int, int, int] | None]],
    labels: np.ndarray[Any, Any],
    random: np.random.Generator,
    size: int,
    objects: tuple[int, int],
    scale: tuple[float, float],
    background: str,
) -> Canvas:
    wanted = int(random.integers(objects[0], objects[1] + 1))
    for _ in range(TRIES):
        image = np.zeros((size, size), np.uint8)
        boxes: list[tuple[int, int, int, int]] = []
        chosen: list[int] = []
        for _ in range(TRIES):
            if len(boxes) == wanted:
                break
            number = int(random.integers(len(digits)))
            factor = random.uniform(*scale)
            height, width = (max(1, round(side * factor)) for side in digits.shape[1:])
            tile, ink = resized(number, height, width)
            left, top = int(random.integers(size - width + 1)), int(random.integers(size - height + 1))
            if ink is None:
                continue
            box = left + ink[0], top + ink[1], left + ink[2], top + ink[3]
            if any(_near(box, other) for other in boxes):
                continue
            boxes.append(box)
            chosen.append(number)
            np.maximum(
                image[top : top + height, left : left + width], tile, out=image[top : top + height, left : left + width]
            )
        if len(boxes) == wanted:
            break
    else:
        raise DataError(
            f"{wanted} digits do not fit a canvas of {size} pixels; use a larger size, or fewer or smaller ones."
        )
    if background == "clutter":
        for _ in range(CLUTTER_PIECES):
            _add_clutter(image, digits[int(random.integers(len(digits)))], random)
    return Canvas(image, np.array(boxes, np.int64).reshape(-1, 4), labels[chosen].astype(np.int64))


def _ink(tile: Pixels) -> tuple[int, int, int, int] | None:
    """The box of what is brighter than a quarter of the brightest pixel; None for an empty tile."""
    rows, columns = np.nonzero(tile > tile.max() / 4)
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _near(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one[0] < other[2] + GAP and other[0] < one[2] + GAP and one[1] < other[3] + GAP and other[1] < one[3] + GAP


def _add_clutter(image: Pixels, digit: Pixels, random: np.random.Generator) -> None:
    side = min(CLUTTER_PATCH, *digit.shape)
    y, x = (int(random.integers(length - side + 1)) for length in digit.shape)
    top, left = (int(random.integers(length - side + 1)) for length in image.shape)
    place = image[top : top + side, left : left + side]
    np.maximum(place, digit[y : y + side, x : x + side], out=place)
