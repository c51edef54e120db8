"""One data set, ready to train on: three loaders, and what is known of its images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from cnnlab.config import Config
from cnnlab.data.batch import Batch
from cnnlab.data.batches import BatchLoader
from cnnlab.data.loader import Loader, Streamed
from cnnlab.data.pixels import Rest
from cnnlab.data.preprocess import Preprocess
from cnnlab.data.sources.base import ImageSet
from cnnlab.data.split import NAMES, Split
from cnnlab.data.store import Index
from cnnlab.errors import ConfigError
from cnnlab.representation import as_html, as_text

SHOWN = 10  # class names in a repr


@dataclass(repr=False)
class Data:
    """Loaders `train`, `val` and `test` give (images, labels) batches; `classes[label]` is a name.

    Where every pixel has a class (`pixel_targets`), they give (images, masks); where an image may have several classes
    (`multi_label`), labels are (B, K) float of 0 and 1. Where they are `BatchLoader`s, the
    batches are the user's own, `preprocess` is for showing them alone, and `images` knows no image.
    """

    config: Config
    images: ImageSet
    index: Index
    split: Split
    manifest: dict[str, Any]
    preprocess: Preprocess
    train: Loader
    val: Loader
    test: Loader
    target_domain: Data | None = None  # the domain that training adapts to
    rest: Rest | None = None  # evaluation pixels that no split needed; None where all are there
    option: str | None = None  # of the group data, by which load_data found it; it chooses the recipe

    def __repr__(self) -> str:
        return as_text(self._title, self._facts)

    def _repr_html_(self) -> str:
        return as_html(self._title, self._facts)

    @property
    def _title(self) -> str:
        return f"Data {self.config.data.name}"

    @property
    def _facts(self) -> dict[str, str]:
        height, width = self.image_size
        names = ", ".join(self.classes[:SHOWN]) + (", …" if self.num_classes > SHOWN else "")
        return {
            "images": f"{height}×{width}×{self.in_channels}"
            f"{', batches of the user' if self.in_batches else ''}, {self.train.batch_size} a batch",
            "classes": f"{self.num_classes}: {names}",
            "splits": ", ".join(f"{self.loader(part).count:,} {part}" for part in NAMES),
            "augment": self.config.augment.name,
        }

    @property
    def in_batches(self) -> bool:
        """Whether the batches are the user's own."""
        return isinstance(self.train, BatchLoader)

    def class_counts(self) -> list[int]:
        """Training images of each class. Raises ConfigError where only the user's own code knows them."""
        if self.in_batches:
            raise ConfigError(
                "trainer.class_weights=balanced and trainer.balanced_sampling count the training labels first, and"
                " batches of your own are used as they come; give class_weights as a list, or sample in your"
                " DataLoader."
            )
        return self.images.class_counts(self.split.train).tolist()

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.images.multi_hot is not None

    @property
    def pixel_targets(self) -> bool:
        """Whether every pixel has a class, and these are what is learned."""
        return self.images.pixel_classes is not None

    @property
    def classes(self) -> list[str]:
        """What a model answers: classes of images, or of pixels."""
        return list(self.images.classes if self.images.pixel_classes is None else self.images.pixel_classes)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        return self.preprocess.layout.channels

    @property
    def image_size(self) -> tuple[int, int]:
        return self.preprocess.layout.height, self.preprocess.layout.width

    @property
    def quarantined(self) -> list[dict[str, str]]:
        """Name and reason of each image that could not be read; none of them is in a split."""
        return [{"name": self.images.names[i], "reason": why} for i, why in sorted(self.index.reasons.items())]

    def label_names(self, batch: Batch) -> list[str]:
        """What each training image of a batch is labelled as, also where the classes of its pixels are learned."""
        if self.in_batches:
            one_hot = batch.targets if self.multi_label else F.one_hot(batch.targets, self.num_classes)
            rows = [row.nonzero()[:, 0].tolist() for row in one_hot]
            return [", ".join(self.classes[label] for label in row) or "–" for row in rows]
        numbers = self.split.train[batch.members.numpy()].tolist()  # a tensor of one would be a number
        return [", ".join(self.images.class_names_of(number)) or "–" for number in numbers]

    def loader(self, part: str) -> Loader:
        return {"train": self.train, "val": self.val, "test": self.test}[part]

    def evaluation_loader(self, images: str | np.ndarray, batch_size: int | None = None) -> Loader:
        """Images in order, without augmentation: those of a split, or those of these numbers.

        By default as many at once as hold 2 million pixels, 500 at the most. Batches of the user's own stay as they
        are, and numbers are those of one split.
        """
        height, width = self.image_size
        if self.in_batches:
            return self._own_batches(images)
        batch_size = batch_size or max(1, min(500, 2_000_000 // (height * width)))
        numbers = self.split[images] if isinstance(images, str) else images
        pixels, targets = self.evaluation_pixels(numbers), self.images.targets
        return Loader(
            pixels, targets, numbers, self.preprocess, batch_size, device=self.test.device, masked=self.pixel_targets
        )

    def evaluation_pixels(self, numbers: np.ndarray) -> Tensor | Streamed:
        """(N, H, W, stored channels) uint8, or `Streamed`, that may be asked for images `numbers`.

        Training images that were stored for random crops alone are decoded now, once.
        """
        if self.rest and not self.rest.have[numbers].all():
            return self.rest.decode()
        return self.test.pixels

    def _own_batches(self, images: str | np.ndarray) -> BatchLoader:
        if isinstance(images, str):
            loader = self.loader(images)
            assert isinstance(loader, BatchLoader)
            if images != "train" and isinstance(loader.source, DataLoader):
                return loader  # it learns its count while it is read
            return loader.in_order()
        first = 0 if not len(images) else int(images[0])
        part = next((name for name in NAMES if first in self.split[name]), "test")
        loader = self.loader(part)
        assert isinstance(loader, BatchLoader)
        return loader.picked((images - self.split[part][:1]).tolist())

    def all_to_test(self) -> Data:
        """The same, with every image in the test split; for batches of the user's own, of one Dataset or DataLoader."""
        train, test = self.train, self.test
        assert isinstance(train, BatchLoader)
        assert isinstance(test, BatchLoader)
        if isinstance(train.source, DataLoader):
            test = train.in_order()
        else:
            numbers = sorted(i for part in NAMES for i in self.loader(part).source.indices)  # type: ignore[attr-defined]
            test = test.of(Subset(train.source.dataset, numbers))  # type: ignore[attr-defined]
        none, everything = np.arange(0), np.arange(test.count)
        empty = test.of([])
        split = dataclasses.replace(self.split, train=none, val=none, test=everything)
        return dataclasses.replace(self, split=split, train=empty, val=empty, test=test)

    def without_test(self) -> Data:
        """The same, with an empty test split."""
        if self.in_batches:
            empty: Loader = BatchLoader([], 1, device=self.test.device)  # type: ignore[arg-type]
        else:
            empty = self.evaluation_loader(self.split.test[:0])
        return dataclasses.replace(self, test=empty)

    def names(self, part: str) -> list[str]:
        if self.in_batches:  # of a DataLoader the number is known once it was seen
            return [f"{part}/{i}" for i in range(self.loader(part).count)]
        return [self.images.names[i] for i in self.split[part]]
