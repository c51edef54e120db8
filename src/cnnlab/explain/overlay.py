"""An activation map laid over its image."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

COLOURS = "inferno"
PAINT = 0.55  # of the colour of a class of pixels
OPACITY = 0.7  # where the map is 1; the image alone where it is 0

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def overlay(image: Pixels, heat: np.ndarray[Any, Any]) -> Pixels:
    """Blend a map into an image: the stronger the map, the more of its colour.

    Args:
        image: (H, W) or (H, W, 3) uint8; its colours are turned to grey, so that all colour is the map's.
        heat: (h, w) in [0, 1], enlarged to the image.

    Returns:
        (H, W, 3) uint8.
    """
    from matplotlib import colormaps  # here, not above: a quarter of a second

    if image.dtype != np.uint8 or image.ndim not in (2, 3) or heat.ndim != 2:
        raise ValueError(f"image must be (H, W[, 3]) uint8 and heat (h, w), got {image.shape} and {heat.shape}")
    height, width = image.shape[:2]
    grown = Image.fromarray(np.asarray(heat, dtype=np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(grown), 0, 1)
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float64)[..., None]
    colour = 255 * colormaps[COLOURS](strength)[..., :3]
    opacity = OPACITY * np.sqrt(strength)[..., None]
    blended: Pixels = np.rint(grey * (1 - opacity) + colour * opacity).astype(np.uint8)
    return blended


def legend_colours(count: int) -> list[str]:
    """CSS colours of the map from 0 to 1, `count` of them, for a legend."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[COLOURS](i / max(1, count - 1))) for i in range(count)]


def class_colours(count: int) -> Pixels:
    """(count, 3) uint8, a colour for each class of pixels; class 0, mostly the background, is black."""
    from matplotlib import colormaps

    few = count <= 11
    colours = [colormaps["tab10" if few else "turbo"](i if few else i / count)[:3] for i in range(count - 1)]
    return np.rint(255 * np.array([(0.0, 0.0, 0.0), *colours])).astype(np.uint8)


def paint_classes(image: Pixels, classes: np.ndarray[Any, Any], colours: Pixels) -> Pixels:
    """Blend the colour of each pixel's class into an image (H, W, 3); class 0 stays as it is."""
    opacity = np.where(classes > 0, PAINT, 0.0)[..., None]
    painted: Pixels = np.rint(image * (1 - opacity) + colours[classes] * opacity).astype(np.uint8)
    return painted
