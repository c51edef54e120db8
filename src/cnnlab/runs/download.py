"""A run in a bucket comes to this machine: a copy that is brought up to date, or an empty one for a new run."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from filelock import Timeout

from cnnlab.errors import RunError, nearest
from cnnlab.files import folder_name
from cnnlab.remote import Remote, RemoteFile, download_all
from cnnlab.runs.copies import (
    BEGUN,
    CONFIG,
    FIRST,
    GROWING,
    RECORD,
    alone,
    changed_files,
    copy_of,
    note,
    one_reader,
    read_record,
    stamp_of,
)
from cnnlab.runs.files import write_json

UNREAD = (*GROWING, "explain", "localize", "predict", "export")  # folders that no command reads
READ_ALL_THE_SAME = "export/export.json"  # which keeps what it says of other exports


def holds_run(address: str) -> bool:
    """Whether there is a run at an address, or one on this machine that has not gone up. Raises RemoteError."""
    return CONFIG in Remote(address).files() or (copy_of(address) / CONFIG).exists()


def begin(address: str) -> Path:
    """An empty folder for a new run that will go to `address`.

    Raises:
        RunError, RemoteError: there is a run already, or other files, or it cannot be reached.
    """
    remote = Remote(address)
    remote.refuse_read_only()
    files = remote.files()
    if files.keys() - BEGUN:
        if CONFIG in files:
            raise RunError(
                f"{address} already holds a run; resume it with `cnnlab resume {address}`, or choose another run.dir."
            )
        raise RunError(f"{address} holds other files; choose an empty or a new run.dir.")
    folder = copy_of(address)
    if (folder / RECORD).exists():
        if (folder / CONFIG).exists() and changed_files(folder):
            raise RunError(
                f"a run for {address} is on this machine that has not been uploaded; resume it with `cnnlab resume"
                f" {address}`, or delete {folder}."
            )
        with alone(folder, f"another process is training in {address}; wait for it or choose another run.dir."):
            shutil.rmtree(folder)  # it was up there, and somebody took it away
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"address": remote.address, "files": {}}
    for file in files.values():
        note(record, file.name, file.stamp, [0, 0])
    write_json(folder / RECORD, record)
    return folder


def fetch(address: str, whole: bool = False) -> Path:
    """A copy on this machine of the run at an address, up to date; what is newer here than there stays.

    Args:
        whole: with the training state, to resume.

    Raises:
        RunError, RemoteError: no run there, or it cannot be reached.
    """
    folder = copy_of(address)
    remote = Remote(address)
    if whole:
        remote.refuse_read_only()
    files = remote.files()
    if CONFIG not in files:
        if (folder / CONFIG).exists() and read_record(folder)["files"].keys() <= files.keys():  # it could never go up
            return folder
        raise RunError(f"there is no run at {address}: no {CONFIG}.{_hint(address)}")
    # Timeout: training goes on here, and nothing is newer.
    with one_reader(folder), contextlib.suppress(Timeout), alone(folder, ""):
        _fetch(remote, files, folder, whole)
    return folder


def _fetch(remote: Remote, files: dict[str, RemoteFile], folder: Path, whole: bool) -> None:
    record: dict[str, Any] = {"address": remote.address, "files": {}}
    record = read_record(folder) if (folder / RECORD).exists() else record
    known = record["files"].get(CONFIG)
    if known is not None and known["there"] != files[CONFIG].stamp:  # another run has taken its place
        for entry in folder.iterdir():
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        record["files"] = {}
    for name in record["files"].keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
        del record["files"][name]
    write_json(folder / RECORD, record)

    def wanted(file: RemoteFile) -> bool:
        top = file.name.partition("/")[0]
        if file.name != READ_ALL_THE_SAME and (top in UNREAD or (top == "last" and not whole) or top.startswith(".")):
            return False
        known = record["files"].get(file.name)
        return known is None or known["there"] != file.stamp or not (folder / file.name).exists()

    def arrived(file: RemoteFile) -> None:
        note(record, file.name, file.stamp, stamp_of(folder / file.name))

    # One after the other where order counts: cut off here, the copy must not have a state without its weights.
    chosen = [file for file in files.values() if wanted(file)]
    order = {name: number for number, name in enumerate(FIRST)}
    try:
        download_all(remote, [file for file in chosen if file.name not in order], folder, arrived)
        for file in sorted((file for file in chosen if file.name in order), key=lambda file: order[file.name]):
            download_all(remote, [file], folder, arrived)
    finally:
        write_json(folder / RECORD, record)


def fetch_file(address: str) -> Path:
    """A copy on this machine of one file at an address. Raises RemoteError."""
    from cnnlab.data.store import cache_folder

    above, _, name = address.rpartition("/")
    folder = cache_folder() / "files" / folder_name(address)[0]
    remote = Remote(above)
    there = remote.stat(name)
    with one_reader(folder):
        record: dict[str, Any] = {"address": above, "files": {}}
        record = read_record(folder) if (folder / RECORD).exists() else record
        if record["files"].get(name, {}).get("there") != there.stamp or not (folder / name).exists():
            download_all(
                remote, [there], folder, lambda file: note(record, file.name, file.stamp, stamp_of(folder / name))
            )
            write_json(folder / RECORD, record)
    return folder / name


def _hint(address: str) -> str:
    above, _, name = address.rstrip("/").rpartition("/")
    return nearest(name, Remote(above).names(), f"{above}/") if above.count("/") > 2 else ""
