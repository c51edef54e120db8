"""Batches on the device: from pixels in memory, from a memory map, or streamed from files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnnlab.data.augment import (
    Augmentation,
    affine,
    box_mask,
    brightness,
    contrast,
    nearest_crop,
    resized_crop,
    saturation,
    take_pixels,
)
from cnnlab.data.decode import Layout, arrange, arrange_mask
from cnnlab.data.plan import EpochPlan, plan_epoch, share_of
from cnnlab.data.preprocess import Preprocess, without_padding
from cnnlab.data.sources.base import PictureSet
from cnnlab.data.store import ReadAhead, Watched, unreadable_now
from cnnlab.errors import DataError
from cnnlab.representation import as_html, as_text

AHEAD = 4  # batches that are asked for before they are needed


class Batch(NamedTuple):
    """`images` (B, C, H, W) float32 normalised; `targets` (B, …), what the task learns; `members` (B,) places in the
    split.

    Targets are labels (B,) or classes of pixels (B, H, W), int64 both, or (B, K) float of 0 and 1 where an image may
    have several classes. After mixup or cutmix of images with labels, `second` holds the target of the second image
    and `share` (B,) how much of the first is in the mix.
    """

    images: Tensor
    targets: Tensor
    members: Tensor
    second: Tensor | None = None
    share: Tensor | None = None

    @property
    def parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """Targets, and how much of each image is what they say (None: all of it)."""
        if self.second is None or self.share is None:
            return [(self.targets, None)]
        return [(self.targets, self.share), (self.second, 1 - self.share)]


class Streamed(Dataset[Tensor]):
    """Pictures that are decoded each time they are needed."""

    def __init__(self, pictures: PictureSet, layout: Layout, workers: int) -> None:
        self.pictures = pictures
        self.layout = layout
        self.workers = workers

    def __getitem__(self, index: int) -> Tensor:
        try:
            picture = self.pictures.load_image(index)
            pixels = arrange(picture, self.layout)
            if self.pictures.pixel_classes is not None:
                arrange_mask(self.pictures.load_mask(index), picture.size, self.layout, pixels)
            return torch.from_numpy(pixels)
        except DataError as error:
            raise unreadable_now(self.pictures.names[index], error) from None

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
        labels: (N,) label of each picture, or (N, K) of 0 and 1, see `PictureSet.targets`.
        numbers: (n,) numbers of the pictures of this split.
        preprocess: the evaluation transform; its normalisation ends every batch.
        augmentation: None for evaluation.
        masked: the fourth byte of a pixel is its class; these are the targets, and move as the images do.
        shuffle: a new order each epoch; drops the last, incomplete batch so that each step sees the same batch size.

    Attributes:
        ahead: asks for pictures that are needed soon, where they lie on disk.
        whole: looks before each batch whether the file that the pixels lie in is still as long as it was.
        share: (rank, processes): the part of each batch that is given here, where several processes train together;
            `len` and `count` are of the whole.
        epochs: of the whole training; pictures that grow (augment.start_size) need to know it.
        weights: (n,) sampling chances, see `plan_epoch`; None visits each picture once an epoch.
    """

    def __init__(
        self,
        pixels: Tensor | Streamed,
        labels: np.ndarray,
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
        self.labels = torch.from_numpy(labels[numbers])
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.shuffle = shuffle
        self.seed = seed
        self.ahead: ReadAhead | None = None
        self.whole: Watched | None = getattr(pixels, "watched", None)
        self.weights: np.ndarray | None = None
        self.share = (0, 1)
        self.epochs = 1
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
        """Batches an epoch."""
        whole, rest = divmod(len(self.numbers), self.batch_size)
        return max(1, whole) if self.shuffle else whole + (rest > 0)

    @property
    def count(self) -> int:
        """Pictures in the split."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.next_epoch
        self.next_epoch += 1
        for batch in self.epoch(epoch):
            yield batch.images, batch.targets

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; the same (seed, epoch) always gives the same ones."""
        if self.shuffle:
            plan = plan_epoch(self.count, self.augmentation, self.seed, epoch, self.weights)
        else:
            plan = EpochPlan(torch.arange(self.count), {})
        augmentation = self.augmentation.at(epoch / self.epochs) if self.augmentation and self.shuffle else None
        size = self.batch_size
        whole = [slice(i * size, min((i + 1) * size, self.count)) for i in range(start, len(self))]
        slices = [part for part in (share_of(batch, *self.share) for batch in whole) if part.stop > part.start]
        if isinstance(self.pixels, Streamed):
            yield from self._streamed(self.pixels, plan, slices, augmentation)
            return
        numbers, labels = self.numbers.to(self.pixels.device), self.labels.to(self.device)
        plan = plan.to(self.pixels.device)
        for part in self._read_ahead(plan, slices):
            if self.whole is not None:
                self.whole.check()
            members = plan.order[part]
            draws = {name: draw[part] for name, draw in plan.draws.items()}
            images, masks = self._augment(self.pixels, numbers[members], draws, augmentation)
            batch = Batch(images, labels[members] if masks is None else masks, members)
            if "partner" in draws:
                second = plan.order[draws["partner"]]
                partner_draws = {name: draw[draws["partner"]] for name, draw in plan.draws.items()}
                other, masks = self._augment(self.pixels, numbers[second], partner_draws, augmentation)
                batch = self._mixed(batch, other, labels[second] if masks is None else masks, draws)
            yield batch

    def _read_ahead(self, plan: EpochPlan, slices: list[slice]) -> Iterator[slice]:
        """The slices; pictures that lie on disk are asked for some batches before theirs is given."""
        if self.ahead is None:
            yield from slices
            return
        with self.ahead.alone():
            for place in range(-AHEAD, len(slices)):
                for part in slices[place + AHEAD : place + AHEAD + 1]:
                    self.ahead.ask(self.numbers[plan.order[part]].tolist())
                    if "partner" in plan.draws:
                        self.ahead.ask(self.numbers[plan.order[plan.draws["partner"][part]]].tolist())
                if place >= 0:
                    yield slices[place]

    def _streamed(
        self, pixels: Streamed, plan: EpochPlan, slices: list[slice], augmentation: Augmentation | None
    ) -> Iterator[Batch]:
        """The same batches; the pictures of a batch, and of its partners, come from worker processes."""
        members = [plan.order[part] for part in slices]
        seconds = [plan.order[plan.draws["partner"][part]] if "partner" in plan.draws else part for part in slices]
        wanted = [torch.cat([m, s]) if isinstance(s, Tensor) else m for m, s in zip(members, seconds, strict=True)]
        labels = self.labels.to(self.device)
        stream = pixels.batches([self.numbers[w].tolist() for w in wanted])
        for part, member, second, block in zip(slices, members, seconds, stream, strict=True):
            block = block.to(self.device)
            draws = {name: draw[part].to(self.device) for name, draw in plan.draws.items()}
            rows = torch.arange(len(member), device=self.device)
            images, masks = self._augment(block, rows, draws, augmentation)
            batch = Batch(images, labels[member] if masks is None else masks, member)
            if isinstance(second, Tensor):
                partner = plan.draws["partner"][part]
                partner_draws = {name: draw[partner].to(self.device) for name, draw in plan.draws.items()}
                other, masks = self._augment(block, rows + len(member), partner_draws, augmentation)
                batch = self._mixed(batch, other, labels[second] if masks is None else masks, draws)
            yield batch

    def _augment(
        self, pixels: Tensor, rows: Tensor, draws: dict[str, Tensor], augmentation: Augmentation | None
    ) -> tuple[Tensor, Tensor | None]:
        """Pictures `rows` of `pixels` → (B, C, H, W) float32, augmented and normalised, and their masks (B, H, W)."""
        if augmentation is None:
            taken = pixels.index_select(0, rows).to(self.device)
            return self.preprocess.normalise(taken), taken[..., 3].long() if self.masked else None
        config, height, width = augmentation.config, augmentation.height, augmentation.width
        still = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        flip = draws.get("flip", still.bool())
        if augmentation.crop == "resized":
            taken = resized_crop(pixels, rows, draws["box"], flip, height, width)
        elif "top" in draws or "flip" in draws:
            top, left = draws.get("top", still), draws.get("left", still)
            taken = take_pixels(pixels, rows, top, left, flip, config.padding_mode)
        else:
            taken = pixels.index_select(0, rows)
        taken = taken.to(self.device)
        masks = self._masks(pixels, rows, taken, draws, flip, augmentation) if self.masked else None
        colour = [name for name in ("brightness", "contrast", "saturation") if name in draws]
        if "affine" in draws or colour:
            images = self._float_stage(taken, draws, config.padding_mode, colour)
        else:
            images = self.preprocess.normalise(taken)
        if images.shape[2:] != (height, width):
            images = F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
        for name in ("erasing", "cutout"):
            if name in draws:
                images = images.masked_fill(box_mask(draws[name].to(self.device), height, width), 0)
        return images.contiguous(memory_format=torch.channels_last), masks

    def _masks(
        self,
        pixels: Tensor,
        rows: Tensor,
        taken: Tensor,
        draws: dict[str, Tensor],
        flip: Tensor,
        augmentation: Augmentation,
    ) -> Tensor:
        """(B, H, W) int64: the masks went where the pictures went, but each pixel keeps one class of the original.

        Whole pixels (`taken`, when moved and mirrored) brought theirs along; what is resized or turned is looked up
        again, the nearest pixel. What lies beyond the border is class 0, or mirrored, as the picture is.
        """
        height, width = augmentation.height, augmentation.width
        if augmentation.crop == "resized":
            classes = nearest_crop(pixels[..., 3], rows, draws["box"], flip, height, width).to(self.device)
        else:
            classes = taken[..., 3]
        masks = classes[:, None].float()
        if "affine" in draws:
            masks = affine(masks, draws["affine"].to(self.device), augmentation.config.padding_mode, mode="nearest")
        if masks.shape[2:] != (height, width):
            masks = F.interpolate(masks, size=(height, width), mode="nearest-exact")
        return masks[:, 0].round().long()

    def _float_stage(self, taken: Tensor, draws: dict[str, Tensor], padding_mode: str, colour: Sequence[str]) -> Tensor:
        pixels = without_padding(taken, self.preprocess.layout.channels)
        images = pixels.to(torch.float32).div_(255).permute(0, 3, 1, 2)
        if "affine" in draws:
            images = affine(images, draws["affine"].to(self.device), padding_mode)
        for name in colour:
            change = {"brightness": brightness, "contrast": contrast, "saturation": saturation}[name]
            images = change(images, draws[name].to(self.device))
        scale, shift = (torch.tensor(v, device=self.device)[:, None, None] for v in self.preprocess.scale_and_shift())
        return images.mul_(scale * 255).add_(shift)

    def _mixed(self, batch: Batch, other: Tensor, second: Tensor, draws: dict[str, Tensor]) -> Batch:
        """The batch mixed with the images `other` and their targets `second`.

        Classes of pixels are cut out as the images are; of labels both stay.
        """
        images = batch.images
        share = draws["mix"].to(self.device)
        if "cutmix" in draws:
            boxes = draws["cutmix"].to(self.device)
            inside = box_mask(boxes, images.shape[2], images.shape[3])
            images = torch.where(inside, other, images)
            if self.masked:
                targets = torch.where(inside[:, 0], second, batch.targets)
                return batch._replace(images=images.contiguous(memory_format=torch.channels_last), targets=targets)
            share = 1 - inside.float().mean(dim=(1, 2, 3))  # what is truly left of the first picture
        else:
            images = torch.lerp(other, images, share[:, None, None, None])
        images = images.contiguous(memory_format=torch.channels_last)
        return batch._replace(images=images, second=second, share=share)
