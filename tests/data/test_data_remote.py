"""A data root in a bucket: copied once, whole files, and the same set as on a disk."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from cnnlab.data.load import load_data
from cnnlab.data.remote import local_root
from cnnlab.errors import DataError
from small_sets import write_mnist

if TYPE_CHECKING:
    from buckets import Bucket, WatchedFileSystem
    from conftest import CommandLine

KEYS = {"image_size": 8, "val_fraction": 0.25, "test_fraction": 0.25}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set") / "photos"
    numbers = np.random.Generator(np.random.PCG64(0))
    for label in ("cats & dogs", "fish #1", "vögel"):
        (root / label).mkdir(parents=True)
        for i in range(8):
            pixels = numbers.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i} 100%.png")
    return root


@pytest.fixture
def uploaded(photos: Path, watched_files: type[WatchedFileSystem]) -> str:
    for file in photos.rglob("*.png"):
        watched_files().pipe_file(f"/bucket/photos/{file.relative_to(photos).as_posix()}", file.read_bytes())
    watched_files().pipe_file("/bucket/elsewhere.txt", b"not below the root")
    return "watched://bucket/photos"


def count_gets(files: type[WatchedFileSystem]) -> list[str]:
    gets: list[str] = []
    files.before = staticmethod(lambda verb, path: gets.append(path) if verb == "get" else None)  # type: ignore
    return gets


def refuse(verb: str, message: str = "the network is down") -> staticmethod:  # type: ignore[type-arg]
    def before(kind: str, path: str) -> None:
        if kind == verb:
            raise ConnectionError(message)

    return staticmethod(before)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnlab.remote.time.sleep", lambda seconds: None)


def test_a_set_in_a_bucket_is_the_set_on_the_disk(uploaded: str, photos: Path, new_machine: Callable[[], Path]) -> None:
    ours, theirs = (load_data("folder", root=root, **KEYS) for root in (uploaded, photos))
    assert ours.manifest == theirs.manifest
    assert ours.preprocess == theirs.preprocess
    assert ours.config.data.root == uploaded
    for (images, labels), (same, too) in zip(ours.train, theirs.train, strict=True):
        assert images.equal(same) and labels.equal(too)


def test_a_run_from_a_bucket_on_the_emulator_is_tested_on_another_machine(
    command: CommandLine, bucket: Bucket, photos: Path, tmp_path: Path
) -> None:
    bucket.write_tree(photos, "sets/photos")
    one, two = ({**bucket.environment, "CNNLAB_CACHE": str(tmp_path / name)} for name in ("one", "two"))
    keys = ["data=folder", "data.image_size=8", "model=mlp", "trainer.epochs=1", "trainer.batch_size=4", "augment=none"]
    keys += ["data.val_fraction=0.25", "data.test_fraction=0.25", "logger.tensorboard=false"]
    root = f"data.root={bucket.address}/sets/photos"
    result = command("train", *keys, root, f"run.dir={tmp_path / 'run'}", environment=one)
    assert result.code == 0, result.err
    assert (
        json.loads((tmp_path / "run" / "split.json").read_text()) == load_data("folder", root=photos, **KEYS).manifest
    )
    assert str(tmp_path / "one") not in (tmp_path / "run" / "config.yaml").read_text()
    before = (tmp_path / "run" / "predictions.csv").read_bytes()
    (tmp_path / "run" / "predictions.csv").unlink()
    result = command("test", tmp_path / "run", environment=two)
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "predictions.csv").read_bytes() == before
    assert len(list((tmp_path / "two").glob("data/*/photos/*/*.png"))) == 24


def test_files_are_fetched_once_and_what_changed_anew(
    uploaded: str, watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    gets = count_gets(watched_files)
    folder = local_root(uploaded)
    assert len(gets) == 24
    assert not (folder.parent / "elsewhere.txt").exists()
    gets.clear()
    local_root(uploaded)
    assert gets == []
    other = bytes(reversed((folder / "vögel" / "0 100%.png").read_bytes()))  # of the same size
    watched_files().pipe_file("/bucket/photos/vögel/0 100%.png", other)
    watched_files().rm_file("/bucket/photos/vögel/1 100%.png")
    (folder / "vögel" / "2 100%.png").write_bytes(b"cut")
    local_root(uploaded)
    assert sorted(path.rpartition("/")[2] for path in gets) == ["0 100%.png", "2 100%.png"]
    assert (folder / "vögel" / "0 100%.png").read_bytes() == other
    assert len(list((folder / "vögel").iterdir())) == 7


def test_a_copy_that_was_cut_off_goes_on_and_is_never_taken_for_whole(
    uploaded: str, watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    gets = count_gets(watched_files)

    def break_down(verb: str, path: str) -> None:
        if verb == "get":
            if len(gets) > 12 and "fish" not in path:
                raise ConnectionError("the network is down")
            gets.append(path)

    watched_files.before = staticmethod(break_down)  # type: ignore
    with pytest.raises(DataError, match="the network is down"):
        local_root(uploaded)
    arrived = set(gets)
    assert len(arrived) < 24
    watched_files.before = refuse("find")
    with pytest.raises(DataError):
        local_root(uploaded)
    with pytest.raises(DataError, match="has not been copied"):
        local_root(uploaded, fetch=False)
    gets = count_gets(watched_files)
    folder = local_root(uploaded)
    assert set(gets).isdisjoint(arrived)
    assert len([file for file in folder.rglob("*") if file.is_file()]) == 24
    assert local_root(uploaded, fetch=False) == folder


def test_a_copy_that_was_half_renewed_is_not_taken_for_whole(
    uploaded: str, watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    local_root(uploaded)
    for name in ("new.png", "newer.png"):
        watched_files().pipe_file(f"/bucket/photos/vögel/{name}", b"image")

    def break_down(verb: str, path: str) -> None:
        if verb == "get" and path.endswith("newer.png"):
            raise ConnectionError("the network is down")

    watched_files.before = staticmethod(break_down)  # type: ignore
    for _ in range(2):
        with pytest.raises(DataError, match="the network is down"):
            local_root(uploaded)
    with pytest.raises(DataError, match="has not been copied"):
        local_root(uploaded, fetch=False)


def test_a_file_that_arrives_short_is_not_kept(
    uploaded: str, watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    def shorten(verb: str, path: str) -> None:
        if verb == "get" and "0 100%" in path:
            Path(path).write_bytes(Path(path).read_bytes()[:-1])

    watched_files.after = staticmethod(shorten)  # type: ignore
    with pytest.raises(DataError, match=r"bytes of [\d,]+ arrived"):
        local_root(uploaded)
    root = next((new_machine().parent / "machine-0").glob("data/*/photos"))
    assert not list(root.rglob("0 100%.png")) and not list(root.rglob("*.tmp"))


def test_a_file_whose_checksum_is_wrong_is_not_kept(bucket: Bucket, new_machine: Callable[[], Path]) -> None:
    from cnnlab.remote import RemoteFile, _check, _crc32c, _md5

    file = new_machine() / "file"
    file.parent.mkdir()
    file.write_bytes(b"hello")
    assert _md5(file) == "XUFAKrxLKna5cZ2REBfFkg==" and _crc32c(file) == "mnG7TA=="  # as the bucket itself says
    _check(file, RemoteFile("file", 5, "", md5="XUFAKrxLKna5cZ2REBfFkg=="))
    for sums in ({"md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, {"crc32c": "AAAAAA=="}):
        with pytest.raises(Exception, match="checksum"):
            _check(file, RemoteFile("file", 5, "", **sums))


def test_without_the_network_a_whole_copy_is_used_and_said_so(
    uploaded: str,
    watched_files: type[WatchedFileSystem],
    new_machine: Callable[[], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = load_data("folder", root=uploaded, **KEYS).manifest
    capsys.readouterr()
    watched_files.before = refuse("find")
    assert load_data("folder", root=uploaded, **KEYS).manifest == before
    assert "warning: cannot reach watched://bucket/photos (the network is down)" in capsys.readouterr().err
    new_machine()
    with pytest.raises(DataError, match="the network is down"):
        load_data("folder", root=uploaded, **KEYS)


def test_only_the_folder_of_the_set_is_copied(
    watched_files: type[WatchedFileSystem], tmp_path: Path, new_machine: Callable[[], Path]
) -> None:
    root = write_mnist(tmp_path / "sets")
    for file in root.rglob("*ubyte"):
        watched_files().pipe_file(f"/bucket/sets/{file.relative_to(root).as_posix()}", file.read_bytes())
    watched_files().pipe_file("/bucket/sets/caltech101/large.tar", b"0" * 1000)
    gets = count_gets(watched_files)
    data = load_data("mnist", root="watched://bucket/sets")
    assert data.manifest == load_data("mnist", root=str(root)).manifest
    assert len(gets) == 4
    with pytest.raises(DataError, match=r"no images below watched://bucket/sets/FashionMNIST"):
        load_data("fashion_mnist", root="watched://bucket/sets")


@pytest.mark.parametrize("name", ["../outside.png", "a/../../outside.png", "a//b.png", "a\\..\\b.png"])
def test_a_name_that_would_leave_the_copy_is_refused(
    name: str, watched_files: type[WatchedFileSystem], tmp_path: Path, new_machine: Callable[[], Path]
) -> None:
    watched_files.store[f"/bucket/photos/{name}"] = watched_files().open("/bucket/photos/x", "wb")
    with pytest.raises(DataError, match="which no folder can"):
        local_root("watched://bucket/photos")
    assert not list(tmp_path.rglob("*.png"))


def test_errors_name_the_address_and_not_the_copy(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    watched_files().pipe_file("/bucket/photos/one/a.png", b"")
    with pytest.raises(DataError, match=r"^watched://bucket/photos has one class, 'one'"):
        load_data("folder", root="watched://bucket/photos")
    with pytest.raises(DataError, match="no images below watched://bucket/empty"):
        load_data("folder", root="watched://bucket/empty")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def web(photos: Path) -> Iterator[str]:
    """The folder above the images, as a file server lists it."""
    handler = functools.partial(Quiet, directory=str(photos.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_file_server_is_read_too(web: str, photos: Path, new_machine: Callable[[], Path]) -> None:
    pytest.importorskip("aiohttp")
    ours, theirs = (load_data("folder", root=root, **KEYS) for root in (f"{web}/photos", photos))
    assert ours.manifest == theirs.manifest
    with pytest.raises(DataError, match="nothing at"):
        load_data("folder", root=f"{web}/phots", **KEYS)


def test_a_file_address_is_a_folder_here(photos: Path, new_machine: Callable[[], Path]) -> None:
    assert load_data("folder", root=f"file://{photos}", **KEYS).num_classes == 3


def test_no_room_is_said_before_anything_is_fetched(
    uploaded: str,
    watched_files: type[WatchedFileSystem],
    new_machine: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gets = count_gets(watched_files)
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr("cnnlab.remote.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="no space left"):
        local_root(uploaded)
    assert gets == []
