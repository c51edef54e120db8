"""Where a page is written to: refused before anything is computed, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from cnnlab.errors import ConfigError, DataError
from cnnlab.files import given_output
from cnnlab.runs.files import write_whole

SUFFIXES = (".html", ".htm")


def html_file(out: str | Path, name: str) -> Path:
    """The file that --out names.

    Args:
        name: what a page is called that is to go into a folder.

    Raises:
        ConfigError: an address, a folder, a name of another kind of file, or a file where its folder is to be.
    """
    path = given_output(out)
    try:
        return _checked(path, out, name)
    except OSError as error:
        raise ConfigError(f"--out={out}: {error.strerror}; give a file in another folder with --out.") from None


def _checked(path: Path, out: str | Path, name: str) -> Path:
    if path.is_dir() or str(out).endswith(("/", os.sep)):
        raise ConfigError(f"--out={out} is a folder, and the page is one file; give --out {path / name}.")
    if path.exists() and not path.is_file():
        return path  # a device or a pipe
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out={out}: the page is HTML; give --out {path.with_suffix('.html')}.")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise ConfigError(f"--out={out}: {above} is a file and not a folder; give another file with --out.")
    if not os.access(above, os.W_OK):
        raise ConfigError(f"--out={out}: no permission to write in {above}; give a file in another folder with --out.")
    return path


def write_page(target: Path, page: str) -> Path:
    """Write it and return its file; folders on the way are made. Raises DataError, RunError: it cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make the folder {target.parent} ({error.strerror}); give another file with --out."
        ) from None
    write_whole(target, page)
    return target
