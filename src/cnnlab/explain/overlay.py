"""An activation map laid over its picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

COLOURS = "inferno"
OPACITY = 0.7  # where the map is 1; the picture alone where it is 0

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def overlay(picture: Pixels, heat: np.ndarray[Any, Any]) -> Pixels:
    """Blend a map into a picture: the stronger the map, the more of its colour.

    Args:
        picture: (H, W) or (H, W, 3) uint8; its colours are turned to grey, so that all colour is the map's.
        heat: (h, w) in [0, 1], enlarged to the picture.

    Returns:
        (H, W, 3) uint8.
    """
    from matplotlib import colormaps  # here, not above: a quarter of a second

    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or heat.ndim != 2:
        raise ValueError(f"picture must be (H, W[, 3]) uint8 and heat (h, w), got {picture.shape} and {heat.shape}")
    height, width = picture.shape[:2]
    grown = Image.fromarray(np.asarray(heat, dtype=np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(grown), 0, 1)
    grey = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float64)[..., None]
    colour = 255 * colormaps[COLOURS](strength)[..., :3]
    share = OPACITY * np.sqrt(strength)[..., None]
    blended: Pixels = np.rint(grey * (1 - share) + colour * share).astype(np.uint8)
    return blended


def legend_colours(count: int) -> list[str]:
    """CSS colours of the map from 0 to 1, `count` of them, for a legend."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[COLOURS](i / max(1, count - 1))) for i in range(count)]
