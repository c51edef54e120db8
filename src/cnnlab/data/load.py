"""One data set, ready to train on: pictures, split, store, preprocess and three loaders."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnlab.config import Config, compose, from_dict
from cnnlab.data.augment import Augmentation
from cnnlab.data.decode import Layout
from cnnlab.data.loader import Loader, Streamed
from cnnlab.data.preprocess import Preprocess
from cnnlab.data.sources import open_pictures
from cnnlab.data.sources.base import PictureSet
from cnnlab.data.sources.folder import DEFAULT_SIDE
from cnnlab.data.split import Split, check_classes, make_split, manifest
from cnnlab.data.store import Index, ReadAhead, cache_folder, index_array, open_stores, reader_ahead
from cnnlab.device import choose_device
from cnnlab.errors import DataError, nearest

CANVAS = 1.25  # side of the stored training picture over the side of the crop, for random resized crops
MEMORY_SHARE = 0.4  # of the free memory that pictures may take before they stay on disk


@dataclass
class Data:
    """Loaders `train`, `val` and `test` give (images, labels) batches; `classes[label]` is a name.

    Where the classes are those of pixels (`segments`), they give (images, masks).
    """

    config: Config
    pictures: PictureSet
    index: Index
    split: Split
    manifest: dict[str, Any]
    preprocess: Preprocess
    train: Loader
    val: Loader
    test: Loader
    target: Data | None = None  # the domain that training adapts to

    @property
    def segments(self) -> bool:
        """Whether what is learned is a class for every pixel."""
        return self.pictures.pixel_classes is not None

    @property
    def classes(self) -> list[str]:
        """What a model answers: classes of pictures, or of pixels."""
        return list(self.pictures.classes if self.pictures.pixel_classes is None else self.pictures.pixel_classes)

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
        """Name and reason of each picture that could not be read; none of them is in a split."""
        return [{"name": self.pictures.names[i], "reason": why} for i, why in sorted(self.index.reasons.items())]

    def loader(self, part: str) -> Loader:
        return {"train": self.train, "val": self.val, "test": self.test}[part]

    def evaluation_loader(self, part: str, batch_size: int | None = None) -> Loader:
        """The pictures of a split in order, without augmentation; by default as many at once as hold 2 million pixels,
        500 at the most."""
        height, width = self.image_size
        batch_size = batch_size or max(1, min(500, 2_000_000 // (height * width)))
        source = self.test if part == "test" else self.val
        labels = self.pictures.labels
        members = self.split[part]
        return Loader(
            source.pixels, labels, members, self.preprocess, batch_size, device=source.device, masked=self.segments
        )

    def names(self, part: str) -> list[str]:
        return [self.pictures.names[i] for i in self.split[part]]


def load_data(
    name: str = "digits",
    *,
    augment: str | None = None,
    batch_size: int = 128,
    seed: int = 0,
    device: str = "cpu",
    **keys: Any,
) -> Data:
    """Load a set of pictures by name.

    Args:
        name: digits, mnist, fashion_mnist, cifar10, cifar100, caltech101 or folder.
        augment: none, light, standard or strong; None takes what the set's recipe names.
        batch_size: pictures a batch.
        seed: of the split, the order and the augmentation.
        device: where the batches are given.
        keys: any `data.*` key, such as root="data", val_fraction=0.25, image_size=64 or limit=1000.

    Raises:
        ConfigError, DataError: see `cnnlab.config` and `cnnlab.data.sources`.
    """
    overrides = [f"data={name}", f"trainer.batch_size={batch_size}", f"seed={seed}"]
    overrides += [f"augment={augment}"] if augment else []
    config = compose(overrides)
    values = config.to_dict()
    unknown = sorted(set(keys) - set(values["data"]))
    if unknown:
        raise DataError(f"load_data has no argument {unknown[0]!r}.{nearest(unknown[0], values['data'])}")
    values["data"].update({key: str(value) if isinstance(value, Path) else value for key, value in keys.items()})
    return build_data(from_dict(values), choose_device(str(device)))


def build_data(
    config: Config,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
    preprocess: Preprocess | None = None,
    processes: int = 1,
) -> Data:
    """Everything `config.data` and `config.augment` say, checked; pictures are decoded here if they are not yet.

    Args:
        progress: called with (done, total) while pictures are decoded.
        preprocess: that of a trained model, to evaluate it; None measures mean and std on the train split.
        processes: how many of this machine load the same set, and share its memory and its cores.

    Raises:
        DataError: wrong files, too many unreadable ones, or a class without training pictures.
    """
    settings = config.data
    pictures = open_pictures(settings)
    layout = preprocess.layout if preprocess else choose_layout(pictures, config)
    masked = pictures.pixel_classes is not None
    if masked and layout.mode != "RGB":
        raise DataError("data.channels=1 leaves no room for the class of each pixel; leave it out.")
    if masked and config.augment.mixup:
        raise DataError("augment.mixup cannot mix classes of pixels; set it to 0, or use augment.cutmix.")
    if layout.rearrange != "none" and masked:
        raise DataError("data.rearrange leaves the classes of pixels behind; leave it out, or choose another set.")
    augmentation = Augmentation(config.augment, layout.height, layout.width)
    if layout.rearrange == "permute" and augmentation.moves:
        raise DataError("data.rearrange=permute leaves no neighbours to move; set augment=none.")
    canvas = training_layout(pictures, layout, augmentation)
    native = pictures.array is not None and pictures.size == (layout.height, layout.width)
    native = native and (pictures.mode == layout.mode or pictures.mode == "L") and canvas == layout
    native = native and layout.rearrange == "none"

    streaming = settings.storage == "stream" or (
        settings.storage == "auto" and not native and not _fits_on_disk(len(pictures), {layout, canvas})
    )
    ahead: ReadAhead | None = None
    evaluation_pixels: Tensor | Streamed
    training_pixels: Tensor | Streamed
    if native:
        assert pictures.array is not None
        index = index_array(pictures)
        masks = pictures.masks if masked else None
        evaluation_pixels = training_pixels = pack(pictures.array, layout.stored_channels, masks)
    elif streaming:
        index = open_stores(pictures, [None], progress)[0].index
        workers = settings.workers if settings.workers is not None else max(1, (os.cpu_count() or 1) // processes)
        evaluation_pixels = Streamed(pictures, layout, workers)
        training_pixels = Streamed(pictures, canvas, workers)
    else:
        layouts = [layout] if canvas == layout else [layout, canvas]
        stores = open_stores(pictures, layouts, progress)
        index = stores[0].index
        images = [store.images for store in stores if store.images is not None]
        resident = settings.storage == "memory" or (
            settings.storage == "auto"
            and processes == 1  # several read one memory map, instead of a copy each
            and sum(i.nbytes for i in images) < MEMORY_SHARE * free_memory()
        )
        tensors = [as_tensor(i, resident) for i in images]
        ahead = None if resident else reader_ahead(images[-1])
        evaluation_pixels, training_pixels = tensors[0], tensors[-1]
    if device.type != "cpu" and isinstance(evaluation_pixels, Tensor) and isinstance(training_pixels, Tensor):
        same = evaluation_pixels is training_pixels
        held = training_pixels.nbytes + (0 if same else evaluation_pixels.nbytes)
        if settings.storage != "mmap" and held <= MEMORY_SHARE * free_device_memory(device):
            training_pixels = training_pixels.to(device)
            evaluation_pixels = training_pixels if same else evaluation_pixels.to(device)

    check_quarantine(index, len(pictures), settings.max_corrupt, pictures.names)
    split = make_split(pictures.labels, index.ok, pictures.official, settings, config.seed)
    check_classes(split, pictures.labels, pictures.classes)
    if settings.per_class_train and not len(split.test):
        raise DataError(f"data.per_class_train={settings.per_class_train} leaves no picture to test on; lower it.")
    if preprocess is None:
        mean, std = measure(training_pixels, split.train, layout.channels)
        preprocess = Preprocess(layout, mean, std)

    labels = pictures.labels
    size = min(config.trainer.batch_size, len(split.train))
    train = Loader(
        training_pixels, labels, split.train, preprocess, size, augmentation, True, config.seed, device, masked
    )
    val, test = (
        Loader(
            evaluation_pixels, labels, split[part], preprocess, config.trainer.batch_size, device=device, masked=masked
        )
        for part in ("val", "test")
    )
    if (
        isinstance(training_pixels, Tensor) and training_pixels.device.type == "cpu"
    ):  # else they are on the device by now
        train.ahead = ahead
    facts = manifest(split, pictures.names, index.digest, pictures.classes, settings, config.seed)
    data = Data(config, pictures, index, split, facts, preprocess, train, val, test)
    facts["quarantined"] = data.quarantined
    if config.adapt.method != "none":
        data.target = build_data(target_config(config), device, progress, preprocess, processes)
    return data


def target_config(config: Config) -> Config:
    """The config of the domain that `adapt.*` names: the same size, protocol and augmentation, another set."""
    root = config.data.root if config.adapt.root is None else config.adapt.root
    data = dataclasses.replace(config.data, name=config.adapt.data, root=root)
    return dataclasses.replace(config, data=data, adapt=dataclasses.replace(config.adapt, method="none"))


def choose_layout(pictures: PictureSet, config: Config) -> Layout:
    """Evaluation layout: `data.image_size`, else the set's own size, else 128 pixels."""
    height, width = config.data.image_size or pictures.size or (DEFAULT_SIDE, DEFAULT_SIDE)
    mode = {1: "L", 3: "RGB", None: pictures.mode}[config.data.channels]
    return Layout(height, width, mode, config.data.fit, config.data.rearrange)


def training_layout(pictures: PictureSet, layout: Layout, augmentation: Augmentation) -> Layout:
    """For random resized crops the whole picture is stored, larger; else training and evaluation share their pixels."""
    if augmentation.crop != "resized" or pictures.size == (layout.height, layout.width):
        return layout
    height, width = (round(side * CANVAS) for side in (layout.height, layout.width))
    return dataclasses.replace(layout, height=height, width=width, fit="canvas")


def pack(array: np.ndarray, stored_channels: int | None = None, masks: np.ndarray | None = None) -> Tensor:
    """(n, H, W) or (n, H, W, 3) uint8 → (n, H, W, stored channels) tensor.

    Args:
        stored_channels: 1 or 4; 4 makes colour pictures of grey ones. None: 1 for grey, 4 for colour.
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


def as_tensor(images: np.ndarray, resident: bool) -> Tensor:
    """Memory-mapped pixels → tensor, read into memory or left on disk."""
    if resident:
        return torch.from_numpy(np.array(images))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the map is read-only, and nobody writes to it
        return torch.from_numpy(images)


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
    return sum(layout.bytes_per_picture for layout in layouts) * count < 0.9 * shutil.disk_usage(folder).free


def check_quarantine(index: Index, count: int, allowed: float, names: Sequence[str]) -> None:
    """Raise DataError if more than `allowed` of the pictures cannot be read."""
    bad = len(index.reasons)
    if bad > allowed * count:
        first, reason = min(index.reasons.items())
        raise DataError(
            f"{bad:,} of {count:,} pictures cannot be read, the first is {names[first]} ({reason}). Mend or delete"
            " them (cnnlab data ... --check lists them), or allow it with"
            f" data.max_corrupt={math.ceil(1000 * bad / count) / 1000}."
        )


def measure(
    pixels: Tensor | Streamed, numbers: np.ndarray, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation of each channel over pictures `numbers`, in units of [0, 1]."""
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for block in _blocks(pixels, numbers):
        counts = [torch.bincount(block[..., c].reshape(-1), minlength=256).cpu().numpy() for c in range(channels)]
        values = np.arange(256.0)
        total += [histogram @ values for histogram in counts]
        squares += [histogram @ values**2 for histogram in counts]
        count += int(counts[0].sum())
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1.0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _blocks(pixels: Tensor | Streamed, numbers: np.ndarray, size: int = 512) -> Iterator[Tensor]:
    parts = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    if isinstance(pixels, Streamed):
        yield from pixels.batches([part.tolist() for part in parts])
        return
    for part in parts:
        yield pixels[torch.from_numpy(part).to(pixels.device)]
