"""Batches on the device: from pixels in memory, from a memory map, or streamed from files."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnnlab.data.augment import Augmentation, Draws
from cnnlab.data.batch import Batch, mix, mix_axes
from cnnlab.data.decode import Layout, arrange, arrange_mask
from cnnlab.data.plan import EpochPlan, plan_epoch, shard_of
from cnnlab.data.preprocess import Preprocess
from cnnlab.data.render import axes_of, render, take
from cnnlab.data.sources.base import ImageSet
from cnnlab.data.store import ReadAhead, Watched, unreadable_now
from cnnlab.errors import DataError
from cnnlab.host_device import Parcel, pack, prefetch, send
from cnnlab.representation import as_html, as_text

WHOLE = (0, 1)  # the shard of a process that is alone
AHEAD = 4  # batches that are asked for before they are needed
PREPARED = 2  # batches that are ready before they are needed, where pixels come to an accelerator


class Block(NamedTuple):
    """Pixels that hold a batch: `rows` (B,) of them are its images, and `members` (B,) their places in the split.

    Where images are mixed in pairs, there are twice as many: those of the batch, then their partners. `draws` holds
    what was drawn for each.
    """

    pixels: Tensor
    rows: Tensor
    members: Tensor
    draws: Draws


class Prepared(NamedTuple):
    """A batch that is still on the processor: all that its images are made from, but for pixels on the device."""

    members: Tensor
    parts: Draws | Parcel


class Streamed(Dataset[Tensor]):
    """Images that are decoded each time they are needed."""

    def __init__(self, images: ImageSet, layout: Layout, workers: int) -> None:
        self.images = images
        self.layout = layout
        self.workers = workers

    def __getitem__(self, index: int) -> Tensor:
        try:
            image = self.images.load_image(index)
            pixels = arrange(image, self.layout)
            if self.images.pixel_classes is not None:
                arrange_mask(self.images.load_mask(index), image.size, self.layout, pixels)
            return torch.from_numpy(pixels)
        except DataError as error:
            raise unreadable_now(self.images.names[index], error) from None

    def batches(self, numbers: list[list[int]]) -> Iterator[Tensor]:
        loader = DataLoader(self, batch_sampler=numbers, num_workers=min(self.workers, len(numbers)))
        try:
            yield from loader
        except DataError as error:  # a worker's error comes with its traceback as text
            error.__traceback__ = None  # it holds the loader, whose workers would be waited for
            raise DataError(str(error).strip().splitlines()[-1].split("DataError: ")[-1]) from None


class Loader:
    """Iterable over one split. `for images, labels in loader` is an epoch; each time a training loader is iterated,
    the next epoch's order and augmentation are used.

    Args:
        pixels: (N, H, W, stored channels) uint8 tensor, or `Streamed`.
        targets: (N,) label of each image, or (N, K) of 0 and 1, see `ImageSet.targets`.
        numbers: (n,) numbers of the images of this split.
        preprocess: the evaluation transform; its normalisation ends every batch.
        augmentation: None for evaluation.
        masked: the fourth byte of a pixel is its class; these are the targets, and move as the images do.
        shuffle: a new order each epoch; drops the last, incomplete batch so that each step sees the same batch size.

    Attributes:
        ahead: asks for images that are needed soon, where they lie on disk.
        whole: looks before each batch whether the file that the pixels lie in is still as long as it was.
    """

    def __init__(
        self,
        pixels: Tensor | Streamed,
        targets: np.ndarray,
        numbers: np.ndarray,
        preprocess: Preprocess,
        batch_size: int,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        masked: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.masked = masked
        self.pixels = pixels
        self.preprocess = preprocess
        self.numbers = torch.from_numpy(np.ascontiguousarray(numbers))
        self._targets = torch.from_numpy(targets[numbers])
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.shuffle = shuffle
        self.seed = seed
        self.ahead: ReadAhead | None = None
        self.whole: Watched | None = getattr(pixels, "watched", None)
        self.next_epoch = 0

    def __repr__(self) -> str:
        return as_text("Loader", self._facts)

    def _repr_html_(self) -> str:
        return as_html("Loader", self._facts)

    @property
    def _facts(self) -> dict[str, str]:
        augmented = "augmented" if self.augmentation is not None else "without augmentation"
        return {
            "images": f"{self.count:,}, {augmented}{', a new order each epoch' if self.shuffle else ''}",
            "batches": f"{len(self):,} of {self.batch_size}, on {self.device}",
        }

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self.numbers), self.batch_size)
        return max(1, whole) if self.shuffle else whole + (rest > 0)

    @property
    def count(self) -> int:
        """Images in the split."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.next_epoch
        self.next_epoch += 1
        for batch in self.epoch(epoch):
            yield batch.images, batch.targets

    def epoch(
        self,
        epoch: int = 0,
        start: int = 0,
        *,
        shard: tuple[int, int] = WHOLE,
        weights: np.ndarray | None = None,
        progress: float | None = None,
    ) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; the same seed and arguments always give the same ones.

        Args:
            shard: (rank, processes), which part of each batch, where several processes train together; `len` and
                `count` are of the whole.
            weights: (n,) sampling weights, see `plan_epoch`; None visits each image once.
            progress: share of the training that is done, by which images grow (augment.start_size); None: `epoch`, as
                if the training had one.
        """
        if self.shuffle:
            plan = plan_epoch(self.count, self.augmentation, self.seed, epoch, weights)
        else:
            plan = EpochPlan(torch.arange(self.count), {})
        progress = epoch if progress is None else progress
        augmentation = self.augmentation.at(progress) if self.augmentation and self.shuffle else None
        size = self.batch_size
        whole = [slice(i * size, min((i + 1) * size, self.count)) for i in range(start, len(self))]
        slices = [part for part in (shard_of(batch, *shard) for batch in whole) if part.stop > part.start]
        prepared: Generator[Prepared, None, None] = (
            self._prepare(block, augmentation) for block in self._blocks(plan, slices)
        )
        if self.device.type != "cpu" and not self._resident:
            prepared = prefetch(prepared, PREPARED)
        try:
            for batch in prepared:
                yield self._finish(batch, augmentation)
        finally:
            prepared.close()

    @property
    def _resident(self) -> bool:
        """Whether the pixels lie on an accelerator."""
        return isinstance(self.pixels, Tensor) and self.pixels.device.type != "cpu"

    def _prepare(self, block: Block, augmentation: Augmentation | None) -> Prepared:
        """Everything of a batch that is done on the processor."""
        pixels, rows, members, draws = block
        on_device = self._resident or (isinstance(self.pixels, Streamed) and self.device.type != "cpu")
        full = pixels.shape[1], pixels.shape[2]
        to_take, parts = axes_of(rows, draws, augmentation, full, on_device, self.masked)
        parts |= to_take if on_device else take(pixels, to_take, augmentation)
        if on_device and not self._resident:
            parts["pixels"] = pixels
        if not self.masked:
            parts["targets"] = self._targets[members]
        if "mix" in draws and augmentation is not None:
            members = members[: len(members) // 2]
            own = {name: draw[: len(members)] for name, draw in draws.items()}
            parts |= mix_axes(own, augmentation.height, augmentation.width)
        return Prepared(members, parts if self.device.type == "cpu" else pack(parts, self.device))

    def _finish(self, batch: Prepared, augmentation: Augmentation | None) -> Batch:
        """What is left to do for a batch on the device."""
        parts = send(batch.parts, self.device) if isinstance(batch.parts, Parcel) else batch.parts
        if "taken" not in parts:
            parts |= take(parts.get("pixels", self.pixels), parts, augmentation)  # type: ignore[arg-type]
        images, masks = render(parts, augmentation, self.preprocess, self.masked)
        targets = parts["targets"] if masks is None else masks
        if self.device.type != "cpu" and not self._resident:
            targets = targets.clone()  # who keeps them would keep the pixels that came in the same copy
        if "share" in parts:
            return mix(images, targets, batch.members, parts)
        return Batch(images, targets, batch.members)

    def _blocks(self, plan: EpochPlan, slices: list[slice]) -> Iterator[Block]:
        """The pixels of each batch, and of the images that they are mixed with."""
        places = [_places(plan, part) for part in slices]
        members = [plan.order[place] for place in places]
        if isinstance(self.pixels, Streamed):
            stream = self.pixels.batches([self.numbers[member].tolist() for member in members])
            for place, member, pixels in zip(places, members, stream, strict=True):
                yield Block(pixels, torch.arange(len(pixels)), member, plan.drawn(place))
            return
        for place, member in zip(places, self._read_ahead(members), strict=True):
            if self.whole is not None:
                self.whole.check()
            yield Block(self.pixels, self.numbers[member], member, plan.drawn(place))

    def _read_ahead(self, members: list[Tensor]) -> Iterator[Tensor]:
        """The members of each batch; images that lie on disk are asked for some batches before theirs is given."""
        if self.ahead is None:
            yield from members
            return
        with self.ahead.alone():
            for place in range(-AHEAD, len(members)):
                for batch in members[place + AHEAD : place + AHEAD + 1]:
                    self.ahead.ask(self.numbers[batch].tolist())
                if place >= 0:
                    yield members[place]


def _places(plan: EpochPlan, part: slice) -> slice | Tensor:
    """Places of the epoch's order that make a batch: with images to mix, those of their partners follow."""
    if "partner" not in plan.draws:
        return part
    return torch.cat([torch.arange(part.start, part.stop), plan.draws["partner"][part]])
