"""From a config to `Data`, in four steps: open → split → statistics → loaders."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from cnnlab.config import AugmentConfig, Config, DataConfig
from cnnlab.data.augment import Augmentation
from cnnlab.data.batches import BatchLoader
from cnnlab.data.data import Data
from cnnlab.data.decode import Layout
from cnnlab.data.loader import Loader
from cnnlab.data.measure import measure
from cnnlab.data.notes import look_command
from cnnlab.data.own import OWN_SET, OwnData, class_names, open_named, read_images, split_parts
from cnnlab.data.pixels import Pixels, choose_layout, open_pixels, training_layout
from cnnlab.data.preprocess import Preprocess
from cnnlab.data.sources import open_images
from cnnlab.data.sources.base import FileSet, ImageSet
from cnnlab.data.split import NAMES, Split, check_classes, make_split, manifest
from cnnlab.data.store import Index, Progress
from cnnlab.errors import ConfigError, DataError
from cnnlab.imports import names_code


def build_data(
    config: Config,
    device: torch.device,
    progress: Progress = lambda done, total: None,
    preprocess: Preprocess | None = None,
    processes: int = 1,
    images: ImageSet | None = None,
) -> Data:
    """Everything `config.data` and `config.augment` say, checked; images are decoded here if they are not yet.

    Args:
        progress: called with (done, total) while images are decoded.
        preprocess: that of a trained model, to evaluate it; None measures mean and std on the train split.
        processes: how many of this machine load the same set, and share its memory and its cores.
        images: those of a user's own Dataset; None opens what `config.data` names.

    Raises:
        DataError: wrong files, too many unreadable ones, or a class without training images.
    """
    settings = config.data
    # open
    opened = open_set(settings) if images is None else images
    if isinstance(opened, OwnData):
        return build_own(config, opened, device, progress, preprocess, processes)
    if preprocess is not None:
        preprocess.refuse_own()
    images = _needed(opened, settings, config.seed)
    layout = preprocess.layout if preprocess else choose_layout(images, config)
    augmentation = Augmentation(config.augment, layout.height, layout.width)
    refuse_unfit(images, layout, augmentation)
    canvas = training_layout(images, layout, augmentation)
    pixels = open_pixels(images, layout, canvas, config, progress, processes)
    check_quarantine(pixels.index, images.names, settings)
    # split
    split = make_split(images.labels, pixels.index.ok, images.official, settings, config.seed)
    check_classes(images.class_counts(split.train), images.classes)
    if settings.per_class_train and not len(split.test):
        raise DataError(f"data.per_class_train={settings.per_class_train} leaves no image to test on; lower it.")
    # statistics
    preprocess = preprocess or Preprocess(layout, *measure(pixels.training, split.train, layout.channels))
    # loaders
    near = pixels.on(device, settings.storage)
    train, val, test = loaders_of(images, near, split, preprocess, augmentation, config, device)
    facts = manifest(split, images.names, pixels.index.digest, images.classes, settings, config.seed)
    data = Data(config, images, pixels.index, split, facts, preprocess, train, val, test, rest=pixels.rest)
    facts["quarantined"] = data.quarantined
    if config.adapt.method != "none":
        data.target_domain = build_data(target_config(config), device, progress, preprocess, processes)
    return data


def open_set(settings: DataConfig) -> ImageSet | OwnData:
    """What data.name means; nothing is decoded yet."""
    return open_named(settings) if names_code(settings.name) else open_images(settings)


def refuse_unfit(images: ImageSet, layout: Layout, augmentation: Augmentation) -> None:
    """Raise DataError for settings that the targets of a set do not go with."""
    masked = images.pixel_classes is not None
    if masked and layout.mode != "RGB":
        raise DataError("data.channels=1 leaves no room for the class of each pixel; leave it out.")
    if masked and augmentation.config.mixup:
        raise DataError("augment.mixup cannot mix classes of pixels; set it to 0, or use augment.cutmix.")
    if layout.rearrange != "none" and masked:
        raise DataError("data.rearrange leaves the classes of pixels behind; leave it out, or choose another set.")
    if layout.rearrange == "permute" and augmentation.moves:
        raise DataError("data.rearrange=permute leaves no neighbours to move; set augment=none.")


def loaders_of(
    images: ImageSet,
    pixels: Pixels,
    split: Split,
    preprocess: Preprocess,
    augmentation: Augmentation,
    config: Config,
    device: torch.device,
) -> tuple[Loader, Loader, Loader]:
    """For train, val and test."""
    targets, masked, size = images.targets, images.pixel_classes is not None, config.trainer.batch_size
    smaller = min(size, len(split.train))
    train = Loader(
        pixels.training, targets, split.train, preprocess, smaller, augmentation, True, config.seed, device, masked
    )
    train.ahead = pixels.ahead
    val, test = (
        Loader(pixels.evaluation, targets, split[part], preprocess, size, device=device, masked=masked)
        for part in ("val", "test")
    )
    return train, val, test


def _needed(images: ImageSet, settings: DataConfig, seed: int) -> ImageSet:
    """Of files that data.limit cuts down those of the split: the others are neither read nor decoded.

    Who is in the split is settled before, as if all could be read; one that cannot be is not replaced.
    """
    if settings.limit is None or settings.folds or not isinstance(images, FileSet):
        return images
    split = make_split(images.labels, np.ones(len(images), bool), images.official, settings, seed)
    check_classes(images.class_counts(split.train), images.classes)
    part_of = np.full(len(images), "", "<U5")
    for part in NAMES:
        part_of[split[part]] = part
    chosen = np.flatnonzero(part_of)
    return images.only(chosen, part_of[chosen])


def check_quarantine(index: Index, names: Sequence[str], settings: DataConfig) -> None:
    """Raise DataError if more than `data.max_corrupt` of the images cannot be read."""
    bad, count = len(index.reasons), len(names)
    if bad > settings.max_corrupt * count:
        first, reason = min(index.reasons.items())
        raise DataError(
            f"{bad:,} of {count:,} images cannot be read, the first is {names[first]} ({reason}). Replace or delete"
            f" them, or allow it with data.max_corrupt={math.ceil(1000 * bad / count) / 1000}."
            + ("" if settings.name == OWN_SET else f" To see them all: {look_command(settings, '--check')}")
        )


def target_config(config: Config) -> Config:
    """The config of the domain that `adapt.*` names: the same size, protocol and augmentation, another set."""
    root = config.data.root if config.adapt.root is None else config.adapt.root
    data = dataclasses.replace(config.data, name=config.adapt.data, root=root)
    return dataclasses.replace(config, data=data, adapt=dataclasses.replace(config.adapt, method="none"))


def build_own(
    config: Config,
    own: OwnData,
    device: torch.device,
    progress: Progress = lambda done, total: None,
    preprocess: Preprocess | None = None,
    processes: int = 1,
    num_classes: Callable[[Tensor], int] | None = None,
) -> Data:
    """The same as `build_data` from what the user gave as objects.

    Args:
        num_classes: tells from the first batch (B, C, H, W) how many classes there are, where no names do; None reads
            all training labels for it.
    """
    if own.is_whole_images():
        images = read_images(own, progress)
        return build_data(config, device, progress, preprocess, processes, images)
    changes = dataclasses.replace(config.augment, name="") != AugmentConfig(name="")
    if changes or config.adapt.method != "none":
        raise ConfigError(
            f"{'augment.*' if changes else 'adapt.method'} works on whole images, and batches of your own are used as"
            " they come; leave it out, or give a Dataset of Pillow images without transform."
        )
    return _build_batches(config, own, device, preprocess, num_classes)


def _build_batches(
    config: Config,
    own: OwnData,
    device: torch.device,
    preprocess: Preprocess | None,
    num_classes: Callable[[Tensor], int] | None,
) -> Data:
    """Loaders that give the batches of the user's own Dataset or DataLoaders as they come."""
    settings, size = config.data, config.trainer.batch_size
    how: dict[str, Any] = {
        "transform": own.transform,
        "seed": config.seed,
        "device": device,
        "workers": settings.workers or 0,
    }
    parts: dict[str, Any] = dict(own.parts)
    if not own.in_batches:
        parts = cut_parts(parts, config)
    loaders = {
        part: BatchLoader(parts.get(part, []), size, shuffle=part == "train", **how)  # type: ignore[arg-type]
        for part in NAMES
    }
    first = next(loaders["train"].epoch(), None)
    if first is None:
        raise DataError(f"{own.name} has no training image; check its length.")
    known = own.known_classes()
    several = first.targets.ndim == 2
    if several:
        classes = class_names(known, first.targets.shape[1])
    elif known is None:
        count = num_classes(first.images) if num_classes else 0
        classes = class_names(None, count or 1 + max(loader.largest_label() for loader in loaders.values()))
    else:
        classes = class_names(known, 0)
    for loader in loaders.values():
        loader.num_classes, loader.multi_label = len(classes), several
    loaders["train"].check(first.images, first.targets)
    if own.in_batches:
        trainer = dataclasses.replace(config.trainer, batch_size=loaders["train"].batch_size)
        config = dataclasses.replace(config, trainer=trainer)
    counts = [loaders[part].count for part in NAMES]
    starts = np.cumsum([0, *counts])
    split = Split(*(np.arange(start, start + count) for start, count in zip(starts, counts, strict=False)))
    images = ImageSet()
    images.classes, images.labels = classes, np.zeros(0, np.int64)
    images.multi_hot = np.zeros((0, len(classes)), np.uint8) if several else None
    images.official = np.repeat(NAMES, counts) if "test" in own.parts else None
    images.names = [f"{part}/{i}" for part, count in zip(NAMES, counts, strict=True) for i in range(count)]
    total = int(starts[-1])
    index = Index(np.ones(total, bool), np.zeros((total, 16), np.uint8), np.zeros((total, 2), np.int32), {})
    facts = manifest(split, images.names, index.digest, classes, settings, config.seed)
    facts |= {"quarantined": [], "contents": "not hashed: batches of the user's own code"}
    showing = Preprocess.for_showing(first.images)
    if preprocess is None or (preprocess.own, preprocess.layout) != (True, showing.layout):
        preprocess = showing  # of a trained model's that does not belong to these images, the caller can say so
    train, val, test = (loaders[part] for part in NAMES)
    return Data(config, images, index, split, facts, preprocess, train, val, test)


def cut_parts(parts: dict[str, Any], config: Config) -> dict[str, Any]:
    """Datasets for train, val and test; what is missing is cut from the training set as data.* says, by chance.

    Labels are known to the user's code alone, so that classes do not keep their shares exactly.
    """
    if not len(parts["train"]):
        return parts
    split = split_parts(parts, config.data, config.seed)
    starts = dict(zip(parts, np.cumsum([0, *map(len, parts.values())]), strict=False))
    cut = {}
    for part in NAMES:
        source = part if part in parts else "train"
        cut[part] = Subset(parts[source], (split[part] - starts[source]).tolist())
    return cut
