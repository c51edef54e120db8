"""torchvision's own downloads, from a server on this machine: whole, with a wrong checksum, and broken off."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from cnnlab.config import DataConfig
from cnnlab.data.sources import open_images
from cnnlab.data.sources.base import ImageSet
from cnnlab.errors import DataError

RANDOM = np.random.default_rng(5)
GREY = RANDOM.integers(0, 256, (20, 28, 28), dtype=np.uint8)
GREY_TEST = RANDOM.integers(0, 256, (10, 28, 28), dtype=np.uint8)
LABELS = (np.arange(20) % 10).astype(np.uint8)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COLOUR = RANDOM.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)  # five batches of 4 and a test batch of 10


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def idx_gz(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


MNIST_FILES = {
    "train-images-idx3-ubyte.gz": idx_gz(GREY),
    "train-labels-idx1-ubyte.gz": idx_gz(LABELS),
    "t10k-images-idx3-ubyte.gz": idx_gz(GREY_TEST),
    "t10k-labels-idx1-ubyte.gz": idx_gz(LABELS[:10]),
}
LAST = "t10k-labels-idx1-ubyte.gz"


def cifar_files() -> dict[str, bytes]:
    parts: dict[str, object] = {"batches.meta": {"label_names": CLASSES}}
    for i, name in enumerate([f"data_batch_{k}" for k in range(1, 6)]):
        rows = COLOUR[4 * i : 4 * i + 4].transpose(0, 3, 1, 2).reshape(4, -1)
        parts[name] = {"data": rows, "labels": [(4 * i + k) % 10 for k in range(4)]}
    parts["test_batch"] = {"data": COLOUR[20:].transpose(0, 3, 1, 2).reshape(10, -1), "labels": list(range(10))}
    return {name: pickle.dumps(part) for name, part in parts.items()}


CIFAR_FILES = cifar_files()


def cifar_archive(comment: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo(f"cifar-10-batches-py/{comment}.txt"))
        for name, data in CIFAR_FILES.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


ARCHIVE = cifar_archive()


class Site:
    """What the server gives. `broken` maps a path to how it breaks: "short", "chunked", "reset" or "nonsense"."""

    def __init__(self) -> None:
        self.files = {f"/mnist/{name}": data for name, data in MNIST_FILES.items()}
        self.files["/cifar-10-python.tar.gz"] = ARCHIVE
        self.broken: dict[str, str] = {}
        self.asked: list[str] = []
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.site.asked.append(self.path)
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        data, how = self.site.files.get(self.path), self.site.broken.get(self.path) if body else None
        if data is None:
            self.send_error(404)
            return
        self.close_connection = True
        if how == "reset":
            return
        if how == "nonsense":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
            return
        if how == "chunked":  # a server that is gone in the middle of such an answer
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            self.wfile.write(head + f"{len(data):x}\r\n".encode() + data[: len(data) // 2])
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if how == "short" else data)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server on 127.0.0.1, and torchvision's addresses and checksums pointed at what it serves."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for dataset in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(dataset, "mirrors", [f"{site.address}/mnist/"])
        monkeypatch.setattr(dataset, "resources", [(name, md5(data)) for name, data in MNIST_FILES.items()])
    cifar = torchvision.datasets.CIFAR10
    sums = {name: md5(data) for name, data in CIFAR_FILES.items()}
    monkeypatch.setattr(cifar, "url", f"{site.address}/cifar-10-python.tar.gz")
    monkeypatch.setattr(cifar, "tgz_md5", md5(ARCHIVE))
    monkeypatch.setattr(cifar, "train_list", [[f"data_batch_{k}", sums[f"data_batch_{k}"]] for k in range(1, 6)])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": sums["batches.meta"]})
    yield site
    server.shutdown()
    server.server_close()


def fetch(name: str, root: Path, download: bool = True) -> ImageSet:
    return open_images(DataConfig(name=name, root=str(root), download=download))


def refused(name: str, root: Path) -> str:
    """The one line that a failed download gives."""
    with pytest.raises(DataError) as caught:
        fetch(name, root)
    text = str(caught.value)
    assert name in text
    assert str(root) in text
    assert "\n" not in text
    return text


def assert_mnist(images: ImageSet) -> None:
    assert images.array is not None
    assert images.official is not None
    assert images.official.tolist() == ["train"] * 20 + ["test"] * 10
    np.testing.assert_array_equal(images.array, np.concatenate([GREY, GREY_TEST]))
    np.testing.assert_array_equal(images.labels, [*LABELS, *LABELS[:10]])


def assert_cifar(images: ImageSet) -> None:
    assert images.official is not None
    assert images.official.tolist() == ["train"] * 20 + ["test"] * 10
    assert list(images.classes) == CLASSES
    np.testing.assert_array_equal(images.array, COLOUR)
    np.testing.assert_array_equal(images.labels, [*(i % 10 for i in range(20)), *range(10)])


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_is_fetched_once_and_read_back(site: Site, tmp_path: Path, name: str) -> None:
    assert_mnist(fetch(name, tmp_path))
    assert set(site.asked) == {f"/mnist/{file}" for file in MNIST_FILES}
    site.asked.clear()
    assert_mnist(fetch(name, tmp_path))
    assert_mnist(fetch(name, tmp_path, download=False))
    assert site.asked == []


def test_cifar10_is_fetched_once_and_read_back(site: Site, tmp_path: Path) -> None:
    assert_cifar(fetch("cifar10", tmp_path / "new" / "root"))
    site.asked.clear()
    assert_cifar(fetch("cifar10", tmp_path / "new" / "root"))
    assert_cifar(fetch("cifar10", tmp_path / "new" / "root", download=False))
    assert site.asked == []


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "caltech101"])
def test_without_download_a_missing_set_is_one_line_and_nothing_is_written(
    site: Site, tmp_path: Path, name: str
) -> None:
    with pytest.raises(DataError) as caught:
        fetch(name, tmp_path, download=False)
    text = str(caught.value)
    assert text.startswith(f"{name} is not below {tmp_path}")
    assert "data.root" in text
    assert "data.download=true" in text
    assert "\n" not in text
    assert site.asked == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", list(MNIST_FILES))
def test_a_wrong_checksum_of_mnist_is_refused_each_time_until_the_file_is_right(
    site: Site, tmp_path: Path, broken: str
) -> None:
    good = site.files[f"/mnist/{broken}"]
    other = idx_gz(np.zeros_like(GREY if "images" in broken else LABELS)[: 20 if "train" in broken else 10])
    site.files[f"/mnist/{broken}"] = other  # a whole IDX file, but not the published one
    refused("mnist", tmp_path)
    refused("mnist", tmp_path)
    site.files[f"/mnist/{broken}"] = good
    assert_mnist(fetch("mnist", tmp_path))


def test_a_wrong_checksum_of_cifar10_is_refused_each_time_until_the_file_is_right(site: Site, tmp_path: Path) -> None:
    site.files["/cifar-10-python.tar.gz"] = cifar_archive("another set")
    refused("cifar10", tmp_path)
    refused("cifar10", tmp_path)
    site.files["/cifar-10-python.tar.gz"] = ARCHIVE
    assert_cifar(fetch("cifar10", tmp_path))


@pytest.mark.parametrize("how", ["short", "chunked", "reset", "nonsense"])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte.gz", LAST])
def test_an_mnist_server_gone_in_the_middle_is_one_line_and_the_next_try_goes_on(
    site: Site, tmp_path: Path, how: str, file: str
) -> None:
    site.broken[f"/mnist/{file}"] = how
    refused("mnist", tmp_path)
    site.broken.clear()
    assert_mnist(fetch("mnist", tmp_path))


def test_a_download_of_mnist_that_was_killed_goes_on(site: Site, tmp_path: Path) -> None:
    fetch("mnist", tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    (raw / LAST).with_suffix("").unlink()
    (raw / LAST).write_bytes(MNIST_FILES[LAST][:20])
    assert_mnist(fetch("mnist", tmp_path))


@pytest.mark.parametrize("how", ["short", "chunked", "reset", "nonsense"])
def test_a_cifar_server_gone_in_the_middle_is_one_line_and_the_next_try_goes_on(
    site: Site, tmp_path: Path, how: str
) -> None:
    site.broken["/cifar-10-python.tar.gz"] = how
    refused("cifar10", tmp_path)
    site.broken.clear()
    assert_cifar(fetch("cifar10", tmp_path))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_server_that_is_not_there_or_has_no_such_file_is_one_line(
    site: Site, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files.clear()
    assert "404" in refused(name, tmp_path)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # the discard port: closed
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    refused(name, tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_root_that_cannot_be_written_is_one_line(site: Site, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(name, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_damaged_file_of_cifar10_is_refused_without_download_and_fetched_again_with_it(
    site: Site, tmp_path: Path
) -> None:
    fetch("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"")
    with pytest.raises(DataError):
        fetch("cifar10", tmp_path, download=False)
    assert_cifar(fetch("cifar10", tmp_path))


def test_a_file_of_mnist_cut_short_on_disk_is_named(site: Site, tmp_path: Path) -> None:
    fetch("mnist", tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        fetch("mnist", tmp_path)


def test_words_about_a_download_leave_standard_output_alone(
    site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch("mnist", tmp_path)
    printed = capfd.readouterr()
    assert printed.out == ""  # `cnnlab data mnist --json` prints its answer there
    assert "mnist" in printed.err


# ---- Caltech-101


def caltech_archive() -> bytes:
    """As the publisher packs it: a zip that holds a tar.gz of the class folders."""
    inner, outer = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for i, label in enumerate(("BACKGROUND_Google", "cat", "dog")):
            for number in range(1, 4):
                image = io.BytesIO()
                Image.fromarray(COLOUR[3 * i + number]).save(image, "JPEG")
                entry = tarfile.TarInfo(f"101_ObjectCategories/{label}/image_{number:04}.jpg")
                entry.size = len(image.getvalue())
                archive.addfile(entry, io.BytesIO(image.getvalue()))
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("caltech-101/101_ObjectCategories.tar.gz", inner.getvalue())
    return outer.getvalue()


@pytest.fixture
def caltech(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """torchvision writes address and sum into its method, so they are exchanged on their way to its own downloader."""
    data = caltech_archive()
    site.files["/caltech-101.zip"] = data
    real = torchvision.datasets.caltech.download_and_extract_archive

    def local(url: str, download_root: str, filename: str, md5: str) -> None:
        assert url.endswith("/caltech-101.zip")
        real(f"{site.address}/caltech-101.zip", download_root=download_root, filename=filename, md5=good)

    good = md5(data)
    monkeypatch.setattr(torchvision.datasets.caltech, "download_and_extract_archive", local)
    return site


def test_caltech_is_downloaded_once_and_opened(caltech: Site, tmp_path: Path) -> None:
    images = fetch("caltech101", tmp_path)
    assert list(images.classes) == ["cat", "dog"]
    assert len(images) == 6
    assert images.load_image(0).size == (32, 32)
    asked = len(caltech.asked)
    assert len(fetch("caltech101", tmp_path)) == 6
    assert len(caltech.asked) == asked  # it is there: nobody is asked again


def test_a_wrong_checksum_of_caltech_is_refused_until_the_file_is_right(caltech: Site, tmp_path: Path) -> None:
    whole = caltech.files["/caltech-101.zip"]
    caltech.files["/caltech-101.zip"] = whole[:-1] + b"x"
    refused("caltech101", tmp_path)
    caltech.files["/caltech-101.zip"] = whole
    assert len(fetch("caltech101", tmp_path)) == 6
