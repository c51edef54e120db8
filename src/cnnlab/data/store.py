"""Pictures are decoded once: a file of uint8 pixels on disk, memory-mapped from then on.

A store is a folder named by the fingerprint of its source and its layout. It is built under a lock, in a temporary
folder that is renamed when it is whole, so two builders at once and a kill half way leave either a whole store or none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from cnnlab.data.decode import Layout, arrange, arrange_mask, keep_picture_memory
from cnnlab.data.sources.base import PictureSet
from cnnlab.errors import DataError

FORMAT = 1  # raise it when decoding changes: old stores are then built anew
CHUNK = 32  # pictures a task
FLUSH = 16  # tasks between two flushes to disk
Progress = Callable[[int, int], None]  # (done, total)
ReadAhead = Callable[[Iterable[int]], None]  # numbers of pictures


@dataclass(frozen=True)
class Index:
    """What was learned of each picture while it was decoded."""

    ok: np.ndarray  # (n,) bool: it could be read
    digest: np.ndarray  # (n, 16) uint8: of the file's bytes
    size: np.ndarray  # (n, 2) int32: height and width of the original
    reasons: dict[int, str]  # why a picture could not be read


@dataclass(frozen=True)
class Store:
    """`images` is (n, height, width, stored channels) uint8, memory-mapped; None if only the index was asked for."""

    images: np.ndarray | None
    index: Index


def reader_ahead(images: np.ndarray) -> ReadAhead | None:
    """A function that asks the system for pictures before they are needed; None for pixels that lie in no file.

    The system reads them while the network computes, so that data larger than memory train as fast as resident ones.
    """
    if not isinstance(images, np.memmap) or images.filename is None or not hasattr(os, "posix_fadvise"):
        return None
    file = open(images.filename, "rb")  # noqa: SIM115  # as long as the loader lives
    size = images[0].nbytes

    def ask(numbers: Iterable[int]) -> None:
        for number in numbers:
            os.posix_fadvise(file.fileno(), number * size, size, os.POSIX_FADV_WILLNEED)

    return ask


def cache_folder() -> Path:
    """CNNLAB_CACHE, or the user's cache folder."""
    if os.environ.get("CNNLAB_CACHE"):
        return Path(os.environ["CNNLAB_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "cnnlab"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cnnlab"


def store_path(fingerprint: str, layout: Layout | None) -> Path:
    key = hashlib.sha256(f"{FORMAT} {fingerprint} {layout.key if layout else None}".encode()).hexdigest()[:24]
    return cache_folder() / "store" / key


def open_stores(
    pictures: PictureSet, layouts: Sequence[Layout | None], progress: Progress = lambda done, total: None
) -> list[Store]:
    """The store of each layout; what is missing is built in one pass over the pictures. None asks for the index alone.

    Raises:
        DataError: no room or no permission in the cache folder.
    """
    fingerprint = pictures.fingerprint()
    folders = [store_path(fingerprint, layout) for layout in layouts]
    try:
        folders[0].parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folders[0].parent / "building.lock"):
            wanted = dict(zip(folders, layouts, strict=True))
            missing = {f: layout for f, layout in wanted.items() if _open(f, layout, len(pictures)) is None}
            if missing:
                build(pictures, missing, progress)
            stores = [_open(folder, layout, len(pictures)) for folder, layout in wanted.items()]
    except OSError as error:
        if error.errno == errno.ENOSPC:
            need = sum(lay.bytes_per_picture for lay in layouts if lay) * len(pictures)
            raise DataError(
                f"no space left in {folders[0].parent} for {need / 1e9:.2f} GB of decoded pictures; free some, set"
                " CNNLAB_CACHE to another disk, or use data.storage=stream."
            ) from None
        raise DataError(
            f"cannot keep decoded pictures in {folders[0].parent} ({error.strerror or error}); set CNNLAB_CACHE to a"
            " folder of yours."
        ) from None
    if not all(stores):
        raise DataError(
            f"the decoded pictures in {folders[0].parent} cannot be read although they were just written; is there"
            " memory left? Try again, or set CNNLAB_CACHE to another folder."
        )
    return [store for store in stores if store]


def _open(folder: Path, layout: Layout | None, count: int) -> Store | None:
    """The store, or None if it is missing or damaged."""
    try:
        with np.load(folder / "index.npz", allow_pickle=False) as saved:
            reasons = {int(k): str(v) for k, v in json.loads(saved["reasons"].tobytes()).items()}
            index = Index(saved["ok"], saved["digest"], saved["size"], reasons)
        found = [(str(array.dtype), array.shape) for array in (index.ok, index.digest, index.size)]
        if found != [("bool", (count,)), ("uint8", (count, 16)), ("int32", (count, 2))]:
            return None
        if layout is None:
            return Store(None, index)
        shape = (count, layout.height, layout.width, layout.stored_channels)
        return Store(np.memmap(folder / "pixels.u8", np.uint8, "r", shape=shape), index)
    except Exception:  # damage in the right place makes NumPy's reader raise nearly anything
        return None


def build(pictures: PictureSet, layouts: dict[Path, Layout | None], progress: Progress) -> None:
    """Decode every picture once and write the store of each layout. Memory holds a few chunks, whatever the count."""
    for stale in next(iter(layouts)).parent.glob("*.building"):
        shutil.rmtree(stale, ignore_errors=True)  # left by a builder that was killed: we hold the lock
    temporary = {folder: folder.with_name(folder.name + ".building") for folder in layouts}
    wanted = [layout for layout in layouts.values() if layout]
    need = sum(layout.bytes_per_picture for layout in wanted) * len(pictures)
    if shutil.disk_usage(next(iter(layouts)).parent).free < need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    rows = []
    files = []
    flushes = []
    try:
        for folder, layout in layouts.items():
            temporary[folder].mkdir()
            if layout:
                files.append(open(temporary[folder] / "pixels.u8", "wb"))  # noqa: SIM115
        with ThreadPoolExecutor(1, thread_name_prefix="flush") as flusher:  # the disk works while we decode
            for first, (facts, pixels) in _decode_all(pictures, wanted):
                rows.append(facts)
                for file, block in zip(files, pixels, strict=True):
                    file.write(block.data)
                    if len(rows) % FLUSH == 0:
                        flushes.append(flusher.submit(os.fsync, file.fileno()))
                progress(min(first + CHUNK, len(pictures)), len(pictures))
        for flush in flushes:
            flush.result()  # the system tells of a failed write once
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        index = _join(rows)
        for folder, work in temporary.items():
            _save_index(index, work / "index.npz")
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            os.replace(work, folder)
    finally:
        for file in files:
            with contextlib.suppress(OSError):  # a full disk refuses the last bytes again
                file.close()
        for work in temporary.values():
            shutil.rmtree(work, ignore_errors=True)


Facts = tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, str]]


def _decode_all(
    pictures: PictureSet, layouts: Sequence[Layout]
) -> Iterator[tuple[int, tuple[Facts, list[np.ndarray]]]]:
    """Yield (first, result of _decode_chunk) in order; Pillow lets go of the interpreter lock while it works."""
    workers = os.cpu_count() or 1
    keep_picture_memory(4 * workers)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[int, Future[tuple[Facts, list[np.ndarray]]]]] = deque()
        for first in range(0, len(pictures), CHUNK):
            waiting.append((first, pool.submit(_decode_chunk, pictures, layouts, first)))
            if len(waiting) > 2 * workers:
                start, future = waiting.popleft()
                yield start, future.result()
        while waiting:
            start, future = waiting.popleft()
            yield start, future.result()


def _decode_chunk(pictures: PictureSet, layouts: Sequence[Layout], first: int) -> tuple[Facts, list[np.ndarray]]:
    numbers = range(first, min(first + CHUNK, len(pictures)))
    ok = np.ones(len(numbers), bool)
    digest, size = np.zeros((len(numbers), 16), np.uint8), np.zeros((len(numbers), 2), np.int32)
    reasons: dict[int, str] = {}
    blocks = [np.empty((len(numbers), lay.height, lay.width, lay.stored_channels), np.uint8) for lay in layouts]
    for row, number in enumerate(numbers):
        try:
            data = pictures.read_bytes(number)
            digest[row] = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint8)
            picture = pictures.decode(data, number)
            mask = pictures.load_mask(number) if pictures.pixel_classes is not None else None
            for block, layout in zip(blocks, layouts, strict=True):
                arrange(picture, layout, out=block[row])
                if mask is not None:
                    arrange_mask(mask, picture.size, layout, block[row])
        except DataError as error:
            ok[row], reasons[number] = False, str(error)
            for block in blocks:
                block[row] = 0
            continue
        size[row] = picture.height, picture.width
    return (ok, digest, size, reasons), blocks


def _join(rows: Sequence[Facts]) -> Index:
    ok, digest, size = (np.concatenate([row[i] for row in rows]) for i in range(3))  # type: ignore[misc]
    reasons = {number: reason for row in rows for number, reason in row[3].items()}
    return Index(ok, digest, size, reasons)


def _save_index(index: Index, path: Path) -> None:
    reasons = np.frombuffer(json.dumps(index.reasons).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez(file, ok=index.ok, digest=index.digest, size=index.size, reasons=reasons)
        file.flush()
        os.fsync(file.fileno())


def index_array(pictures: PictureSet) -> Index:
    """The index of a set that is an array: nothing can be unreadable, and digests are quick to take."""
    digest = [hashlib.blake2b(pictures.read_bytes(i), digest_size=16).digest() for i in range(len(pictures))]
    size = np.tile(np.array(pictures.size, np.int32), (len(pictures), 1))
    return Index(np.ones(len(pictures), bool), np.frombuffer(b"".join(digest), np.uint8).reshape(-1, 16), size, {})
