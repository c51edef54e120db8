"""A data root in a bucket becomes a folder on this machine, copied once.

The copy is a tree of whole files beside a journal that says which version of each has arrived. What is there is listed
anew each time; only what is missing or has changed is fetched, so a copy that was cut off goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from filelock import FileLock

from cnnlab.data.store import cache_folder
from cnnlab.errors import DataError, RemoteError
from cnnlab.files import folder_name
from cnnlab.remote import Remote, RemoteFile, download_all


def local_root(address: str, part: str = "", fetch: bool = True) -> Path:
    """The folder that holds a copy of what lies below an address.

    Args:
        part: copy this folder below the address alone, under its name.
        fetch: False takes what has been copied before, and asks nothing of the network.

    Raises:
        DataError: nothing is there, it cannot be reached and was not copied before, or there is no room for it.
    """
    own, word = folder_name(address)
    place = cache_folder() / "data" / own
    tree, journal = place / word, place / "files.jsonl"
    whole = place / f"whole-{part}"  # there once all of it has been
    if not fetch:
        if not whole.exists():
            raise DataError(f"{address} has not been copied to this machine; set data.download=true to fetch it.")
        return tree
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / "copying.lock"):
            _bring_up_to_date(address, part, tree, journal, whole)
    except OSError as error:
        raise DataError(
            f"cannot keep a copy of {address} in {place} ({error.strerror or error}); set CNNLAB_CACHE to a folder of"
            " yours."
        ) from None
    return tree


def _bring_up_to_date(address: str, part: str, tree: Path, journal: Path, whole: Path) -> None:
    try:
        remote = Remote(address)
        files = remote.files(part)
        if not files:
            below = f"{address}/{part}" if part else address
            raise DataError(f"there are no images below {below}; upload them, or set data.root to where they are.")
        arrived = _read(journal)
        missing = [file for file in files.values() if not _is_here(file, tree, arrived)]
        if missing:
            whole.unlink(missing_ok=True)
            with open(journal, "a", encoding="utf-8") as record:

                def note(file: RemoteFile) -> None:
                    record.write(json.dumps([file.name, file.stamp]) + "\n")
                    record.flush()

                download_all(remote, missing, tree, note)
    except RemoteError as error:
        if whole.exists():
            print(f"warning: {error} The copy in {tree} is used as it is.", file=sys.stderr, flush=True)
            return
        raise DataError(str(error)) from None
    _remove_others(tree, part, set(files))
    whole.touch()


def _read(journal: Path) -> dict[str, str]:
    """Stamp of each file that has arrived, by name; a line that a kill cut short is none."""
    arrived: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in journal.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                name, stamp = json.loads(line)
                arrived[name] = stamp
    return arrived


def _is_here(file: RemoteFile, tree: Path, arrived: dict[str, str]) -> bool:
    try:
        size = (tree / file.name).stat().st_size
    except OSError:
        return False
    return arrived.get(file.name) == file.stamp and file.size in (None, size)


def _remove_others(tree: Path, part: str, names: set[str]) -> None:
    """What is no longer there must not be trained on."""
    for path in (tree / part).rglob("*"):
        if not path.is_dir() and path.relative_to(tree).as_posix() not in names:
            path.unlink()
    for path in sorted((tree / part).rglob("*"), reverse=True):
        if path.is_dir():
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()
