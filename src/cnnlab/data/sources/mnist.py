"""MNIST and Fashion-MNIST: the IDX files of the original, in torchvision's layout."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from cnnlab.data.sources.base import ArraySet
from cnnlab.data.sources.download import missing, torchvision_set
from cnnlab.errors import DataError

FASHION_CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
DIGIT_CLASSES = [str(digit) for digit in range(10)]
SETS = {"mnist": ("MNIST", DIGIT_CLASSES), "fashion_mnist": ("FashionMNIST", FASHION_CLASSES)}


def open_mnist(name: str, root: Path, download: bool) -> ArraySet:
    """`name` is "mnist" or "fashion_mnist"; 60,000 training and 10,000 test images of 28×28 pixels."""
    folder, classes = SETS[name]
    raw = root / folder / "raw"
    files = [raw / f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    if not all(file.is_file() for file in files):
        if download:  # torchvision checks the sum of what it finds packed, and fetches what is wrong or missing
            import torchvision.datasets

            torchvision_set(getattr(torchvision.datasets, folder), name, root, download)
        elif not all(_find(file) for file in files):
            raise missing(name, root)
    train_images, train_labels, test_images, test_labels = (read_idx(file) for file in files)
    parts = ((train_images, train_labels), (test_images, test_labels))
    same_size = train_images.shape[1:] == test_images.shape[1:]
    if not same_size or any(i.ndim != 3 or labels.ndim != 1 or len(i) != len(labels) for i, labels in parts):
        raise DataError(f"the files in {raw} do not match; delete them and download them again.")
    official = np.repeat(["train", "test"], [len(train_images), len(test_images)])
    images = np.concatenate([train_images, test_images])
    return ArraySet(images, np.concatenate([train_labels, test_labels]), classes, official)


def _find(file: Path) -> Path | None:
    return next((path for path in (file, file.with_name(file.name + ".gz")) if path.is_file()), None)


def read_idx(file: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, gzipped or not → uint8 array.

    Raises:
        DataError: not such a file, or of another length than its header says.
    """
    found = _find(file)
    try:
        data = found.read_bytes() if found else b""
        data = gzip.decompress(data) if found and found.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{found} cannot be read ({error}); fetch it again.") from None
    axes = data[3] if data[:3] == b"\x00\x00\x08" and len(data) > 3 and data[3] <= 4 else 0
    header = 4 + 4 * axes
    shape = tuple(np.frombuffer(data[4:header], ">u4").tolist()) if axes and len(data) >= header else ()
    if not axes or len(data) != header + math.prod(shape):
        raise DataError(
            f"{found or file} is damaged: {len(data):,} bytes do not fit its header; delete it and fetch it again."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
