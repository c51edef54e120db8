"""torchvision's own downloads, with every way they fail turned into one line."""

from __future__ import annotations

import contextlib
import os
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

from cnnlab.errors import DataError


def missing(name: str, where: Path) -> DataError:
    return DataError(
        f"{name} is not below {where}: set data.root to the folder that holds it, or data.download=true to fetch it."
    )


@contextlib.contextmanager
def _leaving_no_empty_folders(root: Path) -> Iterator[None]:
    """Where a download fails, remove the folders that it made and left without a file."""
    root = root.absolute()
    made = [place for place in (root, *root.parents) if not os.path.lexists(place)]
    before = set(os.listdir(root)) if root.is_dir() else set()
    try:
        yield
    except BaseException:
        new = set(os.listdir(root)) - before if root.is_dir() else set()
        trees = [Path(folder) for name in new for folder, _, _ in os.walk(root / name, topdown=False)]
        for folder in (*trees, *made):
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(folder)
        raise


def torchvision_set(dataset: Callable[..., Any], name: str, root: Path, download: bool, **arguments: Any) -> Any:
    """Open a torchvision data set; download it first if it is missing and `download` allows.

    Raises:
        DataError: missing and not to be downloaded, no network, wrong checksum, or no room.
    """
    try:
        return dataset(root=str(root), download=False, **arguments)
    except RuntimeError:
        if not download:
            raise missing(name, root) from None
    print(f"downloading {name} to {root}", file=sys.stderr, flush=True)
    try:
        with _leaving_no_empty_folders(root):
            return dataset(root=str(root), download=True, **arguments)
    except (URLError, HTTPException, OSError, EOFError, RuntimeError, tarfile.TarError, zlib.error) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"could not download {name} to {root}: {reason}. Check the network and the disk, or put the files there"
            " yourself and set data.root."
        ) from None
