"""Batches of a user's own Dataset or DataLoader, used as they come."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, Subset

from cnnlab.data.batch import Batch
from cnnlab.data.decode import upright
from cnnlab.data.loader import WHOLE, Loader
from cnnlab.data.own import Label, read_item
from cnnlab.data.plan import plan_epoch, shard_of
from cnnlab.errors import CnnlabError, DataError
from cnnlab.host_device import move


class BatchLoader(Loader):
    """One split of the user's: a `Loader` whose images come from the user's code instead of stored pixels.

    Args:
        source: a Dataset of (image, label) or a DataLoader of (images, labels).
        batch_size: of a Dataset.
        transform: of the images of a Dataset.
        shuffle: a new order each epoch, from (seed, epoch), and no incomplete batch; a DataLoader has its own order.
        num_classes: labels are from 0 to below it; None: not known yet.
        multi_label: whether labels are rows of 0 and 1; None: not known yet.

    Attributes:
        count: images in the split; exact once an epoch was seen.
    """

    count: int = 0

    def __init__(
        self,
        source: Dataset[Any] | DataLoader[Any],
        batch_size: int,
        *,
        transform: Callable[[Any], Any] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        workers: int = 0,
        num_classes: int | None = None,
        multi_label: bool | None = None,
    ) -> None:
        self.source, self.transform, self.shuffle, self.seed = source, transform, shuffle, seed
        self.augmentation = None
        self.device, self.workers, self.num_classes = torch.device(device), workers, num_classes
        self.multi_label = multi_label
        if isinstance(source, DataLoader):
            self.count, self.batch_size = size_of(source)
        else:
            self.count = len(source)  # type: ignore[arg-type]
            self.batch_size = max(1, min(batch_size, self.count)) if shuffle else batch_size
        self.next_epoch = 0

    def __len__(self) -> int:
        """Batches per epoch."""
        if isinstance(self.source, DataLoader):
            return len(self.source)
        whole, rest = divmod(self.count, self.batch_size)
        return whole if self.shuffle else whole + (rest > 0)

    def epoch(
        self,
        epoch: int = 0,
        start: int = 0,
        *,
        shard: tuple[int, int] = WHOLE,
        weights: np.ndarray | None = None,
        progress: float | None = None,
    ) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on, see `Loader.epoch`; nothing is weighed, and nothing grows.

        Raises:
            DataError: the user's code fails, or gives no (images, labels) that can be trained on.
        """
        first, number = 0, start
        for images, labels in self._batches(epoch, start, shard):
            number += 1
            images, labels = self.check(images, labels)
            members = torch.arange(first, first + len(labels))
            first += len(labels)
            images = move(images, self.device).contiguous(memory_format=torch.channels_last)
            yield Batch(images, move(labels, self.device), members)
        if isinstance(self.source, DataLoader) and number < len(self):
            raise DataError(f"the DataLoader gave {number} batches, and its length says {len(self)}; correct __len__.")
        if start == 0 and isinstance(self.source, DataLoader):
            self.count = first

    def picked(self, places: Sequence[int]) -> BatchLoader:
        """The images at these places of the split, as one batch."""
        source, size = self.source, len(places)
        if not isinstance(source, DataLoader):
            chosen: Any = Subset(source, list(places))
        elif ordered_dataset(source) is not None:
            chosen = DataLoader(Subset(source.dataset, list(places)), batch_size=size, collate_fn=source.collate_fn)
        else:
            chosen = self._items_at(list(places))
        return BatchLoader(chosen, size, transform=self.transform, device=self.device, **self._labels)

    def in_order(self, batch_size: int | None = None) -> BatchLoader:
        """The same split to be evaluated: in order where it is a Dataset."""
        return self.of(self.source, batch_size)

    @property
    def _labels(self) -> dict[str, Any]:
        """What is known of the labels, for another loader of the same set."""
        return {"num_classes": self.num_classes, "multi_label": self.multi_label}

    def of(self, source: Any, batch_size: int | None = None) -> BatchLoader:
        """Another Dataset or DataLoader, in order and with the same settings."""
        return BatchLoader(
            source,
            batch_size or self.batch_size,
            transform=self.transform,
            seed=self.seed,
            device=self.device,
            workers=self.workers,
            **self._labels,
        )

    def largest_label(self) -> int:
        """Of all images, also those that an epoch of training leaves out; -1 where there is none."""
        return max((int(batch.targets.max()) for batch in self.in_order().epoch()), default=-1)

    def _items_at(self, places: list[int]) -> list[tuple[Tensor, Any]]:
        """Images that only a pass over the DataLoader can find."""
        wanted, found, first = set(places), {}, 0
        for batch in self.epoch():
            for row, label in enumerate(batch.targets.tolist()):
                if first + row in wanted:
                    found[first + row] = (batch.images[row].cpu(), label)
            first += len(batch.targets)
        return [found[place] for place in places]

    def _batches(self, epoch: int, start: int, shard: tuple[int, int]) -> Iterator[tuple[Any, Any]]:
        if isinstance(self.source, DataLoader):
            batches = iter(self.source) if self.shuffle else self._same_each_time(self.source)
            yield from _in_one_line(itertools.islice(batches, start, None), "a batch of the DataLoader")
            return
        order = torch.arange(self.count)
        if self.shuffle:
            order = plan_epoch(self.count, None, self.seed, epoch).order
        size = self.batch_size
        whole = [slice(i * size, min((i + 1) * size, self.count)) for i in range(start, len(self))]
        shards = [shard_of(part, *shard) for part in whole]
        slices = [order[part].tolist() for part in shards if part.stop > part.start]
        items = Transformed(self.source, self.transform)
        workers = min(self.workers, len(slices))
        yield from _in_one_line(iter(DataLoader(items, batch_sampler=slices, num_workers=workers)), "a batch")

    def _same_each_time(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """Evaluation sees one order: what the loader draws comes from the seed, and the loop's own draws go on."""
        before = torch.get_rng_state()
        torch.manual_seed(self.seed)
        batches = iter(loader)
        first = list(itertools.islice(batches, 1))  # a sampler draws when it is first asked
        torch.set_rng_state(before)
        return itertools.chain(first, batches)

    def check(self, images: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """Anything → (B, C, H, W) float32 and (B,) int64, or (B, K) float32 of 0 and 1 where images may have several
        classes. Raises DataError for what is no batch."""
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3):
            what = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
            raise DataError(f"images must be a tensor (B, 1 or 3, H, W), got {what}; check the Dataset or collate_fn.")
        if not len(images):
            raise DataError("a batch has no image; check the collate_fn, or set drop_last=False.")
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        rows = isinstance(labels, Tensor) and labels.ndim == 2 and len(labels) == len(images)
        if self.multi_label is not None and rows != self.multi_label:
            kinds = "class numbers", "rows of 0 and 1"
            raise DataError(
                f"labels are {kinds[rows]} here and {kinds[not rows]} in the first batch; make them all the same."
            )
        if rows:
            return images, self._check_rows(labels)
        if not isinstance(labels, Tensor) or labels.shape != images.shape[:1] or labels.is_floating_point():
            what = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
            raise DataError(f"labels must be whole numbers ({len(images)},), a class each, got {what}.")
        labels = labels.long()
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or (self.num_classes is not None and high >= self.num_classes):
            raise DataError(
                f"a label is {low if low < 0 else high}, and there are {self.num_classes or '?'} classes, from 0 on;"
                " name all: classes=[…]."
            )
        return images, labels

    def _check_rows(self, labels: Tensor) -> Tensor:
        """(B, K) of 0 and 1 → float32. Raises DataError for anything else, or another number of classes."""
        if labels.shape[1] < 2 or not bool(((labels == 0) | (labels == 1)).all()):
            raise DataError(
                f"labels {tuple(labels.shape)} must be 0 or 1 for each of two or more classes; use ({len(labels)},)"
                " class numbers where an image has one class."
            )
        if self.num_classes is not None and labels.shape[1] != self.num_classes:
            raise DataError(
                f"labels have {labels.shape[1]} numbers per image, and there are {self.num_classes} classes; name all:"
                " classes=[…]."
            )
        return labels.float()


class Transformed(Dataset[tuple[Tensor, Label]]):
    """The items of a user's Dataset with a transform of the images, as tensors."""

    def __init__(self, source: Any, transform: Callable[[Any], Any] | None) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Label]:
        image, label = read_item(self.source, index)
        if self.transform is not None:
            try:
                image = self.transform(image)
            except CnnlabError:
                raise
            except Exception as error:  # the user's code can fail in any way
                reason = str(error).splitlines()[0].rstrip(".") if str(error) else "no message"
                raise DataError(
                    f"transform= fails on item {index} of {type(self.source).__name__}"
                    f" ({type(error).__name__}: {reason})."
                ) from error
        return as_tensor(image), label


def as_tensor(image: Any) -> Tensor:
    """Pillow image, (H, W) or (H, W, C) array, or tensor → (C, H, W) float32; 8-bit values from 0 to 1."""
    if isinstance(image, Image.Image):
        image = np.array(upright(image))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.array(image[..., None] if image.ndim == 2 else image)).permute(2, 0, 1)
    if not isinstance(image, Tensor):
        raise DataError(f"an image must be a Pillow image, an array or a tensor, got a {type(image).__name__}.")
    image = image[None] if image.ndim == 2 else image
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def size_of(loader: DataLoader[Any]) -> tuple[int, int]:
    """(images, images per batch) of a DataLoader. Raises DataError for one that does not know its length."""
    try:
        batches = len(loader)
    except TypeError:
        raise DataError(
            "this DataLoader does not know how many batches it gives, and the learning rate follows from that; give its"
            " IterableDataset a __len__."
        ) from None
    if not batches:
        raise DataError("this DataLoader gives no batch; lower its batch_size, or set drop_last=False.")
    sampler = loader.batch_sampler
    if isinstance(sampler, BatchSampler) and hasattr(sampler.sampler, "__len__"):
        count, size = len(sampler.sampler), sampler.batch_size  # type: ignore[arg-type]
        return (batches * size if sampler.drop_last else count), min(size, count)
    size = loader.batch_size or len(next(iter(loader))[0])
    return batches * size, size


def ordered_dataset(loader: DataLoader[Any]) -> Any:
    """The Dataset of a DataLoader that gives all of it in order; None for any other."""
    plain = isinstance(loader.batch_sampler, BatchSampler) and isinstance(loader.sampler, SequentialSampler)
    return loader.dataset if plain else None


def _in_one_line(batches: Iterator[Any], what: str) -> Iterator[tuple[Any, Any]]:
    """Pairs. Raises DataError where the user's code fails, or gives anything else."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except CnnlabError as error:  # one from a worker brings its traceback as text
            raise DataError(str(error).strip().splitlines()[-1].split("DataError: ")[-1]) from error.__cause__
        except Exception as error:  # the user's own code can fail in any way
            reason = str(error).strip().splitlines()[-1].rstrip(".") if str(error).strip() else "no message"
            raise DataError(f"{what} cannot be made ({type(error).__name__}: {reason}).") from error
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(f"{what} must be (images, labels), got a {type(batch).__name__}.")
        yield batch[0], batch[1]
