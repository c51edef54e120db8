"""Images are decoded once: a file of uint8 pixels on disk, memory-mapped from then on.

A store is a folder named by the fingerprint of its source and its layout. It is built under a lock, in a temporary
folder that is renamed when it is whole, so two builders at once and a kill half way leave either a whole store or none.
It holds the images that were asked for in its layout; others are added when they are. What counts as there is said by
the index alone, and that is replaced in one go after the pixels are on disk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from filelock import FileLock

from cnnlab.data.decode import Layout, arrange, arrange_mask, check_mask, keep_image_memory
from cnnlab.data.sources.base import ImageSet
from cnnlab.errors import DataError
from cnnlab.files import replace

FORMAT = 2  # raise it when decoding changes: old stores are then built anew
CHUNK = 32  # images a task
FLUSH = 16  # tasks between two flushes to disk
Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Index:
    """What was learned of each image while it was decoded."""

    ok: np.ndarray  # (n,) bool: it could be read
    digest: np.ndarray  # (n, 16) uint8: of the file's bytes
    size: np.ndarray  # (n, 2) int32: height and width of the original
    reasons: dict[int, str]  # why an image could not be read


@dataclass(frozen=True)
class Store:
    """`images` is (n, height, width, stored channels) uint8, memory-mapped; None if only the index was asked for.

    It holds pixels where `have` (n,) bool says so, and zeros elsewhere.
    """

    images: np.ndarray | None
    index: Index
    have: np.ndarray


@dataclass(frozen=True)
class Job:
    """What a store lacks."""

    folder: Path
    layout: Layout | None
    new: bool  # there is no store yet, or a damaged one
    have: np.ndarray  # (n,) bool: images that are there
    missing: np.ndarray  # (n,) bool: images that are to be added

    @property
    def work(self) -> Path:
        """Where it is built: a store that is there is only added to."""
        return self.folder.with_name(self.folder.name + ".building") if self.new else self.folder

    @property
    def bytes(self) -> int:
        """What it still needs on disk; an addition that was cut off has taken a part already."""
        if self.layout is None:
            return 0
        need, taken = int(self.missing.sum()) * self.layout.bytes_per_image, 0
        if not self.new:
            blocks = getattr((self.folder / "pixels.u8").stat(), "st_blocks", 0)
            taken = max(0, 512 * blocks - int(self.have.sum()) * self.layout.bytes_per_image)
        return max(0, need - taken)


class ReadAhead:
    """Asks the system for images of a memory map before they are needed, and reads nothing else meanwhile.

    So the disk works while the network computes, and data larger than memory train nearly as fast as resident ones.
    """

    def __init__(self, images: np.memmap) -> None:
        self.map = images._mmap  # type: ignore[attr-defined]
        self.file = open(images.filename, "rb")  # type: ignore[arg-type]  # noqa: SIM115  # as long as the loader lives
        self.size = images[0].nbytes

    def ask(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            os.posix_fadvise(self.file.fileno(), number * self.size, self.size, os.POSIX_FADV_WILLNEED)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Here a page that is missing is read without its neighbours (up to 8 MB): they belong to other batches, and
        push out of a small memory what was asked for."""
        self.map.madvise(mmap.MADV_RANDOM)
        try:
            yield
        finally:
            self.map.madvise(mmap.MADV_NORMAL)


class Watched:
    """The file of a memory map. What another program cuts off it cannot be read any more: the system would end the
    process (SIGBUS) that tries, without a word."""

    def __init__(self, images: np.memmap) -> None:
        self.path = Path(str(images.filename))
        self.file = open(self.path, "rb")  # noqa: SIM115  # as long as the map lives
        self.size = images.nbytes

    def check(self) -> None:
        """Raise DataError if the file is shorter than the map."""
        if os.fstat(self.file.fileno()).st_size < self.size:
            raise DataError(
                f"{self.path} was cut short by another program while it was read; start again, or `cnnlab resume` the"
                " run: the images are decoded anew."
            )


def reader_ahead(images: np.ndarray | None) -> ReadAhead | None:
    """None for pixels that lie in no file, or where the system takes no advice."""
    mapped = isinstance(images, np.memmap) and images.filename is not None
    advised = hasattr(os, "posix_fadvise") and hasattr(mmap, "MADV_RANDOM")
    return ReadAhead(images) if mapped and advised else None  # type: ignore[arg-type]


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
    images: ImageSet,
    layouts: Sequence[Layout | None],
    progress: Progress = lambda done, total: None,
    numbers: Sequence[np.ndarray] | None = None,
) -> list[Store]:
    """The store of each layout; what is missing is built in one pass over the images. None asks for the index alone.

    Args:
        progress: called with (done, total) of the images that are decoded now.
        numbers: for each layout, those of the images whose pixels are needed; without it all are.

    Raises:
        DataError: no room or no permission in the cache folder, or an image that could be read before and cannot now.
    """
    fingerprint, count = images.fingerprint(), len(images)
    folders = [store_path(fingerprint, layout) for layout in layouts]
    needed = [np.ones(count, bool) for _ in layouts]
    if numbers is not None:
        needed = [np.isin(np.arange(count), part) for part in numbers]
    jobs: list[Job] = []
    try:
        folders[0].parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folders[0].parent / "building.lock"):
            wanted = list(zip(folders, layouts, needed, strict=True))
            before = [_open(folder, layout, count) for folder, layout, _ in wanted]
            index = next((store.index for store in before if store), None)
            readable = index.ok if index else np.ones(count, bool)
            for (folder, layout, rows), store in zip(wanted, before, strict=True):
                have = store.have if store else np.zeros(count, bool)
                missing = rows & readable & ~have
                if store is None or missing.any():
                    jobs.append(Job(folder, layout, store is None, have, missing))
            if jobs:
                build(images, jobs, index, progress)
            stores = [_open(folder, layout, count) for folder, layout, _ in wanted]
    except OSError as error:
        if error.errno == errno.ENOSPC:
            need = sum(job.bytes for job in jobs)
            raise DataError(
                f"no space left in {folders[0].parent} for {need / 1e9:.2f} GB of decoded images; free some, set"
                " CNNLAB_CACHE to another disk, or use data.storage=stream."
            ) from None
        raise DataError(
            f"cannot keep decoded images in {folders[0].parent} ({error.strerror or error}); set CNNLAB_CACHE to a"
            " folder of yours."
        ) from None
    whole = [store for store in stores if store]
    if len(whole) < len(stores) or any(
        (r & whole[0].index.ok & ~s.have).any() for s, r in zip(whole, needed, strict=True)
    ):
        raise DataError(
            f"the decoded images in {folders[0].parent} cannot be read although they were just written; is there"
            " memory left? Try again, or set CNNLAB_CACHE to another folder."
        )
    return whole


def _open(folder: Path, layout: Layout | None, count: int) -> Store | None:
    """The store, or None if it is missing or damaged."""
    try:
        with np.load(folder / "index.npz", allow_pickle=False) as saved:
            reasons = {int(k): str(v) for k, v in json.loads(saved["reasons"].tobytes()).items()}
            index, have = Index(saved["ok"], saved["digest"], saved["size"], reasons), saved["have"]
        found = [(str(array.dtype), array.shape) for array in (index.ok, have, index.digest, index.size)]
        if found != [("bool", (count,)), ("bool", (count,)), ("uint8", (count, 16)), ("int32", (count, 2))]:
            return None
        if layout is None:
            return Store(None, index, have)
        shape = (count, layout.height, layout.width, layout.stored_channels)
        return Store(np.memmap(folder / "pixels.u8", np.uint8, "r", shape=shape), index, have)
    except Exception:  # damage in the right place makes NumPy's reader raise nearly anything
        return None


def build(images: ImageSet, jobs: Sequence[Job], index: Index | None, progress: Progress) -> None:
    """Decode once every image that a job lacks, and all if there is no index yet, and write them into the stores.

    Memory holds a few chunks, whatever the count.
    """
    cache = jobs[0].folder.parent
    for stale in cache.glob("*.building"):
        shutil.rmtree(stale, ignore_errors=True)  # left by a builder that was killed: we hold the lock
    if shutil.disk_usage(cache).free < sum(job.bytes for job in jobs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    places = np.arange(len(images))
    if index:
        places = np.flatnonzero(np.any([job.missing for job in jobs], axis=0))
    rows: list[Facts] = []
    files: list[BinaryIO] = []
    flushes = []
    wanted: list[tuple[Layout, np.ndarray]] = []
    try:
        for job in jobs:
            job.work.mkdir(exist_ok=True)
            if job.layout:
                wanted.append((job.layout, job.missing))
                how: Literal["wb", "r+b"] = "wb" if job.new else "r+b"
                files.append(open(job.work / "pixels.u8", how))  # noqa: SIM115
                if job.new:  # what is not written takes no room; Windows refuses it for a file that is mapped
                    files[-1].truncate(len(images) * job.layout.bytes_per_image)
        with ThreadPoolExecutor(1, thread_name_prefix="flush") as flusher:  # the disk works while we decode
            for first, (facts, blocks) in _decode_all(images, wanted, places, index):
                rows.append(facts)
                for file, (numbers, pixels) in zip(files, blocks, strict=True):
                    _write(file, numbers, pixels)
                    if len(rows) % FLUSH == 0:
                        flushes.append(flusher.submit(os.fsync, file.fileno()))
                progress(min(first + CHUNK, len(places)), len(places))
        for flush in flushes:
            flush.result()  # the system tells of a failed write once
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        index = index or _join(rows)
        for job in jobs:
            _save_index(index, job.have | job.missing & index.ok, job.work / "index.npz")
            if job.new:
                shutil.rmtree(job.folder, ignore_errors=True)  # a damaged one
                replace(job.work, job.folder)
    finally:
        for file in files:
            with contextlib.suppress(OSError):  # a full disk refuses the last bytes again
                file.close()
        for job in jobs:
            if job.new:
                shutil.rmtree(job.work, ignore_errors=True)


def _write(file: BinaryIO, numbers: np.ndarray, pixels: np.ndarray) -> None:
    """Put each image where its number says; those that follow one another at once."""
    gaps = np.flatnonzero(np.diff(numbers) > 1) + 1
    for run, block in zip(np.split(numbers, gaps), np.split(pixels, gaps), strict=True):
        if len(run):
            file.seek(int(run[0]) * block[0].nbytes)
            file.write(block.data)


Wanted = Sequence[tuple[Layout, np.ndarray]]  # a layout, and (n,) bool: images that are wanted in it
Facts = tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, str]]
Blocks = list[tuple[np.ndarray, np.ndarray]]  # for each target, numbers and pixels


def _decode_all(
    images: ImageSet, wanted: Wanted, numbers: np.ndarray, known: Index | None
) -> Iterator[tuple[int, tuple[Facts, Blocks]]]:
    """Yield (first, result of _decode_chunk) in order; Pillow lets go of the interpreter lock while it works."""
    workers = os.cpu_count() or 1
    keep_image_memory(4 * workers)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[int, Future[tuple[Facts, Blocks]]]] = deque()
        for first in range(0, len(numbers), CHUNK):
            chunk = numbers[first : first + CHUNK]
            waiting.append((first, pool.submit(_decode_chunk, images, wanted, chunk, known)))
            if len(waiting) > 2 * workers:
                start, future = waiting.popleft()
                yield start, future.result()
        while waiting:
            start, future = waiting.popleft()
            yield start, future.result()


def _decode_chunk(images: ImageSet, wanted: Wanted, numbers: np.ndarray, known: Index | None) -> tuple[Facts, Blocks]:
    """Raises DataError for an image that is not as it was when its index was made, if it is `known`."""
    ok = np.ones(len(numbers), bool)
    digest, size = np.zeros((len(numbers), 16), np.uint8), np.zeros((len(numbers), 2), np.int32)
    reasons: dict[int, str] = {}
    blocks = [np.empty((len(numbers), lay.height, lay.width, lay.stored_channels), np.uint8) for lay, _ in wanted]
    done: list[list[int]] = [[] for _ in wanted]
    for row, number in enumerate(numbers.tolist()):
        try:
            data = images.read_bytes(number)
            digest[row] = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint8)
            image = images.decode(data, number)
            mask = images.load_mask(number) if images.pixel_classes is not None else None
            if mask is not None:
                check_mask(mask, image.size)
        except DataError as error:
            if known:
                raise unreadable_now(images.names[number], error) from None
            ok[row], reasons[number] = False, str(error)
            continue
        if known and (digest[row] != known.digest[number]).any():
            raise changed_now(images.names[number])
        size[row] = image.height, image.width
        for (layout, needed), block, inside in zip(wanted, blocks, done, strict=True):
            if needed[number]:
                arrange(image, layout, out=block[len(inside)])
                if mask is not None:
                    arrange_mask(mask, image.size, layout, block[len(inside)])
                inside.append(number)
    inside_blocks = [(np.array(ns, np.int64), block[: len(ns)]) for ns, block in zip(done, blocks, strict=True)]
    return (ok, digest, size, reasons), inside_blocks


def unreadable_now(name: str, error: DataError) -> DataError:
    return DataError(f"{name} could be read before and cannot now: {error}. Restore it and resume.")


def changed_now(name: str) -> DataError:
    return DataError(f"{name} was changed or removed while this was running. Restore it, or start again.")


def _join(rows: Sequence[Facts]) -> Index:
    ok, digest, size = (np.concatenate([row[i] for row in rows]) for i in range(3))  # type: ignore[misc]
    reasons = {number: reason for row in rows for number, reason in row[3].items()}
    return Index(ok, digest, size, reasons)


def _save_index(index: Index, have: np.ndarray, path: Path) -> None:
    reasons = np.frombuffer(json.dumps(index.reasons).encode(), np.uint8)
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        np.savez(file, ok=index.ok, have=have, digest=index.digest, size=index.size, reasons=reasons)
        file.flush()
        os.fsync(file.fileno())
    replace(new, path)


def index_array(images: ImageSet) -> Index:
    """The index of a set that is an array: nothing can be unreadable, and digests are quick to take."""
    digest = [hashlib.blake2b(images.read_bytes(i), digest_size=16).digest() for i in range(len(images))]
    size = np.tile(np.array(images.size, np.int32), (len(images), 1))
    return Index(np.ones(len(images), bool), np.frombuffer(b"".join(digest), np.uint8).reshape(-1, 16), size, {})
