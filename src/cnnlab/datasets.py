"""The sets of cnnlab as plain map-style Datasets: for a `DataLoader`, a loop of your own, or `cnnlab.fit`.

    >>> train = cnnlab.datasets.MNIST("data", "train", transform=transforms.ToTensor(), download=True)
    >>> for images, labels in DataLoader(train, batch_size=128, shuffle=True, num_workers=2): ...

`dataset[i]` is (image, label): a Pillow image, upright, "L" or "RGB" of 8 bits, through `transform`, and the class
number through `target_transform`. Which images are in a split is what `cnnlab.load_data` says with the same fractions
and seed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from cnnlab.config import DataConfig
from cnnlab.data.sources import open_images
from cnnlab.data.sources.mnist_m import read_photographs
from cnnlab.data.split import NAMES, make_split
from cnnlab.errors import DataError
from cnnlab.representation import as_html, as_text

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "MNISTM",
    "Caltech101",
    "Digits",
    "FashionMNIST",
    "Folder",
    "OxfordPets",
    "sample_photographs",
]

Transform = Callable[[Any], Any]


def sample_photographs() -> list[np.ndarray]:
    """The two photographs that come with cnnlab, (H, W, 3) uint8: those that `data=mnist_m` is made from by default."""
    return read_photographs(None, 0)


class _Images(Dataset[tuple[Any, Any]]):
    """A split of one of cnnlab's sets.

    Args:
        root: the folder that sets lie in, as `data.root`.
        split: "train", "val" or "test"; "all" for the whole set.
        transform: of the image; None gives a Pillow image.
        target_transform: of the class number.
        download: fetch the set from its publisher if it is missing.
        val_fraction: of the training images, or of all where the set has no official splits, that make "val".
        test_fraction: of all images that make "test", where the set has no official one.
        seed: of what is cut.

    Attributes:
        classes: names; a label is an index into them.
        class_to_idx: the label of each name.
        targets: label of each image of the split; of a multi-label set (K,) float32 of 0 and 1.

    Raises:
        DataError: an unknown split, or files that are missing or damaged.
    """

    name: str

    def __init__(
        self,
        root: str | Path = "data",
        split: str = "train",
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        download: bool = False,
        val_fraction: float = 0.0,
        test_fraction: float = 0.2,
        seed: int = 0,
        **keys: Any,
    ) -> None:
        if split not in (*NAMES, "all"):
            raise DataError(f"split must be train, val, test or all, got {split!r}.")
        keys |= {"val_fraction": val_fraction, "test_fraction": test_fraction}
        config = DataConfig(self.name, root=str(root), download=download, **keys)
        self.root, self.split, self.transform, self.target_transform = root, split, transform, target_transform
        self.images = open_images(config)
        self.classes = list(self.images.classes)
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self.numbers = np.arange(len(self.images))
        if split != "all":
            readable = np.ones(len(self.images), bool)
            self.numbers = make_split(self.images.labels, readable, self.images.official, config, seed)[split]
        if not len(self.numbers):
            raise DataError(f"{self.name} has no {split} split here; raise {split}_fraction, or choose another split.")
        targets = self.images.targets[self.numbers]
        self.targets: list[Any] = targets.tolist() if targets.ndim == 1 else list(targets)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Raises DataError, with its name, for an image that cannot be read."""
        number = int(self.numbers[index])
        try:
            image: Any = self.images.load_image(number)
        except DataError as error:
            raise DataError(f"{self.images.names[number]} cannot be read: {error}.") from None
        label: Any = self.targets[index]
        image = image if self.transform is None else self.transform(image)
        return image, label if self.target_transform is None else self.target_transform(label)

    def __repr__(self) -> str:
        return as_text(self._title, self._facts)

    def _repr_html_(self) -> str:
        return as_html(self._title, self._facts)

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} {self.split}"

    @property
    def _facts(self) -> dict[str, str]:
        shown = ", ".join(self.classes[:10]) + (", …" if len(self.classes) > 10 else "")
        return {
            "images": f"{len(self):,}",
            "classes": f"{len(self.classes)}: {shown}",
            "transform": " ".join(str(self.transform).split()),
        }


class MNIST(_Images):
    """Handwritten digits, 28×28, "L", 10 classes: 60,000 for train and val, 10,000 for test (LeCun et al. 1998)."""

    name = "mnist"


class FashionMNIST(_Images):
    """Pieces of clothing, 28×28, "L", 10 classes: 60,000 for train and val, 10,000 for test (Xiao et al. 2017)."""

    name = "fashion_mnist"


class MNISTM(_Images):
    """MNIST over patches of photographs, 28×28, "RGB", made from MNIST in `root` (Ganin et al. 2016, section 5.2.4).

    `backgrounds=FOLDER` takes photographs of your own instead of the two that come with cnnlab.
    """

    name = "mnist_m"


class CIFAR10(_Images):
    """Photographs, 32×32, "RGB", 10 classes: 50,000 for train and val, 10,000 for test (Krizhevsky 2009)."""

    name = "cifar10"


class CIFAR100(_Images):
    """Photographs, 32×32, "RGB", 100 classes: 50,000 for train and val, 10,000 for test (Krizhevsky 2009)."""

    name = "cifar100"


class Caltech101(_Images):
    """8,677 photographs of about 300×200 pixels, 101 classes, no official splits (Li et al. 2004).

    `background=True` keeps BACKGROUND_Google as one more class; `per_class_train=30` draws 30 a class for train and val
    and leaves the others for test.
    """

    name = "caltech101"


class OxfordPets(_Images):
    """7,349 photographs of cats and dogs, 37 breeds, official train and test (Parkhi et al. 2012)."""

    name = "oxford_pets"


class Digits(_Images):
    """1,797 handwritten digits that come with cnnlab, 8×8, "L", 10 classes, no official splits; nothing to download."""

    name = "digits"


class Folder(_Images):
    """Images of your own: ROOT/CLASS/*, or ROOT/{train,val,test}/CLASS/* if you have split them yourself."""

    name = "folder"
