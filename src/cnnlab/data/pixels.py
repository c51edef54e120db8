"""Where the pixels of a set lie, in which size: memory, a memory map, or files that are decoded as they are needed."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cnnlab.config import Config
from cnnlab.data.augment import Augmentation
from cnnlab.data.decode import Layout
from cnnlab.data.loader import Streamed
from cnnlab.data.sources.base import ImageSet
from cnnlab.data.sources.folder import DEFAULT_SIDE
from cnnlab.data.split import make_split
from cnnlab.data.store import (
    Index,
    Progress,
    ReadAhead,
    Store,
    Watched,
    cache_folder,
    changed_now,
    index_array,
    open_stores,
    reader_ahead,
)

CANVAS = 1.25  # side of the stored training image over the side of the crop, for random resized crops
MEMORY_SHARE = 0.4  # of an accelerator's free memory that images may take before they stay on disk


@dataclass(frozen=True)
class Rest:
    """Evaluation pixels: `have` (n,) bool tells whose are there; `decode` gives those of all images."""

    have: np.ndarray
    decode: Callable[[], Tensor]


@dataclass(frozen=True)
class Pixels:
    """What the loaders read from: `evaluation` at the images of val and test, `training` at those of train."""

    index: Index
    evaluation: Tensor | Streamed
    training: Tensor | Streamed
    ahead: ReadAhead | None = None
    rest: Rest | None = None

    def on(self, device: torch.device, storage: str) -> Pixels:
        """The same in the memory of an accelerator, where they fit there and `data.storage` allows it."""
        training, evaluation = self.training, self.evaluation
        resident = isinstance(training, Tensor) and isinstance(evaluation, Tensor)
        if device.type == "cpu" or storage == "mmap" or not resident:
            return self
        assert isinstance(training, Tensor) and isinstance(evaluation, Tensor)
        same = evaluation is training
        held = training.nbytes + (0 if same else evaluation.nbytes)
        if held > MEMORY_SHARE * free_device_memory(device):
            return self
        moved = training.to(device)
        return dataclasses.replace(
            self, training=moved, evaluation=moved if same else evaluation.to(device), ahead=None
        )


def open_pixels(
    images: ImageSet, layout: Layout, canvas: Layout, config: Config, progress: Progress, processes: int
) -> Pixels:
    """The set's own array if it is in the right layout already, else the stores, or files decoded as they are needed.

    A memory map of what was decoded a moment ago, or is read often, lies in the system's cache: it is as fast as a copy
    in memory but for a twentieth, takes no time to make, and several processes share it.
    """
    settings = config.data
    native = images.array is not None and images.size == (layout.height, layout.width)
    native = native and (images.mode == layout.mode or images.mode == "L") and canvas == layout
    if native and layout.rearrange == "none":
        assert images.array is not None
        masks = images.masks if images.pixel_classes is not None else None
        packed = pack(images.array, layout.stored_channels, masks)
        return Pixels(index_array(images), packed, packed)
    fits = settings.storage != "auto" or _fits_on_disk(len(images), {layout, canvas})
    if settings.storage == "stream" or not fits:
        index = open_stores(images, [None], progress)[0].index
        workers = settings.workers if settings.workers is not None else max(1, (os.cpu_count() or 1) // processes)
        return Pixels(index, Streamed(images, layout, workers), Streamed(images, canvas, workers))
    in_memory = settings.storage == "memory"
    stores = open_for_split(images, layout, canvas, config, progress)
    tensors = [as_tensor(store, in_memory) for store in stores]

    def decode_all() -> Tensor:
        (now,) = open_stores(images, [layout], progress)
        other = (now.index.digest != stores[0].index.digest).any(1) & stores[0].index.ok
        if other.any():
            raise changed_now(images.names[int(other.argmax())])
        return as_tensor(now, in_memory)

    ahead = None if in_memory else reader_ahead(stores[-1].images)
    rest = Rest(stores[0].have, functools.cache(decode_all)) if canvas != layout else None
    return Pixels(stores[0].index, tensors[0], tensors[-1], ahead, rest)


def choose_layout(images: ImageSet, config: Config) -> Layout:
    """Evaluation layout: `data.image_size`, else the set's own size, else 128 pixels."""
    height, width = config.data.image_size or images.size or (DEFAULT_SIDE, DEFAULT_SIDE)
    mode = {1: "L", 3: "RGB", None: images.mode}[config.data.channels]
    return Layout(height, width, mode, config.data.fit, config.data.rearrange)


def training_layout(images: ImageSet, layout: Layout, augmentation: Augmentation) -> Layout:
    """For random resized crops the whole image is stored, larger; else training and evaluation share their pixels."""
    if augmentation.crop != "resized" or images.size == (layout.height, layout.width):
        return layout
    height, width = (round(side * CANVAS) for side in (layout.height, layout.width))
    return dataclasses.replace(layout, height=height, width=width, fit="canvas")


def pack(array: np.ndarray, stored_channels: int | None = None, masks: np.ndarray | None = None) -> Tensor:
    """(n, H, W) or (n, H, W, 3) uint8 → (n, H, W, stored channels) tensor.

    Args:
        stored_channels: 1 or 4; 4 makes colour images of grey ones. None: 1 for grey, 4 for colour.
        masks: (n, H, W) uint8 classes for the fourth byte.
    """
    stored_channels = stored_channels or (1 if array.ndim == 3 else 4)
    if stored_channels == 1:
        return torch.from_numpy(array.copy() if not array.flags.writeable else array)[..., None]
    packed = np.zeros((*array.shape[:3], 4), np.uint8)
    packed[..., :3] = array if array.ndim == 4 else array[..., None]
    if masks is not None:
        packed[..., 3] = masks
    return torch.from_numpy(packed)


def open_for_split(images: ImageSet, layout: Layout, canvas: Layout, config: Config, progress: Progress) -> list[Store]:
    """The store of evaluation, and that of training where it is another; an image lies where its split needs it.

    Who is in which split is known for sure when all were tried: where some cannot be read, a second pass adds what the
    true split needs beyond the first guess.
    """
    if canvas == layout:
        return open_stores(images, [layout], progress)
    readable = np.ones(len(images), bool)
    while True:
        split = make_split(images.labels, readable, images.official, config.data, config.seed)
        numbers = [np.concatenate([split.val, split.test]), split.train]
        stores = open_stores(images, [layout, canvas], progress, numbers)
        if (stores[0].index.ok == readable).all():
            return stores
        readable = stores[0].index.ok


def as_tensor(store: Store, in_memory: bool) -> Tensor:
    """(n, H, W, stored channels) uint8: pixels of a store, left on disk or read into memory."""
    assert store.images is not None
    if in_memory:
        pixels = np.zeros(store.images.shape, np.uint8)  # memory is taken where it is written to
        for number in np.flatnonzero(store.have):
            pixels[number] = store.images[number]
        return torch.from_numpy(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the map is read-only, and nobody writes to it
        mapped = torch.from_numpy(store.images)
    if isinstance(store.images, np.memmap):
        mapped.watched = Watched(store.images)  # type: ignore[attr-defined]  # for the loaders
    return mapped


def free_device_memory(device: torch.device) -> float:
    """Bytes that are free on an accelerator; that of the machine where the device does not tell."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()


def free_memory() -> float:
    """Bytes of memory that are free now; 4 GiB where the system does not tell."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 4 * 2.0**30


def _fits_on_disk(count: int, layouts: set[Layout]) -> bool:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    return sum(layout.bytes_per_image for layout in layouts) * count < 0.9 * shutil.disk_usage(folder).free
