"""What is new in this machine's copy of a run goes up to its bucket.

Files go up whole and in an order that makes the bucket a run that can be resumed at any moment: what a state counts on
goes before it, and report.html, which says that a run is done, is the last.
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

from filelock import FileLock

from cnnlab.errors import RemoteError, RunError
from cnnlab.remote import READ_ONLY, Remote, RemoteFile
from cnnlab.runs.copies import (
    CONFIG,
    FIRST,
    GROWING,
    RECORD,
    STATE,
    Stamp,
    address_of,
    changed_files,
    is_copy,
    note,
    read_record,
    stamp_of,
)
from cnnlab.runs.files import write_json
from cnnlab.tracking.base import Event

STAGING = ".upload"
SECONDS_APART = 1.0  # between two uploads: a bucket takes one write a second of the same name


def publish(folder: Path) -> None:
    """Bring up what is new in a run folder that belongs in a bucket; any other folder stays as it is.

    Raises:
        RunError: what could not go up, where it lies meanwhile, and how to go on.
    """
    if is_copy(folder):
        _send(folder, folder, changed_files(folder))


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
            record = read_record(folder)
            remote = Remote(record["address"])
            there = remote.files()
            try:
                for name, stamp in stamps.items():
                    _refuse_foreign(remote, record["files"].get(name), there.get(name), source / name)
                    note(record, name, remote.upload(source / name, name).stamp, stamp)
                    if name in FIRST:
                        write_json(folder / RECORD, record)
            finally:
                write_json(folder / RECORD, record)
    except RemoteError as error:
        raise RunError(
            f"{error} All of the run is in {folder}; `cnnlab resume {folder}` goes on there and brings it up."
        ) from None


def _refuse_foreign(remote: Remote, known: dict[str, Any] | None, there: RemoteFile | None, source: Path) -> None:
    """Training's own files up there must be those that this machine brought up or fetched."""
    if there is None or there.name not in FIRST or (known is not None and known["there"] == there.stamp):
        return
    if remote.holds(source, there):  # it went up, and the answer was lost
        return
    raise _Conflict(
        f"another machine trains in {remote.address}: {there.name} is not what this one left there. Let one of them go"
        f" on by `cnnlab resume {remote.address}`, and give the other a run.dir of its own."
    )


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
        if CONFIG not in read_record(folder)["files"]:
            (folder / CONFIG).unlink(missing_ok=True)  # nothing was trained: the same command may be given again
        raise
    uploader = Uploader(folder)
    try:
        yield [uploader]
    except BaseException:
        try:
            uploader.finish()
            print(
                f"the run up to here is at {address_of(folder)}, for `cnnlab resume` on any machine.", file=sys.stderr
            )
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
        self.seen = stamp_of(folder / STATE)
        self.number = 0
        self.waiting: tuple[Path, dict[str, Stamp]] | None = None
        self.conflict: _Conflict | None = None
        self.failed = self.ended = False
        self.turn = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self.thread.start()

    def log(self, event: Event) -> None:
        """Called by the training between two steps, when it writes nothing."""
        stamp = stamp_of(self.folder / STATE)
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
        stamps = changed_files(self.folder)
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
            self._warn(f"{conflict} Nothing more goes up from here.")
        except Exception as error:  # training goes on, whatever it is
            if not self.failed:
                self._warn(f"an upload failed and is tried again with the next state: {error}")
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
