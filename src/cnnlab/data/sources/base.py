"""What every source of images gives: names, labels, classes, official splits, and one image at a time."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from cnnlab.data.decode import read_image
from cnnlab.errors import DataError


class ImageSet(Dataset[tuple[Image.Image, Any]]):
    """A map-style data set of (image, label).

    Attributes:
        classes: class names; a label is an index into them.
        labels: (n,) int64; of a multi-label set the stratum of each image, see `strata_of`.
        multi_hot: (n, K) uint8 of 0 and 1, which classes each image has, if it may have several or none; else None.
        names: one name per image, unique: its path below the root, or its number.
        official: (n,) "train", "val" or "test" where the set has official splits, else None.
        mode: "L" or "RGB".
        size: (height, width) in pixels if all images are known to share it, else None.
        array: (n, H, W) or (n, H, W, 3) uint8 if the set is one array in memory, else None.
        masks: (n, H, W) uint8 class of each pixel if the set is an array and its pixels have classes, else None.
        pixel_classes: names of the classes of pixels if these are what is to be learned, else None.
        missing: of train, val and test what a folder of splits has no folder for.
        notes: what to know of the source before training, a line each.
    """

    classes: Sequence[str]
    labels: np.ndarray
    multi_hot: np.ndarray | None = None
    names: Sequence[str]
    official: np.ndarray | None = None
    mode: str = "RGB"
    size: tuple[int, int] | None = None
    array: np.ndarray | None = None
    masks: np.ndarray | None = None
    pixel_classes: Sequence[str] | None = None
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()

    def load_image(self, index: int) -> Image.Image:
        """Image number `index`, upright, "L" or "RGB". Raises DataError if it cannot be read."""
        raise NotImplementedError

    def load_mask(self, index: int) -> Image.Image:
        """The class of each pixel, "L", as large as the image. Raises DataError if it cannot be read."""
        assert self.masks is not None
        return Image.fromarray(self.masks[index])

    @property
    def targets(self) -> np.ndarray:
        """(n,) int64 labels, or (n, K) float32 of 0 and 1 in a multi-label set."""
        return self.labels if self.multi_hot is None else self.multi_hot.astype(np.float32)

    def class_counts(self, numbers: np.ndarray) -> np.ndarray:
        """(K,) int64: how many of these images are of each class."""
        if self.multi_hot is None:
            return np.bincount(self.labels[numbers], minlength=len(self.classes))
        return self.multi_hot[numbers].sum(0, dtype=np.int64)

    def class_names_of(self, number: int) -> list[str]:
        """Names of the classes of an image; of a multi-label set any number of them."""
        if self.multi_hot is None:
            return [self.classes[int(self.labels[number])]]
        return [self.classes[int(i)] for i in np.flatnonzero(self.multi_hot[number])]

    def load_label(self, index: int) -> Any:
        """A class number, or (K,) float32 of 0 and 1 in a multi-label set."""
        return int(self.labels[index]) if self.multi_hot is None else self.multi_hot[index].astype(np.float32)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        return self.load_image(index), self.load_label(index)

    def __len__(self) -> int:
        return len(self.labels)

    def read_bytes(self, index: int) -> bytes:
        """The bytes that `digest` is taken from."""
        raise NotImplementedError

    def decode(self, data: bytes, index: int) -> Image.Image:
        """Image from what `read_bytes` gave."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hex digest that changes whenever an image does."""
        raise NotImplementedError


def strata_of(multi_hot: np.ndarray) -> np.ndarray:
    """(n, K) of 0 and 1 → (n,) int64: the rarest class that each image has, K where it has none.

    A split that is stratified by these keeps the share of the rare classes, which a random one may miss.
    """
    counts = np.where(multi_hot > 0, multi_hot.sum(0, dtype=np.int64), len(multi_hot) + 1)
    return np.where(multi_hot.any(1), counts.argmin(1), multi_hot.shape[1]).astype(np.int64)


def check_multi_hot(multi_hot: np.ndarray, count: int, classes: Sequence[str]) -> None:
    """Raise DataError unless these are `count` rows of 0 and 1, one for each class."""
    if multi_hot.shape != (count, len(classes)) or not np.isin(multi_hot, (0, 1)).all():
        raise DataError(
            f"targets of several classes must be rows of {len(classes)} numbers 0 or 1, one row for each of {count:,}"
            f" images; got {multi_hot.shape} {multi_hot.dtype}."
        )


class ArraySet(ImageSet):
    """Images that are one uint8 array."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str], official: np.ndarray | None = None
    ) -> None:
        self.array = images
        self.labels = labels.astype(np.int64)
        self.classes = classes
        self.official = official
        self.names = [str(i) for i in range(len(images))]
        self.mode = "L" if images.ndim == 3 else "RGB"
        self.size = (images.shape[1], images.shape[2])
        if len(images) != len(labels) or (
            len(labels) and not 0 <= self.labels.min() <= self.labels.max() < len(classes)
        ):
            raise DataError(
                f"{len(images):,} images of {len(classes)} classes but {len(labels):,} labels up to"
                f" {labels.max(initial=0):.0f}: a file of the set is damaged; fetch it again."
            )

    @classmethod
    def multi_label(
        cls, images: np.ndarray, multi_hot: np.ndarray, classes: Sequence[str], official: np.ndarray | None = None
    ) -> ArraySet:
        """A multi-label set. Raises DataError unless `multi_hot` is (n, K) of 0 and 1."""
        check_multi_hot(multi_hot, len(images), classes)
        made = cls(images, np.zeros(len(images), np.int64), classes, official)
        made.multi_hot, made.labels = multi_hot.astype(np.uint8), strata_of(multi_hot)
        return made

    def set_masks(self, masks: np.ndarray, pixel_classes: Sequence[str] | None = None) -> None:
        """Give each pixel a class. Raises DataError for masks of another size, or values that are no class."""
        assert self.array is not None
        if masks.dtype != np.uint8 or masks.shape != self.array.shape[:3]:
            raise DataError(
                f"masks must be uint8 of the images' shape {self.array.shape[:3]}, got {masks.shape} {masks.dtype}."
            )
        if pixel_classes is not None and masks.max(initial=0) >= len(pixel_classes):
            raise DataError(
                f"a mask has the value {masks.max()}, and there are {len(pixel_classes)} classes of pixels."
            )
        self.masks, self.pixel_classes = masks, pixel_classes

    def load_image(self, index: int) -> Image.Image:
        assert self.array is not None
        return Image.fromarray(self.array[index])

    def read_bytes(self, index: int) -> bytes:
        assert self.array is not None
        return self.array[index].tobytes()

    def decode(self, data: bytes, index: int) -> Image.Image:
        return self.load_image(index)

    def fingerprint(self) -> str:
        assert self.array is not None
        digest = hashlib.sha256(repr(self.array.shape).encode())
        digest.update(np.ascontiguousarray(self.array).data)
        if self.masks is not None:
            digest.update(np.ascontiguousarray(self.masks).data)
        return digest.hexdigest()


class FileSet(ImageSet):
    """Images that are one file each, below `root`."""

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: np.ndarray,
        classes: Sequence[str],
        official: np.ndarray | None = None,
    ) -> None:
        self.root = root
        self.names = names
        self.labels = labels.astype(np.int64)
        self.classes = classes
        self.official = official

    def only(self, numbers: np.ndarray, official: np.ndarray) -> FileSet:
        """The same set with these images alone, and these splits: one name for each of them."""
        few = copy.copy(self)
        few.names, few.labels, few.official = [self.names[int(i)] for i in numbers], self.labels[numbers], official
        few.multi_hot = None if self.multi_hot is None else self.multi_hot[numbers]
        return few

    def load_image(self, index: int) -> Image.Image:
        return self.decode(self.read_bytes(index), index)

    def read_bytes(self, index: int) -> bytes:
        try:
            return (self.root / self.names[index]).read_bytes()
        except OSError as error:
            raise DataError(error.strerror or type(error).__name__) from None

    def decode(self, data: bytes, index: int) -> Image.Image:
        return read_image(data)

    def fingerprint(self) -> str:
        """Of place, names, sizes and times of change: the content of each file is hashed while it is decoded."""
        digest = hashlib.sha256(str(self.root.resolve()).encode(errors="surrogateescape") + b"\n")
        for name in self.names:
            try:
                facts = os.stat(self.root / name)
                digest.update(
                    f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ctime_ns}\n".encode(
                        errors="surrogateescape"
                    )
                )
            except OSError:
                digest.update(f"{name}\0missing\n".encode(errors="surrogateescape"))
        return digest.hexdigest()
