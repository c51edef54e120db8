"""A store is whole or not there: it equals direct decoding, is built once, and survives the end of its builder."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import time
import tracemalloc
from collections.abc import Callable, Collection
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnlab.config import compose
from cnnlab.data import store
from cnnlab.data.build import build_data
from cnnlab.data.decode import Layout, arrange, read_image
from cnnlab.data.sources.base import ArraySet, ImageSet
from cnnlab.data.sources.folder import open_folder
from cnnlab.data.store import CHUNK, Store, index_array, open_stores
from cnnlab.errors import DataError

SMALL = Layout(8, 8, "RGB")
OTHER = Layout(10, 12, "RGB", "squash")
GREY = Layout(9, 7, "L")
needs_fork = pytest.mark.skipif(
    sys.platform != "linux", reason="children that start at once need fork, which is safe on Linux alone"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CNNLAB_CACHE", str(folder))
    return folder


def write_set(root: Path, count: int = 40, seed: int = 0, format: str = "png") -> Path:
    random = np.random.default_rng(seed)
    for name in "ab":
        (root / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = random.integers(0, 256, (12 + i % 3, 15, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "ab"[i % 2] / f"{i:04}.{format}")
    return root


def direct(images: ImageSet, layout: Layout) -> np.ndarray:
    """What the store should hold, read one image at a time."""
    rows = []
    for i in range(len(images)):
        try:
            rows.append(arrange(images.load_image(i), layout))
        except DataError:
            rows.append(np.zeros((layout.height, layout.width, layout.stored_channels), np.uint8))
    return np.stack(rows)


def folders(cache: Path) -> list[str]:
    """What lies in the cache, but for the lock."""
    return sorted(entry.name for entry in (cache / "store").iterdir() if not entry.name.endswith(".lock"))


def assert_whole(opened: Store, images: ImageSet, layout: Layout) -> None:
    np.testing.assert_array_equal(opened.images, direct(images, layout))
    assert len(opened.index.ok) == len(images)


class Counted(ImageSet):
    """A set that counts how often it is decoded."""

    def __init__(self, count: int, side: int = 16) -> None:
        random = np.random.default_rng(0)
        self.data: list[bytes] = []
        for _ in range(count):
            stream = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "PNG")
            self.data.append(stream.getvalue())
        self.count = count
        self.calls: list[int] = []
        self.labels = np.arange(count) % 2
        self.classes, self.names = ["a", "b"], [str(i) for i in range(count)]

    def read_bytes(self, index: int) -> bytes:
        return self.data[index]

    def decode(self, data: bytes, index: int) -> Image.Image:
        self.calls.append(index)
        return read_image(data)

    def load_image(self, index: int) -> Image.Image:
        return read_image(self.data[index])

    @property
    def decoded(self) -> int:
        return len(self.calls)

    def fingerprint(self) -> str:
        return f"counted {self.count}"


@pytest.mark.parametrize("layout", [SMALL, OTHER, GREY])
@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, 3 * CHUNK + 5])
def test_a_store_equals_direct_decoding(tmp_path: Path, layout: Layout, count: int) -> None:
    write_set(tmp_path / "set", count)
    for name in "ab":
        Image.new("RGB", (15, 12)).save(tmp_path / "set" / name / "z.png")
    images = open_folder(tmp_path / "set")
    (opened,) = open_stores(images, [layout])
    assert opened.images is not None
    assert opened.images.dtype == np.uint8
    assert_whole(opened, images, layout)


@pytest.mark.parametrize("side", [29, 58, 116, 232])
def test_images_a_little_larger_than_the_layout_are_stored(side: int) -> None:
    """Sizes for which 28·(side/28) is more than the side."""
    images = Counted(3, side)
    layout = Layout(28, 28, "RGB")
    assert 28 * (side / 28) > side
    assert_whole(open_stores(images, [layout])[0], images, layout)


def test_the_index_holds_digests_and_original_sizes(tmp_path: Path) -> None:
    images = open_folder(write_set(tmp_path / "set", 7))
    index = open_stores(images, [SMALL])[0].index
    for i, name in enumerate(images.names):
        data = (tmp_path / "set" / name).read_bytes()
        assert index.digest[i].tobytes() == hashlib.blake2b(data, digest_size=16).digest()
        assert index.size[i].tolist() == [12 + int(Path(name).stem) % 3, 15]
    assert index.ok.all()
    assert index.reasons == {}


def test_unreadable_images_are_marked_by_number_and_reason_and_stay_black(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", 70)
    bad = ["a/0000.png", "b/0033.png", "b/0069.png"]
    for name in bad:
        (root / name).write_text("I am no image")
    images = open_folder(root)
    for _ in range(2):  # built, then opened
        (opened,) = open_stores(images, [SMALL])
        assert {images.names[i] for i in opened.index.reasons} == set(bad)
        assert {images.names[i] for i in np.flatnonzero(~opened.index.ok)} == set(bad)
        assert all("image" in reason for reason in opened.index.reasons.values())
        assert_whole(opened, images, SMALL)


def test_an_image_that_is_gone_between_listing_and_decoding_is_quarantined(tmp_path: Path) -> None:
    images = open_folder(write_set(tmp_path / "set", 6))
    (tmp_path / "set" / images.names[2]).unlink()
    index = open_stores(images, [SMALL])[0].index
    assert list(index.reasons) == [2]
    assert "No such file" in index.reasons[2]


def test_two_layouts_and_the_index_alone_are_built_in_one_pass(cache: Path) -> None:
    images = Counted(50)
    first, second, index_alone = open_stores(images, [SMALL, OTHER, None])
    assert images.decoded == 50
    assert_whole(first, images, SMALL)
    assert_whole(second, images, OTHER)
    assert index_alone.images is None
    assert len(index_alone.index.ok) == 50
    assert len(folders(cache)) == 3


def test_a_store_is_reused_and_only_what_is_missing_is_built(cache: Path) -> None:
    images, calls = Counted(20), []
    open_stores(images, [SMALL], lambda done, total: calls.append((done, total)))
    assert images.decoded == 20
    assert calls[-1] == (20, 20)
    calls.clear()
    open_stores(images, [SMALL], lambda done, total: calls.append((done, total)))
    assert (images.decoded, calls) == (20, [])
    open_stores(images, [SMALL, OTHER])
    assert images.decoded == 40
    assert len(folders(cache)) == 2


def test_progress_rises_to_the_total() -> None:
    calls: list[tuple[int, int]] = []
    open_stores(Counted(3 * CHUNK + 1), [SMALL], lambda done, total: calls.append((done, total)))
    assert calls == [(CHUNK, 97), (2 * CHUNK, 97), (3 * CHUNK, 97), (97, 97)]


def test_the_pixels_are_mapped_and_read_only() -> None:
    (opened,) = open_stores(Counted(5), [SMALL])
    assert isinstance(opened.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        opened.images[0] = 0


@pytest.mark.parametrize("change", ["content", "added", "deleted", "renamed"])
def test_a_store_is_built_anew_when_a_file_changes(tmp_path: Path, change: str) -> None:
    root = write_set(tmp_path / "set")
    before = np.array(open_stores(open_folder(root), [SMALL])[0].images)
    file = root / "a" / "0004.png"
    if change == "content":
        Image.new("RGB", (15, 13), (9, 8, 7)).save(file)
    elif change == "added":
        Image.new("RGB", (15, 13), (9, 8, 7)).save(root / "a" / "new.png")
    elif change == "deleted":
        file.unlink()
    else:
        file.rename(root / "a" / "zzz.png")
    images = open_folder(root)
    (opened,) = open_stores(images, [SMALL])
    assert_whole(opened, images, SMALL)
    assert opened.images is not None
    assert opened.images.shape != before.shape or not np.array_equal(opened.images, before)


def test_a_change_of_the_same_length_is_noticed(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", 4, format="bmp")
    open_stores(open_folder(root), [SMALL])
    file = root / "a" / "0000.bmp"
    data = bytearray(file.read_bytes())
    data[60:90] = bytes(30)
    file.write_bytes(data)
    images = open_folder(root)
    assert_whole(open_stores(images, [SMALL])[0], images, SMALL)


def test_two_sets_with_the_same_names_lengths_and_times_do_not_share_a_store(tmp_path: Path) -> None:
    roots = [write_set(tmp_path / str(seed), 6, seed, "bmp") for seed in (1, 2)]
    for root in roots:
        for file in root.rglob("*.bmp"):  # as an archive with fixed times unpacks them
            os.utime(file, (1_000_000_000, 1_000_000_000))
    for root in roots:
        images = open_folder(root)
        assert_whole(open_stores(images, [SMALL])[0], images, SMALL)


@pytest.mark.parametrize("layout", [SMALL, None])
@pytest.mark.parametrize(
    "damage", ["index cut", "index gone", "index empty", "ok of fewer", "have of fewer", "pixels cut", "pixels gone"]
)
def test_a_damaged_store_is_built_anew(cache: Path, layout: Layout | None, damage: str) -> None:
    if layout is None and "pixels" in damage:
        return
    images = Counted(10)
    open_stores(images, [layout])
    file = cache / "store" / folders(cache)[0] / ("pixels.u8" if "pixels" in damage else "index.npz")
    if "gone" in damage:
        file.unlink()
    elif "fewer" in damage:
        with np.load(file) as saved:
            key = damage.split()[0]
            arrays = {**saved, key: saved[key][1:].astype(np.float32)}
        np.savez(file, **arrays)
    else:
        os.truncate(file, 0 if "empty" in damage else file.stat().st_size // 2)
    (opened,) = open_stores(images, [layout])
    assert len(opened.index.ok) == 10
    if layout is not None:
        assert_whole(opened, images, layout)


def test_a_builder_that_fails_leaves_nothing(cache: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_stores(Counted(100), [SMALL, OTHER], interrupt)
    assert folders(cache) == []
    images = Counted(100)
    assert_whole(open_stores(images, [SMALL])[0], images, SMALL)


# images that are asked for later


def assert_holds(opened: Store, images: ImageSet, layout: Layout, numbers: Collection[int]) -> None:
    """The images of these numbers are there, and nothing else is."""
    assert opened.images is not None
    assert np.flatnonzero(opened.have).tolist() == sorted(numbers)
    expected = direct(images, layout)
    expected[~opened.have] = 0
    np.testing.assert_array_equal(opened.images, expected)


FEW = [0, 1, 2, 5, 33, 34, 69]
MORE = [2, 3, 4, 40, 68, 69]


def ask(
    images: ImageSet, *numbers: Collection[int], progress: store.Progress = lambda done, total: None
) -> list[Store]:
    """The stores of SMALL and OTHER for these images."""
    layouts = [SMALL, OTHER][: len(numbers)]
    return open_stores(images, layouts, progress, [np.array(part, np.int64) for part in numbers])


def test_only_the_images_that_are_asked_for_are_stored_and_each_is_decoded_once() -> None:
    images = Counted(70)
    small, other = ask(images, FEW, MORE)
    assert sorted(images.calls) == list(range(70))  # all of them are tried: the index is of the whole set
    assert small.index.ok.all()
    assert_holds(small, images, SMALL, FEW)
    assert_holds(other, images, OTHER, MORE)


def test_what_is_asked_for_later_is_added_and_nothing_is_decoded_twice() -> None:
    images, calls = Counted(70), []
    ask(images, FEW, MORE)
    images.calls.clear()
    ask(images, FEW[:3], MORE)
    assert images.calls == []
    small, other = ask(images, MORE, MORE, progress=lambda done, total: calls.append((done, total)))
    assert sorted(images.calls) == [3, 4, 40, 68]
    assert calls == [(4, 4)]
    assert_holds(small, images, SMALL, {*FEW, *MORE})
    assert_holds(other, images, OTHER, MORE)
    images.calls.clear()
    (small,) = open_stores(images, [SMALL])
    assert_whole(small, images, SMALL)
    assert small.have.all()
    assert len(images.calls) == 70 - len({*FEW, *MORE})


def test_a_second_layout_takes_the_index_of_the_first_and_decodes_what_it_needs() -> None:
    images = Counted(70)
    ask(images, FEW)
    images.calls.clear()
    small, other = ask(images, FEW, MORE)
    assert sorted(images.calls) == MORE
    assert_holds(other, images, OTHER, MORE)
    np.testing.assert_array_equal(other.index.digest, small.index.digest)


def test_a_first_layout_takes_the_index_of_the_second() -> None:
    images = Counted(70)
    open_stores(images, [OTHER], numbers=[np.array(MORE)])
    images.calls.clear()
    ask(images, FEW, MORE)
    assert sorted(images.calls) == FEW


def test_a_mask_of_another_size_is_found_also_where_its_image_is_not_stored() -> None:
    images = Counted(70)
    images.pixel_classes = ["a", "b"]
    images.load_mask = lambda index: Image.new("L", (16, 16 + (index == 3)))  # type: ignore[method-assign]
    (opened,) = ask(images, FEW)
    assert list(opened.index.reasons) == [3]


def test_what_a_killed_builder_of_another_set_left_is_removed(cache: Path) -> None:
    open_stores(Counted(3), [SMALL])
    (cache / "store" / "0123.building").mkdir()
    open_stores(Counted(4), [SMALL])
    assert len(folders(cache)) == 2
    assert not any(".building" in name for name in folders(cache))


def test_the_refusal_names_what_is_still_to_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = Layout(1000, 1000, "RGB")
    images = Counted(20)
    open_stores(images, [big], numbers=[np.arange(15)])
    usage = shutil.disk_usage(cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(DataError, match=r"for 0\.02 GB"):
        open_stores(images, [big])
    (opened,) = open_stores(images, [big], numbers=[np.arange(15)])
    assert_holds(opened, images, big, range(15))


def test_an_open_map_keeps_its_images_while_others_are_added() -> None:
    images = Counted(70)
    (before,) = ask(images, FEW)
    assert before.images is not None
    held = before.images[FEW].copy()
    ask(images, MORE)
    np.testing.assert_array_equal(before.images[FEW], held)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems may not leave holes")
def test_images_that_are_not_there_take_no_room(cache: Path) -> None:
    big = Layout(128, 128, "RGB")
    open_stores(Counted(64), [big], numbers=[np.array([3, 50])])
    (file,) = cache.glob("store/*/pixels.u8")
    assert file.stat().st_size == 64 * big.bytes_per_image
    assert file.stat().st_blocks * 512 < 6 * big.bytes_per_image


def test_an_addition_that_is_interrupted_leaves_the_store_as_it_was() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    images = Counted(70)
    ask(images, FEW, FEW)
    with pytest.raises(KeyboardInterrupt):
        ask(images, MORE, MORE, progress=interrupt)
    images.calls.clear()
    for opened, layout in zip(ask(images, FEW, FEW), [SMALL, OTHER], strict=True):
        assert np.flatnonzero(opened.have).tolist() == FEW
        assert opened.images is not None
        np.testing.assert_array_equal(opened.images[FEW], direct(images, layout)[FEW])
    assert images.calls == []
    for opened, layout in zip(ask(images, MORE, MORE), [SMALL, OTHER], strict=True):
        assert_holds(opened, images, layout, {*FEW, *MORE})


def test_unreadable_images_are_tried_once_and_never_there(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", 70)
    images = open_folder(root)
    (root / images.names[5]).write_text("I am no image")
    images = open_folder(root)
    for _ in range(2):
        (opened,) = ask(images, FEW)
        assert list(opened.index.reasons) == [5]
        assert_holds(opened, images, SMALL, sorted({*FEW} - {5}))


def test_an_image_that_could_be_read_before_and_cannot_now_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Counted(70)
    ask(images, FEW)

    def fail(data: bytes, index: int) -> Image.Image:
        raise DataError("the disk is dying")

    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", fail)
        with pytest.raises(DataError, match=r"^3 could be read before and cannot now: the disk is dying\."):
            ask(images, MORE)
    assert_holds(ask(images, MORE)[0], images, SMALL, {*FEW, *MORE})


def test_an_image_that_is_another_than_its_index_says_is_named() -> None:
    images = Counted(70)
    ask(images, FEW)
    images.data[4] = images.data[5]
    with pytest.raises(DataError, match=r"^4 was changed or removed"):
        ask(images, MORE)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems may not leave holes")
def test_room_that_a_killed_addition_took_is_not_asked_for_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = Layout(256, 256, "RGB")
    images = Counted(64)
    open_stores(images, [big], numbers=[np.arange(4)])
    (file,) = cache.glob("store/*/pixels.u8")
    with open(file, "r+b") as cut_off:
        cut_off.seek(4 * big.bytes_per_image)
        cut_off.write(bytes(60 * big.bytes_per_image))
        os.fsync(cut_off.fileno())
    usage = shutil.disk_usage(cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    (opened,) = open_stores(images, [big])
    assert_whole(opened, images, big)


def test_two_stores_that_disagree_on_what_can_be_read_are_brought_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that failed by chance in one of them is there in both, or an error says that it is not."""
    images = Counted(70)
    decode = images.decode

    def fail_once(data: bytes, index: int) -> Image.Image:
        if index == 33:
            raise DataError("by chance")
        return decode(data, index)

    ask(images, FEW)
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", fail_once)
        (opened,) = open_stores(images, [OTHER], numbers=[np.array(FEW)])
        assert not opened.index.ok[33]
    small, other = ask(images, FEW, FEW)
    assert_holds(small, images, SMALL, FEW)
    assert_holds(other, images, OTHER, FEW)


def test_an_array_has_the_same_index_as_its_store() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 6, 3), dtype=np.uint8)
    dataset = ArraySet(images, np.arange(9) % 3, ["a", "b", "c"])
    quick, (opened,) = index_array(dataset), open_stores(dataset, [Layout(5, 6, "RGB")])
    np.testing.assert_array_equal(quick.digest, opened.index.digest)
    np.testing.assert_array_equal(quick.size, opened.index.size)
    assert len(np.unique(quick.digest, axis=0)) == 9
    assert opened.images is not None
    np.testing.assert_array_equal(opened.images[..., :3], images)


def peak(count: int) -> int:
    """Most bytes that Python and numpy held while a store of `count` images was built."""
    images = Counted(count, side=8)
    tracemalloc.start()
    open_stores(images, [Layout(32, 32, "RGB")])  # 4 KiB an image
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    peak(CHUNK)  # what is loaded once
    base = 8 * CHUNK  # more than stands in the queue of two threads
    few, many = peak(base), peak(4 * base)
    pixels = 3 * base * 4096  # what it would cost to hold the images that are more
    assert many - few < pixels / 2  # the fill of the queue, six tasks at the most, is a quarter of it


# several processes


def start(work: Callable[..., None], *arguments: object) -> tuple[multiprocessing.Process, Connection]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()  # type: ignore[attr-defined]
    theirs.close()
    return process, ours  # type: ignore[return-value]


def build_slowly(pipe: Connection, root: Path, begin: float) -> None:
    images = open_folder(root)
    decode, decoded = images.decode, []

    def slow(data: bytes, index: int) -> Image.Image:
        decoded.append(index)
        time.sleep(0.002)
        return decode(data, index)

    images.decode = slow  # type: ignore[method-assign]
    time.sleep(max(0, begin - time.time()))
    (opened,) = open_stores(images, [SMALL])
    pipe.send((len(decoded), hashlib.sha256(opened.images).hexdigest()))


@needs_fork
def test_of_two_builders_at_once_one_builds_and_both_get_the_whole(tmp_path: Path, cache: Path) -> None:
    images = open_folder(write_set(tmp_path / "set", 60))
    begin = time.time() + 0.2
    started = [start(build_slowly, tmp_path / "set", begin) for _ in range(3)]
    results = []
    for process, pipe in started:
        assert pipe.poll(30)
        results.append(pipe.recv())
        process.join(30)
    assert sorted(decoded for decoded, _ in results) == [0, 0, 60]
    assert {digest for _, digest in results} == {hashlib.sha256(direct(images, SMALL)).hexdigest()}
    assert len(folders(cache)) == 1


def build_until(pipe: Connection, root: Path, moment: str) -> None:
    """Build, and stand still at one moment, waiting for the signal."""

    def stand(*_: object) -> None:
        pipe.send(moment)
        time.sleep(60)

    renames, save = [], store._save_index
    replace = os.replace

    def replace_once(source: Path, target: Path) -> None:
        if Path(source).is_dir():  # not the index, that is written beside the old one
            if moment == "before the first rename" or renames:
                stand()
            renames.append(target)
        replace(source, target)

    def progress(done: int, total: int) -> None:
        if moment == "after the first images" or (moment == "after the last image" and done == total):
            stand()

    def save_half(index: store.Index, have: np.ndarray, path: Path) -> None:
        save(index, have, path)
        if moment == "while the index is written":
            os.truncate(path, path.stat().st_size // 2)
            stand()

    if "rename" in moment:
        os.replace = replace_once  # type: ignore[assignment]
    store._save_index = save_half  # type: ignore[assignment]
    open_stores(open_folder(root), [SMALL, OTHER], progress)


MOMENTS = [
    "after the first images",
    "after the last image",
    "while the index is written",
    "before the first rename",
    "between two renames",
]


@needs_fork
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_builder_leaves_room_for_a_whole_store(tmp_path: Path, cache: Path, moment: str) -> None:
    images = open_folder(write_set(tmp_path / "set", 70))
    process, pipe = start(build_until, tmp_path / "set", moment)
    assert pipe.poll(30)
    assert pipe.recv() == moment
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    left = folders(cache)
    assert any(name.endswith(".building") for name in left)
    finished = [name for name in left if not name.endswith(".building")]
    assert len(finished) == (moment == "between two renames")
    small, other = open_stores(images, [SMALL, OTHER])
    assert_whole(small, images, SMALL)
    assert_whole(other, images, OTHER)
    assert len(folders(cache)) == 2
    assert not any(name.endswith(".building") for name in folders(cache))


def add_until(pipe: Connection, root: Path, moment: str) -> None:
    """Add images to two stores, and stand still at one moment, waiting for the signal."""

    def stand(*_: object) -> None:
        pipe.send(moment)
        time.sleep(60)

    save, saved = store._save_index, []

    def save_once(index: store.Index, have: np.ndarray, path: Path) -> None:
        if moment == "before the first index" or saved:
            stand()
        saved.append(path)
        save(index, have, path)

    store._save_index = save_once  # type: ignore[assignment]
    ask(open_folder(root), MORE, MORE, progress=stand if moment == "after the last image" else lambda *_: None)


@needs_fork
@pytest.mark.parametrize("moment", ["after the last image", "before the first index", "between two indexes"])
def test_a_kill_while_images_are_added_loses_none(tmp_path: Path, moment: str) -> None:
    images = open_folder(write_set(tmp_path / "set", 70))
    ask(images, FEW, FEW)
    process, pipe = start(add_until, tmp_path / "set", moment)
    assert pipe.poll(30)
    assert pipe.recv() == moment
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    small, other = ask(images, FEW, FEW)
    assert np.flatnonzero(other.have).tolist() == FEW
    assert small.have[MORE].all() == (moment == "between two indexes")
    for opened, layout in ((small, SMALL), (other, OTHER)):
        assert opened.images is not None
        np.testing.assert_array_equal(opened.images[opened.have], direct(images, layout)[opened.have])
    for opened, layout in zip(ask(images, MORE, MORE), [SMALL, OTHER], strict=True):
        assert_holds(opened, images, layout, {*FEW, *MORE})


def add_slowly(pipe: Connection, root: Path, begin: float, numbers: list[int]) -> None:
    time.sleep(max(0, begin - time.time()))
    (opened,) = ask(open_folder(root), numbers)
    assert opened.images is not None
    pipe.send((opened.have[numbers].all(), opened.images[numbers]))


@needs_fork
def test_two_that_add_at_once_both_get_theirs(tmp_path: Path) -> None:
    images = open_folder(write_set(tmp_path / "set", 70))
    whole = direct(images, SMALL)
    begin = time.time() + 0.2
    parts = [FEW, MORE, list(range(20, 60)), list(range(10))]
    started = [start(add_slowly, tmp_path / "set", begin, part) for part in parts]
    for (process, pipe), part in zip(started, parts, strict=True):
        assert pipe.poll(30)
        there, pixels = pipe.recv()
        process.join(30)
        assert there
        np.testing.assert_array_equal(pixels, whole[part])
    assert_holds(ask(images, [])[0], images, SMALL, set().union(*parts))


# no room, no permission


def test_no_space_left_is_one_line_with_the_need_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(DataError) as caught:
        open_stores(Counted(100), [Layout(100, 100, "RGB")])
    text = str(caught.value)
    assert "no space left" in text
    assert str(cache) in text
    assert "CNNLAB_CACHE" in text
    assert "\n" not in text
    assert folders(cache) == []


def build_on_a_small_disk(pipe: Connection, disk: Path, side: int) -> None:
    """Build on a file system of 1 MiB of our own that something else fills meanwhile."""
    new_mounts, private = 0x00020000, 1 << 18 | 1 << 14  # CLONE_NEWNS; MS_PRIVATE | MS_REC
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_mounts) or libc.mount(b"none", b"/", None, private, None):
        pipe.send(None)
        return
    if libc.mount(b"tmpfs", bytes(disk), b"tmpfs", 0, b"size=1m"):
        pipe.send(None)
        return

    def fill(done: int, total: int) -> None:
        with open(disk / "other", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC

    os.environ["CNNLAB_CACHE"] = str(disk / "cache")
    try:
        open_stores(Counted(200), [Layout(side, side, "RGB")], fill)
    except BaseException as error:
        pipe.send((type(error).__name__, str(error), folders(disk / "cache")))
    else:
        pipe.send(("nothing", "", folders(disk / "cache")))


@needs_fork
@pytest.mark.parametrize("side", [4, 32])  # a task's pixels are less or more than a file's buffer
def test_a_disk_that_fills_up_half_way_is_one_line_and_leaves_nothing(tmp_path: Path, side: int) -> None:
    (tmp_path / "disk").mkdir()
    process, pipe = start(build_on_a_small_disk, tmp_path / "disk", side)
    assert pipe.poll(30)
    answer = pipe.recv()
    process.join(30)
    if answer is None:
        pytest.skip("no right to mount a small file system")
    name, text, left = answer
    assert name == "DataError"
    assert "no space left" in text
    assert left == []


@pytest.mark.parametrize("below", ["", "deeper", "store"])
def test_a_file_in_the_place_of_the_cache_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    file = tmp_path / "file"
    if below == "store":
        file = tmp_path / "store"
    file.write_text("in the way")
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path if below == "store" else file / below))
    with pytest.raises(DataError) as caught:
        open_stores(Counted(3), [SMALL])
    assert "CNNLAB_CACHE" in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert file.read_text() == "in the way"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_cache_without_permission_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path / "locked" / "cache"))
    with pytest.raises(DataError, match="CNNLAB_CACHE"):
        open_stores(Counted(3), [SMALL])


def test_an_empty_variable_is_no_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "home"))
    monkeypatch.setenv("CNNLAB_CACHE", "")
    assert store.cache_folder() == tmp_path / "home" / "cnnlab"


def test_random_crops_are_taken_from_the_whole_of_a_wide_image(tmp_path: Path) -> None:
    """The edges that evaluation crops off are there for training."""
    wide = np.full((64, 192, 3), 128, np.uint8)
    wide[:, :16], wide[:, -16:] = (255, 0, 0), (0, 0, 255)  # red at the left edge, blue at the right one
    for name in ("a", "b"):
        for i in range(4):
            (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(wide).save(tmp_path / "train" / name / f"{i}.png")
    words = ["data=folder", f"data.root={tmp_path}", "data.image_size=64", "augment=standard", "data.val_fraction=0.25"]
    data = build_data(compose(words), torch.device("cpu"))
    stored, seen = data.train.pixels[data.split.train], data.val.pixels[data.split.val]
    assert stored.shape[1] > seen.shape[1]  # larger than what is cut out of it
    assert (stored[:, :, 0, 0] > 200).all() and (stored[:, :, -1, 2] > 200).all()
    assert not (seen[..., 0].int() - seen[..., 1] > 100).any()
