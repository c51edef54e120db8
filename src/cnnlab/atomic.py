"""Writes are atomic: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import glob
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def replace_file(path: Path, data: bytes | str) -> None:
    """`write_whole` that raises OSError. A link of this name, symbolic or hard, is replaced and not written through."""
    # File names of another encoding come from the system with surrogates; they leave as they came.
    payload = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # of a killed process of this number, or a link that was put there
        with open(temporary, "xb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sweep(path)
        _sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure atomically, in the format that the ending of its name says.

    Raises:
        OSError: it cannot be written.
        ValueError: no such format.
    """
    if path.exists() and not path.is_file():  # a device, such as /dev/stdout, which must not be replaced
        figure.savefig(path, dpi=dpi)
        return
    picture = io.BytesIO()
    figure.savefig(picture, dpi=dpi, format=path.suffix[1:] or "png")
    replace_file(path if path.suffix else path.with_suffix(".png"), picture.getvalue())


def _sweep(path: Path) -> None:
    """Remove what writers of this file left that were killed; one that is alive keeps its own."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        writer = stale.name.split(".")[-2]
        if os.name == "posix" and writer.isdecimal() and not _alive(int(writer)):
            with contextlib.suppress(OSError):
                stale.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a loss of power, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
