"""A run alive in one page: its network computes there, and can be experimented with.

The package is also what `cnnlab.look(run)` calls: an import of any module in it makes it the `look` of `cnnlab`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnlab.look.notebook import LookFrame


class _Callable(ModuleType):
    def __call__(
        self,
        run: str | Path,
        images: Sequence[str] = (),
        height: int = 800,
        trust_code: bool = False,
        beside: str | Path | None = None,
    ) -> LookFrame:
        """Write the page of a run, and show it in a notebook.

        Args:
            images: files or folders; none: eight images of the run's test split.
            height: of the frame, in CSS pixels.
            trust_code: see `load_run`.
            beside: another run, whose network answers beside it; "untrained": the same network with the
                random weights of its seed.

        Raises:
            RunError, DataError, ModelError: see `cnnlab.look.page.write_look`.

        Example:
            >>> cnnlab.look("runs/first")
        """
        from cnnlab.look.notebook import show

        return show(run, images, height, trust_code, beside)


sys.modules[__name__].__class__ = _Callable
