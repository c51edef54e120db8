"""Figures that belong to nobody: no window, no pyplot, a notebook shows them by itself, and their files are whole."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from cnnlab.files import write_whole


class NotebookFigure(Figure):
    """A matplotlib figure that shows as the value of a cell, also before pyplot has drawn anything there."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()


def format_of(path: str | Path) -> str:
    """png, svg, pdf, …: what the ending of a file name asks for; png where it has none.

    Raises:
        ValueError: the ending names no format.
    """
    ending = Path(path).suffix[1:].lower() or "png"
    known = Figure().canvas.get_supported_filetypes()
    if ending not in known:
        raise ValueError(f"format {ending!r} is not supported (supported formats: {', '.join(sorted(known))})")
    return ending


def save_figure(figure: Figure, path: str | Path, dpi: int) -> None:
    """Save a figure in the format that the ending of its path names (none: PNG), whole or not at all.

    Raises:
        OSError: no room, or no permission. ValueError: an ending that names no format.
    """
    place = Path(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=format_of(place), dpi=dpi)
    if not place.suffix and (place.is_dir() or not place.exists()):  # else it is a file, a device or a pipe
        place = place.with_name(f"{place.name}.png")
    write_whole(place, drawn.getvalue())
