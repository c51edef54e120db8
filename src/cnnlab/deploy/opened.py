"""An exported model in a bucket comes to this machine, for the top of commands and of public functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnlab.deploy.exported import NAMES, is_export
from cnnlab.files import is_remote
from cnnlab.remote import Remote
from cnnlab.runs.download import fetch_file


@contextmanager
def opened_export(path: str | Path) -> Iterator[Path | None]:
    """The file or folder of an exported model on this machine; of a folder in a bucket its first file is copied.

    None: the path is meant as a run. Raises RemoteError where a file in a bucket cannot be reached.
    """
    if not is_remote(path):
        yield Path(path) if is_export(path) else None
        return
    address = str(path)
    if address.endswith((".onnx", ".pt2")):
        yield fetch_file(address)
        return
    names = Remote(address).names()
    found = [name for name in NAMES if name in names and "config.yaml" not in names]
    yield fetch_file(f"{address.rstrip('/')}/{found[0]}") if found else None
