"""Maps and boxes as image files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnlab.errors import RunError
from cnnlab.explain.overlay import COLOURS, Pixels, overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = 256  # pixels: a smaller image is enlarged, each pixel a square, so that its map can be smooth
BOX_COLOURS = ("#00c8ff", "#ffb000", "#7dff5a", "#ff5fd2", "#ffffff")


def draw_map(image: Pixels, heat: np.ndarray[Any, Any], title: str, subject: str, path: Path) -> None:
    """The image, and beside it the map laid over it with its legend.

    Args:
        image: (H, W[, 3]) uint8; heat: (h, w) in [0, 1]; subject: what the map shows.
    """
    image, _ = _enlarged(image)
    figure, left, right = _two_panels(image)
    left.set_title(title, fontsize=10, parse_math=False)
    right.set_title(subject, fontsize=10, parse_math=False)
    _show(left, image)
    _show(right, overlay(image, heat))
    _add_legend(figure, right)
    _save(figure, path)


def draw_boxes(
    image: Pixels, heat: np.ndarray[Any, Any], objects: Sequence[dict[str, Any]], scale: float, path: Path
) -> None:
    """The image with boxes and names, and beside it the heat map with its legend; `scale`: drawn pixels per pixel."""
    from matplotlib.patches import Rectangle

    image, factor = _enlarged(image)
    scale *= factor
    figure, left, right = _two_panels(image)
    many = f"{len(objects)} object{'' if len(objects) == 1 else 's'}" if objects else "nothing found"
    left.set_title(many, fontsize=10)
    right.set_title("heat map", fontsize=10)
    _show(left, image)
    _show(right, overlay(image, heat))
    for number, one in enumerate(objects):
        edges = [scale * edge - 0.5 for edge in one["box"]]
        colour = BOX_COLOURS[number % len(BOX_COLOURS)]
        size = edges[2] - edges[0], edges[3] - edges[1]
        left.add_patch(Rectangle((edges[0], edges[1]), *size, fill=False, edgecolor=colour, linewidth=1.6))
        left.text(
            edges[0],
            edges[1],
            f"{one['label']} {100 * one['probability']:.0f} %",
            fontsize=7,
            color="black",
            verticalalignment="bottom" if edges[1] > 0.06 * image.shape[0] else "top",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
            parse_math=False,
        )
    _add_legend(figure, right)
    _save(figure, path)


def _two_panels(image: Pixels) -> tuple[Figure, Axes, Axes]:
    from matplotlib.figure import Figure

    height, width = image.shape[:2]
    tall = float(np.clip(4.2 * height / width, 1.8, 8))
    figure = Figure(figsize=(9.4, tall + 0.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis in (left, right):
        axis.set_axis_off()
    return figure, left, right


def _show(axis: Axes, pixels: Pixels) -> None:
    axis.imshow(np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels, interpolation="antialiased")


def _enlarged(image: Pixels) -> tuple[Pixels, int]:
    """The image with each pixel as a square of a whole number of pixels, and that number."""
    factor = max(1, SMALL // max(image.shape[:2]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1), factor


def _add_legend(figure: Figure, axis: Axes) -> None:
    from matplotlib.cm import ScalarMappable

    beside = axis.inset_axes((1.02, 0, 0.04, 1))  # as tall as the image, whatever its shape
    bar = figure.colorbar(ScalarMappable(cmap=COLOURS), cax=beside, ticks=[0, 1])
    bar.ax.set_yticklabels(["none", "strongest"], fontsize=8)
    bar.outline.set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    from cnnlab.figure import save_figure  # it imports matplotlib

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a class name in a script that the font does not have
            save_figure(figure, path, dpi=120)
    except OSError as error:
        raise RunError(f"cannot write the image {path}: {error}; give another folder with --out.") from None
