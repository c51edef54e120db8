"""One data set, ready to train on: pictures, split, store, preprocess and three loaders."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from cnnlab.config import AugmentConfig, Config, DataConfig, from_dict, resolve
from cnnlab.data.augment import Augmentation
from cnnlab.data.batch import Batch
from cnnlab.data.batches import BatchLoader
from cnnlab.data.decode import Layout
from cnnlab.data.loader import Loader, Streamed
from cnnlab.data.measure import measure
from cnnlab.data.notes import look_command
from cnnlab.data.own import OWN_SET, OwnData, Source, class_names, import_dataset, open_named, read_pictures
from cnnlab.data.preprocess import Preprocess
from cnnlab.data.recommend import facts_of, follows_from_set, is_said, recommend
from cnnlab.data.sources import open_pictures
from cnnlab.data.sources.base import FileSet, PictureSet
from cnnlab.data.sources.folder import DEFAULT_SIDE
from cnnlab.data.split import NAMES, Split, check_classes, make_split, manifest
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
from cnnlab.device import choose_device
from cnnlab.errors import ConfigError, DataError, nearest
from cnnlab.imports import names_code
from cnnlab.representation import as_html, as_text

CANVAS = 1.25  # side of the stored training picture over the side of the crop, for random resized crops
SHOWN = 10  # class names in a repr
MEMORY_SHARE = 0.4  # of an accelerator's free memory that pictures may take before they stay on disk


@dataclass(frozen=True)
class Rest:
    """Evaluation pixels: `have` (n,) bool tells whose are there; `decode` gives those of all pictures."""

    have: np.ndarray
    decode: Callable[[], Tensor]


@dataclass(repr=False)
class Data:
    """Loaders `train`, `val` and `test` give (images, labels) batches; `classes[label]` is a name.

    Where every pixel has a class (`pixel_targets`), they give (images, masks); where an image may have several classes
    (`multi_label`), labels are (B, K) float of 0 and 1. Where they are `BatchLoader`s, the
    batches are the user's own, `preprocess` is for showing them alone, and `pictures` knows no picture.
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
        """Training pictures of each class. Raises ConfigError where only the user's own code knows them."""
        if self.in_batches:
            raise ConfigError(
                "trainer.class_weights=balanced and trainer.balanced_sampling count the training labels first, and"
                " batches of your own are used as they come; give class_weights as a list, or sample in your"
                " DataLoader."
            )
        return self.pictures.class_counts(self.split.train).tolist()

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.pictures.multi_hot is not None

    @property
    def pixel_targets(self) -> bool:
        """Whether every pixel has a class, and these are what is learned."""
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

    def label_names(self, batch: Batch) -> list[str]:
        """What each training image of a batch is labelled as, also where the classes of its pixels are learned."""
        if self.in_batches:
            one_hot = batch.targets if self.multi_label else F.one_hot(batch.targets, self.num_classes)
            rows = [row.nonzero()[:, 0].tolist() for row in one_hot]
            return [", ".join(self.classes[label] for label in row) or "–" for row in rows]
        numbers = self.split.train[batch.members.cpu()].tolist()
        return [", ".join(self.pictures.class_names_of(number)) or "–" for number in numbers]

    def loader(self, part: str) -> Loader:
        return {"train": self.train, "val": self.val, "test": self.test}[part]

    def evaluation_loader(self, pictures: str | np.ndarray, batch_size: int | None = None) -> Loader:
        """Pictures in order, without augmentation: those of a split, or those of these numbers.

        By default as many at once as hold 2 million pixels, 500 at the most. Batches of the user's own stay as they
        are, and numbers are those of one split.
        """
        height, width = self.image_size
        if self.in_batches:
            return self._own_batches(pictures)
        batch_size = batch_size or max(1, min(500, 2_000_000 // (height * width)))
        numbers = self.split[pictures] if isinstance(pictures, str) else pictures
        pixels, targets = self.evaluation_pixels(numbers), self.pictures.targets
        return Loader(
            pixels, targets, numbers, self.preprocess, batch_size, device=self.test.device, masked=self.pixel_targets
        )

    def evaluation_pixels(self, numbers: np.ndarray) -> Tensor | Streamed:
        """(N, H, W, stored channels) uint8, or `Streamed`, that may be asked for pictures `numbers`.

        Training pictures that were stored for random crops alone are decoded now, once.
        """
        if self.rest and not self.rest.have[numbers].all():
            return self.rest.decode()
        return self.test.pixels

    def _own_batches(self, pictures: str | np.ndarray) -> BatchLoader:
        if isinstance(pictures, str):
            loader = self.loader(pictures)
            assert isinstance(loader, BatchLoader)
            if pictures != "train" and isinstance(loader.source, DataLoader):
                return loader  # it learns its count while it is read
            return loader.in_order()
        first = 0 if not len(pictures) else int(pictures[0])
        part = next((name for name in NAMES if first in self.split[name]), "test")
        loader = self.loader(part)
        assert isinstance(loader, BatchLoader)
        return loader.picked((pictures - self.split[part][:1]).tolist())

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
        return [self.pictures.names[i] for i in self.split[part]]


def load_data(
    name: str | Source = "digits",
    *,
    val: Source | None = None,
    test: Source | None = None,
    transform: Callable[[Any], Any] | None = None,
    classes: Sequence[str] | None = None,
    augment: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    trust_code: bool = False,
    **keys: Any,
) -> Data:
    """Load a set of pictures by name, or from a Dataset or DataLoaders of your own.

    Args:
        name: digits, multi_digits, mnist, fashion_mnist, cifar10, cifar100, caltech101 or folder;
            "package.module:Class" for a Dataset of your own; or the training set itself: a Dataset of (image, label),
            or a DataLoader of (images, labels). A label is a class number, or a 0 or 1 for each class where an image
            may have several.
        val, test: beside a training set of your own, of the same kind. Without them a Dataset is split as a folder is.
        transform: of the images of a Dataset of your own; what it gives is used as it is, in each epoch anew.
        classes: names of the classes of your own set; None takes its `classes`, else numbers.
        augment: none, light, standard or strong; None takes what the set's recipe names, and none for your own.
        batch_size: images per batch; None takes 128, or fewer for a small set.
        seed: of the split, the order and the augmentation.
        device: where the batches are given.
        trust_code: let files of the folder conf name code to run; what `name` itself names is run anyway.
        keys: any `data.*` key, such as root="data", val_fraction=0.25, image_size=64 or limit=1000; beside
            "package.module:Class" any argument of its constructor as well. Size, fit and augmentation of a folder's
            images follow from them where they are not given.

    Raises:
        ConfigError, DataError: see `cnnlab.config` and `cnnlab.data.sources`.
    """
    own = None
    if not isinstance(name, str):
        own = OwnData(name, val, test, transform, classes)
    elif not (val is None and test is None and transform is None and classes is None):
        raise DataError(f"val=, test=, transform= and classes= are for a Dataset of your own, and {name!r} is a name.")
    words = [f"data={name}"] if own is None else ["data=any", f"data.name={OWN_SET}"]
    overrides = [*words, f"seed={seed}"]
    overrides += [] if batch_size is None else [f"trainer.batch_size={batch_size}"]
    overrides += [f"augment={augment}"] if augment else ["augment=none"] if own else []

    composed = resolve(overrides, trust_code=trust_code)
    usual = {"trainer.batch_size": (128, "what load_data gives")}
    usual = {key: pair for key, pair in usual.items() if not is_said(composed, key)}

    def with_keys(derived: dict[str, tuple[Any, str]]) -> Config:
        values = resolve(overrides, derived=usual | derived, trust_code=trust_code).config.to_dict()
        unknown = sorted(set(keys) - set(values["data"]))
        if unknown and names_code(name):
            values["data"]["args"] = {key: keys[key] for key in unknown}
        elif unknown:
            raise DataError(f"load_data has no argument {unknown[0]!r}.{nearest(unknown[0], values['data'])}")
        known = {key: value for key, value in keys.items() if key not in unknown}
        values["data"].update({key: str(value) if isinstance(value, Path) else value for key, value in known.items()})
        return from_dict(values)

    config = with_keys({})
    if own is None and follows_from_set(config):
        given = {f"data.{key}" for key in keys} | {"model", "model.width", "trainer.epochs"}  # or of no use here
        facts = facts_of(open_pictures(config.data), config.data, seed)
        found = recommend(facts, config, lambda key: key in given or is_said(composed, key))
        config = with_keys({one.key: (one.value, one.reason) for one in found})
    import_dataset(config.data.name)  # the user's own word names it, or trust_code allows it
    place = choose_device(str(device))
    if own is not None:
        return build_own(config, own, place)
    data = build_data(config, place)
    data.option = name if isinstance(name, str) else None
    return data


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
    if own.is_whole_pictures():
        pictures = read_pictures(own, progress)
        return build_data(config, device, progress, preprocess, processes, pictures)
    changes = dataclasses.replace(config.augment, name="") != AugmentConfig(name="")
    if changes or config.adapt.method != "none":
        raise ConfigError(
            f"{'augment.*' if changes else 'adapt.method'} works on whole pictures, and batches of your own are used as"
            " they come; leave it out, or give a Dataset of Pillow pictures without transform."
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
        raise DataError(f"{own.name} has no training image; see to its length.")
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
        loader.num_classes = len(classes)
    loaders["train"].check(first.images, first.targets)
    if own.in_batches:
        trainer = dataclasses.replace(config.trainer, batch_size=loaders["train"].batch_size)
        config = dataclasses.replace(config, trainer=trainer)
    counts = [loaders[part].count for part in NAMES]
    starts = np.cumsum([0, *counts])
    split = Split(*(np.arange(start, start + count) for start, count in zip(starts, counts, strict=False)))
    pictures = PictureSet()
    pictures.classes, pictures.labels = classes, np.zeros(0, np.int64)
    pictures.multi_hot = np.zeros((0, len(classes)), np.uint8) if several else None
    pictures.official = np.repeat(NAMES, counts) if "test" in own.parts else None
    pictures.names = [f"{part}/{i}" for part, count in zip(NAMES, counts, strict=True) for i in range(count)]
    total = int(starts[-1])
    index = Index(np.ones(total, bool), np.zeros((total, 16), np.uint8), np.zeros((total, 2), np.int32), {})
    facts = manifest(split, pictures.names, index.digest, classes, settings, config.seed)
    facts |= {"quarantined": [], "contents": "not hashed: batches of the user's own code"}
    showing = Preprocess.for_showing(first.images)
    if preprocess is None or (preprocess.own, preprocess.layout) != (True, showing.layout):
        preprocess = showing  # of a trained model's that does not belong to these images, the caller can say so
    train, val, test = (loaders[part] for part in NAMES)
    return Data(config, pictures, index, split, facts, preprocess, train, val, test)


def cut_parts(parts: dict[str, Any], config: Config) -> dict[str, Any]:
    """Datasets for train, val and test; what is missing is cut from the training set as data.* says, by chance.

    Labels are known to the user's code alone, so that classes do not keep their shares exactly.
    """
    count = len(parts["train"])
    if not count:
        return parts
    official = np.repeat(list(parts), [len(dataset) for dataset in parts.values()])
    same = np.zeros(len(official), np.int64)
    split = make_split(
        same, np.ones(len(official), bool), official if len(parts) > 1 else None, config.data, config.seed
    )
    starts = dict(zip(parts, np.cumsum([0, *map(len, parts.values())]), strict=False))
    cut = {}
    for part in NAMES:
        source = part if part in parts else "train"
        cut[part] = Subset(parts[source], (split[part] - starts[source]).tolist())
    return cut


def build_data(
    config: Config,
    device: torch.device,
    progress: Progress = lambda done, total: None,
    preprocess: Preprocess | None = None,
    processes: int = 1,
    pictures: PictureSet | None = None,
) -> Data:
    """Everything `config.data` and `config.augment` say, checked; pictures are decoded here if they are not yet.

    Args:
        progress: called with (done, total) while pictures are decoded.
        preprocess: that of a trained model, to evaluate it; None measures mean and std on the train split.
        processes: how many of this machine load the same set, and share its memory and its cores.
        pictures: those of a user's own Dataset; None opens what `config.data` names.

    Raises:
        DataError: wrong files, too many unreadable ones, or a class without training pictures.
    """
    settings = config.data
    if pictures is None and names_code(settings.name):
        opened = open_named(settings)
        if isinstance(opened, OwnData):
            return build_own(config, opened, device, progress, preprocess, processes)
        pictures = opened
    if preprocess is not None:
        preprocess.refuse_own()
    pictures = _needed(open_pictures(settings) if pictures is None else pictures, settings, config.seed)
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
    stored = _open_pixels(pictures, layout, canvas, config, progress, processes)
    index, evaluation_pixels, training_pixels = stored.index, stored.evaluation, stored.training
    check_quarantine(index, pictures.names, settings)
    split = make_split(pictures.labels, index.ok, pictures.official, settings, config.seed)
    check_classes(pictures.class_counts(split.train), pictures.classes)
    if settings.per_class_train and not len(split.test):
        raise DataError(f"data.per_class_train={settings.per_class_train} leaves no picture to test on; lower it.")
    if preprocess is None:
        mean, std = measure(training_pixels, split.train, layout.channels)
        preprocess = Preprocess(layout, mean, std)

    if device.type != "cpu" and isinstance(evaluation_pixels, Tensor) and isinstance(training_pixels, Tensor):
        same = evaluation_pixels is training_pixels
        held = training_pixels.nbytes + (0 if same else evaluation_pixels.nbytes)
        if settings.storage != "mmap" and held <= MEMORY_SHARE * free_device_memory(device):
            training_pixels = training_pixels.to(device)
            evaluation_pixels = training_pixels if same else evaluation_pixels.to(device)

    targets = pictures.targets
    size = min(config.trainer.batch_size, len(split.train))
    train = Loader(
        training_pixels, targets, split.train, preprocess, size, augmentation, True, config.seed, device, masked
    )
    val, test = (
        Loader(
            evaluation_pixels, targets, split[part], preprocess, config.trainer.batch_size, device=device, masked=masked
        )
        for part in ("val", "test")
    )
    if isinstance(training_pixels, Tensor) and training_pixels.device.type == "cpu":  # else they are on the device
        train.ahead = stored.ahead
    facts = manifest(split, pictures.names, index.digest, pictures.classes, settings, config.seed)
    data = Data(config, pictures, index, split, facts, preprocess, train, val, test, rest=stored.rest)
    facts["quarantined"] = data.quarantined
    if config.adapt.method != "none":
        data.target = build_data(target_config(config), device, progress, preprocess, processes)
    return data


def _needed(pictures: PictureSet, settings: DataConfig, seed: int) -> PictureSet:
    """Of files that data.limit cuts down those of the split: the others are neither read nor decoded.

    Who is in the split is settled before, as if all could be read; one that cannot be is not replaced.
    """
    if settings.limit is None or settings.folds or not isinstance(pictures, FileSet):
        return pictures
    split = make_split(pictures.labels, np.ones(len(pictures), bool), pictures.official, settings, seed)
    check_classes(pictures.class_counts(split.train), pictures.classes)
    part_of = np.full(len(pictures), "", "<U5")
    for part in NAMES:
        part_of[split[part]] = part
    chosen = np.flatnonzero(part_of)
    return pictures.only(chosen, part_of[chosen])


@dataclass(frozen=True)
class _Pixels:
    """What the loaders read from: `evaluation` at the pictures of val and test, `training` at those of train."""

    index: Index
    evaluation: Tensor | Streamed
    training: Tensor | Streamed
    ahead: ReadAhead | None = None
    rest: Rest | None = None


def _open_pixels(
    pictures: PictureSet, layout: Layout, canvas: Layout, config: Config, progress: Progress, processes: int
) -> _Pixels:
    """The set's own array if it is in the right layout already, else the stores, or files decoded as they are needed.

    A memory map of what was decoded a moment ago, or is read often, lies in the system's cache: it is as fast as a copy
    in memory but for a twentieth, takes no time to make, and several processes share it.
    """
    settings = config.data
    native = pictures.array is not None and pictures.size == (layout.height, layout.width)
    native = native and (pictures.mode == layout.mode or pictures.mode == "L") and canvas == layout
    if native and layout.rearrange == "none":
        assert pictures.array is not None
        masks = pictures.masks if pictures.pixel_classes is not None else None
        packed = pack(pictures.array, layout.stored_channels, masks)
        return _Pixels(index_array(pictures), packed, packed)
    fits = settings.storage != "auto" or _fits_on_disk(len(pictures), {layout, canvas})
    if settings.storage == "stream" or not fits:
        index = open_stores(pictures, [None], progress)[0].index
        workers = settings.workers if settings.workers is not None else max(1, (os.cpu_count() or 1) // processes)
        return _Pixels(index, Streamed(pictures, layout, workers), Streamed(pictures, canvas, workers))
    in_memory = settings.storage == "memory"
    stores = open_for_split(pictures, layout, canvas, config, progress)
    tensors = [as_tensor(store, in_memory) for store in stores]

    def decode_all() -> Tensor:
        (now,) = open_stores(pictures, [layout], progress)
        other = (now.index.digest != stores[0].index.digest).any(1) & stores[0].index.ok
        if other.any():
            raise changed_now(pictures.names[int(other.argmax())])
        return as_tensor(now, in_memory)

    ahead = None if in_memory else reader_ahead(stores[-1].images)
    rest = Rest(stores[0].have, functools.cache(decode_all)) if canvas != layout else None
    return _Pixels(stores[0].index, tensors[0], tensors[-1], ahead, rest)


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


def open_for_split(
    pictures: PictureSet, layout: Layout, canvas: Layout, config: Config, progress: Progress
) -> list[Store]:
    """The store of evaluation, and that of training where it is another; a picture lies where its split needs it.

    Who is in which split is known for sure when all were tried: where some cannot be read, a second pass adds what the
    true split needs beyond the first guess.
    """
    if canvas == layout:
        return open_stores(pictures, [layout], progress)
    readable = np.ones(len(pictures), bool)
    while True:
        split = make_split(pictures.labels, readable, pictures.official, config.data, config.seed)
        numbers = [np.concatenate([split.val, split.test]), split.train]
        stores = open_stores(pictures, [layout, canvas], progress, numbers)
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
    return sum(layout.bytes_per_picture for layout in layouts) * count < 0.9 * shutil.disk_usage(folder).free


def check_quarantine(index: Index, names: Sequence[str], settings: DataConfig) -> None:
    """Raise DataError if more than `data.max_corrupt` of the pictures cannot be read."""
    bad, count = len(index.reasons), len(names)
    if bad > settings.max_corrupt * count:
        first, reason = min(index.reasons.items())
        raise DataError(
            f"{bad:,} of {count:,} pictures cannot be read, the first is {names[first]} ({reason}). Replace or delete"
            f" them, or allow it with data.max_corrupt={math.ceil(1000 * bad / count) / 1000}."
            + ("" if settings.name == OWN_SET else f" To see them all: {look_command(settings, '--check')}")
        )
