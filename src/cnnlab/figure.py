"""Figures that belong to nobody: no window, no pyplot, and a notebook shows them by itself."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A matplotlib figure that shows as the value of a cell, also before pyplot has drawn anything there."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()
