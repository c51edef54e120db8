"""A run folder in a bucket: a copy on this machine, and what is new in the copy goes up.

Training and every other command write into the copy as into any run folder. `.remote.json` in it says where it belongs
and what of it is up there. Files go up whole and in an order that makes the bucket a run that can be resumed at any
moment: what a state counts on goes before it, and report.html, which says that a run is done, is the last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cnnlab.errors import RemoteError, RunError, nearest
from cnnlab.remote import READ_ONLY, Remote, RemoteFile, download_all, folder_name
from cnnlab.runs.files import read_json, write_json
from cnnlab.runs.schema import Each, validate
from cnnlab.tracking.base import Event

RECORD = ".remote.json"
STAGING = ".upload"
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
UNREAD = (*GROWING, "explain", "localize", "predict", "export")  # folders that no command reads
READ_ALL_THE_SAME = "export/export.json"  # which keeps what it says of other exports
RECORD_SCHEMA = {"address": str, "files": Each({"there": str, "here": (int, int)})}
SECONDS_APART = 1.0  # between two uploads: a bucket takes one write a second of the same name

Stamp = list[int]  # size in bytes and time of change in nanoseconds of a file here


def copy_of(address: str) -> Path:
    """The folder on this machine for a run at an address."""
    from cnnlab.data.store import cache_folder

    own, word = folder_name(address)
    return cache_folder() / "runs" / own / word


def address_of(folder: Path) -> str | None:
    """Where a run folder belongs; None for one that is at home here."""
    return str(_record(folder)["address"]) if is_copy(folder) else None


def is_copy(folder: Path) -> bool:
    """Whether a run folder is this machine's copy of one in a bucket.

    A record in any other folder counts for nothing: it may be a stranger's, who would have the files sent to him.
    """
    if not (folder / RECORD).exists():
        return False
    return copy_of(str(_record(folder)["address"])).resolve() == folder.resolve()


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
        if (folder / CONFIG).exists() and _changed(folder):
            raise RunError(
                f"a run for {address} is on this machine and not uploaded; resume it with `cnnlab resume"
                f" {address}`, or delete {folder}."
            )
        with _alone(folder, f"another process is training in {address}; wait for it or choose another run.dir."):
            shutil.rmtree(folder)  # it was up there, and somebody took it away
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"address": remote.address, "files": {}}
    for file in files.values():
        _note(folder, record, file, [0, 0])
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
        if (folder / CONFIG).exists() and _record(folder)["files"].keys() <= files.keys():  # it could never go up
            return folder
        raise RunError(f"there is no run at {address}: no {CONFIG}.{_hint(address)}")
    try:
        with _alone(folder, ""):
            _fetch(remote, files, folder, whole)
    except Timeout:  # training goes on here: nothing is newer
        pass
    return folder


def _fetch(remote: Remote, files: dict[str, RemoteFile], folder: Path, whole: bool) -> None:
    record: dict[str, Any] = {"address": remote.address, "files": {}}
    record = _record(folder) if (folder / RECORD).exists() else record
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
        _note(folder, record, file, _stamp(folder / file.name))

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
    if not (folder / RECORD).exists() or _record(folder)["files"].get(name, {}).get("there") != there.stamp:
        record: dict[str, Any] = {"address": above, "files": {}}
        download_all(remote, [there], folder, lambda file: _note(folder, record, file, _stamp(folder / name)))
        write_json(folder / RECORD, record)
    return folder / name


def _hint(address: str) -> str:
    above, _, name = address.rstrip("/").rpartition("/")
    return nearest(name, Remote(above).names(), f"{above}/") if above.count("/") > 2 else ""


def publish(folder: Path) -> None:
    """Bring up what is new in a run folder that belongs in a bucket; any other folder stays as it is.

    Raises:
        RunError: what could not go up, where it lies meanwhile, and how to go on.
    """
    if is_copy(folder):
        _send(folder, folder, _changed(folder))


def publish_results(folder: Path) -> None:
    """Bring up what a command made of a finished run; where that cannot be, it is here all the same."""
    address = address_of(folder)
    if address is None or Remote(address).scheme in READ_ONLY:
        return
    try:
        publish(folder)
    except RunError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)


class _Conflict(RunError):
    """Another machine writes to the same run."""


def _send(folder: Path, source: Path, stamps: dict[str, Stamp]) -> None:
    """Bring up the files in `stamps`, which lie below `source`: the run folder, or links to what was in it."""
    if not stamps:
        return
    try:
        with FileLock(folder / ".remote.lock"):
            record = _record(folder)
            remote = Remote(record["address"])
            there = remote.files()
            try:
                for name, stamp in stamps.items():
                    _refuse_foreign(remote, record["files"].get(name), there.get(name), source / name)
                    _note(folder, record, remote.upload(source / name, name), stamp)
                    if name in FIRST:
                        write_json(folder / RECORD, record)
            finally:
                write_json(folder / RECORD, record)
    except RemoteError as error:
        raise RunError(
            f"{error} All of the run is in {folder}; `cnnlab resume {folder}` resumes it and uploads it."
        ) from None


def _refuse_foreign(remote: Remote, known: dict[str, Any] | None, there: RemoteFile | None, source: Path) -> None:
    """Training's own files up there must be those that this machine brought up or fetched."""
    if there is None or there.name not in FIRST or (known is not None and known["there"] == there.stamp):
        return
    if remote.holds(source, there):  # it went up, and the answer was lost
        return
    raise _Conflict(
        f"another machine trains in {remote.address}: {there.name} is not what this one left there. Resume one"
        f" of them with `cnnlab resume {remote.address}`, and give the other a run.dir of its own."
    )


def _record(folder: Path) -> dict[str, Any]:
    record = read_json(folder / RECORD)
    if validate(record, RECORD_SCHEMA):
        raise RunError(f"{folder / RECORD} is damaged; delete {folder} and give the run's address in the bucket.")
    return record


def _note(folder: Path, record: dict[str, Any], there: RemoteFile, here: Stamp) -> None:
    record["files"][there.name] = {"there": there.stamp, "here": here}


def _stamp(path: Path) -> Stamp:
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


def _changed(folder: Path) -> dict[str, Stamp]:
    """What differs from what is up there, by name, in the order in which it goes up."""
    known = _record(folder)["files"]
    found: dict[str, Stamp] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if any(piece.startswith(".") for piece in name.split("/")) or path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(FileNotFoundError):
            stamp = _stamp(path)
            if known.get(name, {}).get("here") != stamp:
                found[name] = stamp

    def place(name: str) -> tuple[int, str]:
        if name in FIRST:
            return FIRST.index(name), ""
        return (len(FIRST) + 1 + LAST.index(name), "") if name in LAST else (len(FIRST), name)

    return dict(sorted(found.items(), key=lambda pair: place(pair[0])))


@contextlib.contextmanager
def _alone(folder: Path, message: str) -> Iterator[None]:
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


@contextlib.contextmanager
def uploading(folder: Path) -> Iterator[list[Uploader]]:
    """While a run is trained, its bucket follows. Yields the tracker that sees to it; none for a run at home here.

    Raises:
        RunError: at the start, the bucket takes nothing; at the end, something could not go up.
    """
    if not is_copy(folder):
        yield []
        return
    try:
        publish(folder)
    except RunError:
        if CONFIG not in _record(folder)["files"]:
            (folder / CONFIG).unlink(missing_ok=True)  # nothing was trained: the same command may be given again
        raise
    uploader = Uploader(folder)
    try:
        yield [uploader]
    except BaseException:
        try:
            uploader.finish()
            print(f"the run so far is at {address_of(folder)}, for `cnnlab resume` on any machine.", file=sys.stderr)
        except RunError as error:  # what ended the run is said by its own error
            print(f"error: {error}", file=sys.stderr, flush=True)
        raise
    uploader.finish()


class Uploader:
    """Brings up each saved state and what belongs to it, beside the training.

    What is to go up is held fast by links, so that training may write on; of two states that wait, the older one is
    given up. What fails is tried again with the next state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder / STAGING, ignore_errors=True)  # of a killed process: what is copied there may be shared
        self.seen = _stamp(folder / STATE)
        self.number = 0
        self.waiting: tuple[Path, dict[str, Stamp]] | None = None
        self.conflict: _Conflict | None = None
        self.failed = self.ended = False
        self.turn = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self.thread.start()

    def log(self, event: Event) -> None:
        """Called by the training between two steps, when it writes nothing."""
        stamp = _stamp(self.folder / STATE)
        if stamp == self.seen:
            return
        self.seen = stamp
        try:
            held = self._hold()
        except OSError as error:
            self._warn(f"cannot prepare an upload in {self.folder} ({error.strerror or error}).")
            return
        with self.turn:
            if self.waiting is not None:
                shutil.rmtree(self.waiting[0], ignore_errors=True)
            self.waiting = held
            self.turn.notify_all()

    def _hold(self) -> tuple[Path, dict[str, Stamp]]:
        self.number += 1
        place = self.folder / STAGING / str(self.number)
        stamps = _changed(self.folder)
        for name in stamps:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copyfile if name.partition("/")[0] in GROWING else _link
            copy(self.folder / name, place / name)
        return place, stamps

    def _work(self) -> None:
        while True:
            with self.turn:
                self.turn.wait_for(lambda: self.waiting is not None or self.ended)
                if self.ended:
                    return
                assert self.waiting is not None
                (place, stamps), self.waiting = self.waiting, None
            if self.conflict is None:
                self._try(place, stamps)
            shutil.rmtree(place, ignore_errors=True)
            with self.turn:
                self.turn.wait_for(lambda: self.ended, timeout=SECONDS_APART)

    def _try(self, place: Path, stamps: dict[str, Stamp]) -> None:
        try:
            _send(self.folder, place, stamps)
        except _Conflict as conflict:
            self.conflict = conflict
            self._warn(f"{conflict} Uploads from this machine stop.")
        except Exception as error:  # training goes on, whatever it is
            if not self.failed:
                self._warn(f"an upload failed and is retried with the next state: {error}")
            self.failed = True
        else:
            if self.failed:
                print(f"uploads to {address_of(self.folder)} work again.", file=sys.stderr, flush=True)
            self.failed = False

    def _warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Other trackers may still write; `finish` comes after them."""

    def finish(self) -> None:
        """Bring up all that is left. Raises RunError."""
        with self.turn:
            self.ended = True
            self.turn.notify_all()
        self.thread.join()
        shutil.rmtree(self.folder / STAGING, ignore_errors=True)
        if self.conflict is not None:
            raise self.conflict
        publish(self.folder)


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
