"""`cnnlab.look(run)`: the page inside a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnlab.look.page import write_look


@dataclass(frozen=True)
class LookFrame:
    """The page of a run. A notebook shows it in a frame that holds the whole page, so it needs no server."""

    file: Path
    height: int

    def _repr_html_(self) -> str:
        page = html.escape(self.file.read_text(encoding="utf-8"))
        style = f"width: 100%; height: {self.height}px; border: 1px solid #8884; border-radius: 8px"
        return f'<iframe title="the network of the run" allow="camera" srcdoc="{page}" style="{style}"></iframe>'


def show(
    run: str | Path,
    images: Sequence[str] = (),
    height: int = 800,
    trust_code: bool = False,
    beside: str | Path | None = None,
) -> LookFrame:
    """See `cnnlab.look`."""
    return LookFrame(write_look(run, images, trust_code=trust_code, beside=beside), height)
