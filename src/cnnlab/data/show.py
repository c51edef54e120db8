"""A batch as an image: a grid with labels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cnnlab.data.preprocess import Preprocess

NAME_WIDTH, NAME_LINES = 18, 4  # of a class name above an image; longer ones are cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cnnlab.data.data import Data


def show_training_batch(data: Data, path: str | Path | None = None) -> Figure:
    """Draw the first augmented training batch with its labels and the classes of its pixels; see `show_batch`."""
    batch = next(data.train.epoch(0))
    masks = batch.targets if data.pixel_targets else None
    return show_batch(batch.images, data.label_names(batch), preprocess=data.preprocess, path=path, masks=masks)


def wrapped(name: str) -> str:
    """A class name in NAME_LINES lines of NAME_WIDTH characters at most, broken at spaces, "_" and "-" if it can be."""
    lines = [""]
    for word in re.split(r"(?<=[\s_-])", name):
        if len(lines[-1]) + len(word) > NAME_WIDTH and lines[-1]:
            lines.append("")
        pieces = [word[i : i + NAME_WIDTH] for i in range(0, len(word), NAME_WIDTH)] or [""]
        lines[-1] += pieces[0]
        lines += pieces[1:]
    if len(lines) > NAME_LINES:
        lines[NAME_LINES - 1 :] = [lines[NAME_LINES - 1][: NAME_WIDTH - 1] + "…"]
    return "\n".join(line.rstrip() for line in lines)


def show_batch(
    images: Tensor,
    labels: Tensor | Sequence[int] | Sequence[str],
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    path: str | Path | None = None,
    columns: int = 8,
    limit: int = 64,
    masks: Tensor | None = None,
) -> Figure:
    """Draw a batch with its labels; a notebook shows the figure that is returned.

    Args:
        images: (B, C, H, W) float: normalised if `preprocess` is given (it is undone), else stretched to its own range.
        labels: (B,) class numbers, or what to write under each image.
        classes: their names.
        path: also save it there, as PNG, SVG or PDF.
        limit: images at the most.
        masks: (B, H, W) classes of the pixels, drawn as outlines.
    """
    from cnnlab.figure import NotebookFigure, save_figure

    images = images[:limit].detach().cpu()
    if not len(images):
        return NotebookFigure()
    if preprocess is not None:
        pixels = preprocess.denormalise(images).numpy()
    else:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        stretched = (images - low) / (high - low).clamp_min(1e-6)
        pixels = (stretched * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    columns = min(columns, len(pixels))
    rows = math.ceil(len(pixels) / columns)
    figure = NotebookFigure(figsize=(1.4 * columns, 1.65 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for axis in axes:
        axis.set_axis_off()
    for axis, image, label in zip(axes, pixels, labels, strict=False):
        grey = image.shape[-1] == 1
        axis.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=255)
        text = label if isinstance(label, str) else classes[int(label)] if classes else str(int(label))
        axis.set_title(wrapped(text), fontsize=8, pad=3, parse_math=False)
    for axis, mask in zip(axes, [] if masks is None else masks[: len(pixels)].cpu().numpy(), strict=False):
        for number in np.unique(mask[mask > 0]):
            axis.contour(mask == number, levels=[0.5], colors=[f"C{number % 10}"], linewidths=1.2)
    if path is not None:
        save_figure(figure, path, dpi=120)
    return figure
