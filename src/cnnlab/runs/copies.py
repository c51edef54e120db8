"""This machine's copy of a run in a bucket: `.remote.json` in it says where it belongs and what of it is up there.

Training and every other command work in the copy as in any run folder. Nothing here asks the network; that do
`runs/download.py`, behind `runs/opened.py`, and `runs/upload.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cnnlab.errors import RunError
from cnnlab.files import folder_name
from cnnlab.runs.files import read_json
from cnnlab.runs.schema import Each, validate

RECORD = ".remote.json"
CONFIG, STATE = "config.yaml", "last/state.pt"
FIRST = (  # training's own, in the order in which they go up; with config.yaml it is a run
    "environment.json",
    "split.json",
    "init.json",
    "best/model.safetensors",
    "best/model.json",
    STATE,
    "metrics.jsonl",
    CONFIG,
)
BEGUN = {*FIRST[:3], STATE}  # what a run killed at its start leaves
LAST = ("best/objects.json", "predictions.csv", "test.json", "report.html")
GROWING = ("tensorboard", "wandb")  # files in there are written on, not replaced
RECORD_SCHEMA = {"address": str, "files": Each({"there": str, "here": (int, int)})}

Stamp = list[int]  # size in bytes and time of change in nanoseconds of a file here


def copy_of(address: str) -> Path:
    """The folder on this machine for a run at an address."""
    from cnnlab.data.store import cache_folder

    own, word = folder_name(address)
    return cache_folder() / "runs" / own / word


def address_of(folder: Path) -> str | None:
    """Where a run folder belongs; None for one that is at home here."""
    return str(read_record(folder)["address"]) if is_copy(folder) else None


def is_copy(folder: Path) -> bool:
    """Whether a run folder is this machine's copy of one in a bucket.

    A record in any other folder counts for nothing: it may be a stranger's, who would have the files sent to him.
    """
    if not (folder / RECORD).exists():
        return False
    return copy_of(str(read_record(folder)["address"])).resolve() == folder.resolve()


def read_record(folder: Path) -> dict[str, Any]:
    record = read_json(folder / RECORD)
    if validate(record, RECORD_SCHEMA):
        raise RunError(f"{folder / RECORD} is damaged; delete {folder} and give the run's address in the bucket.")
    return record


def note(record: dict[str, Any], name: str, there: str, here: Stamp) -> None:
    record["files"][name] = {"there": there, "here": here}


def stamp_of(path: Path) -> Stamp:
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


def changed_files(folder: Path) -> dict[str, Stamp]:
    """What differs from what is up there, by name, in the order in which it goes up."""
    known = read_record(folder)["files"]
    found: dict[str, Stamp] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if any(piece.startswith(".") for piece in name.split("/")) or path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(FileNotFoundError):
            stamp = stamp_of(path)
            if known.get(name, {}).get("here") != stamp:
                found[name] = stamp

    def place(name: str) -> tuple[int, str]:
        if name in FIRST:
            return FIRST.index(name), ""
        return (len(FIRST) + 1 + LAST.index(name), "") if name in LAST else (len(FIRST), name)

    return dict(sorted(found.items(), key=lambda pair: place(pair[0])))


@contextlib.contextmanager
def one_reader(folder: Path) -> Iterator[None]:
    """Wait until no other process brings this copy up to date: who comes second must not read half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.fetch"):
        yield


@contextlib.contextmanager
def alone(folder: Path, message: str) -> Iterator[None]:
    """Hold the lock of training. Raises RunError with `message`, or Timeout where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if message:
            raise RunError(message) from None
        raise
    try:
        yield
    finally:
        lock.release()
