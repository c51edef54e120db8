"""Settings that follow from a set: how many images there are, how large, and of what kind.

The recipes are tuned on tens of thousands of images. A set of a few hundred needs smaller batches, more epochs and a
smaller network, or it ends after a handful of steps. docs/results.md says what was measured; `benchmarks/defaults.py`
measures a grid of sets, or any folder. What the user says, as a key or as an option, is never overruled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnlab.config import GROUPS, Composed, Config, DataConfig, Source, resolve
from cnnlab.data.catalog import CATALOG
from cnnlab.data.own import OwnData, as_image, import_dataset, open_named, read_item, split_parts
from cnnlab.data.sources import open_images
from cnnlab.data.sources.base import FileSet, ImageSet
from cnnlab.data.sources.folder import DEFAULT_SIDE, SMALL
from cnnlab.data.split import make_split
from cnnlab.errors import DataError
from cnnlab.imports import names_code

TUNED_ON = 45_000  # images that the recipe of folders was tuned on
PHOTOGRAPH = 64  # pixels of the shorter side from which on an image is treated as a photograph
SMALLEST_BATCH, STEPS_PER_EPOCH = 8, 10
LEAST_STEPS, MOST_EPOCHS = 500, 150
MANY = 2_000  # images from which on a wide network pays
SAMPLED = 64  # images whose headers tell how large the set's images are
CUT = ("limit", "per_class_train")  # data.* keys that cut a set down


@dataclass(frozen=True)
class Facts:
    """What is known of a set before an image is decoded.

    Attributes:
        images: to train on.
        side: pixels of the shorter side of a typical image.
        common: whether all images are small and share their size, so that they are used as they are.
        written: images in grey, or classes named by single characters: a mirror image would be something else.
        ready: the user's own code makes tensors of the images, which are used as they come.
        batched: it makes the batches too.
    """

    images: int
    side: int
    common: bool
    written: bool
    ready: bool = False
    batched: bool = False


@dataclass(frozen=True)
class Recommended:
    """One setting, and why."""

    key: str
    value: Any
    reason: str

    @property
    def word(self) -> str:
        return f"{self.key}={self.value}"


def recommend(
    facts: Facts, config: Config, said: Callable[[str], bool], begun_from: Mapping[str, Any] | None = None
) -> list[Recommended]:
    """Settings for a set of these facts, each with its reason.

    A folder and a Dataset of the user's own get all of them; a set that has a recipe of its own, and is cut down, those
    that follow from the number of images. Later settings follow from earlier ones, whether recommended or said.

    Args:
        config: what the recipe and the user's words gave.
        said: whether the user has decided on a key; it is then left alone.
        begun_from: name and arguments of the network whose weights init.from loads; it is taken as it is.
    """
    found: list[Recommended] = []

    def take(key: str, value: Any, reason: str, before: Any = None) -> Any:
        """The value that will hold: the user's, or this one, which is then recommended if it changes anything."""
        if said(key):
            return before
        if value != before:
            found.append(Recommended(key, value, reason))
        return value

    general = has_no_recipe(config)
    if general:
        side = min(config.data.image_size or [facts.side if facts.common or facts.ready else DEFAULT_SIDE])
        if not (facts.common or facts.ready):
            near = min(DEFAULT_SIDE, max(32, 16 * round(facts.side / 16)))
            usual = side if config.data.name == "folder" or config.data.image_size else None  # else their own
            side = take("data.image_size", near, f"the shorter side of an image has about {facts.side} pixels", usual)
            take("data.fit", "squash", "the whole image, at any ratio of its sides", "crop")
        if config.init.source is not None:
            for key, value in (begun_from or {}).items():
                take("model" if key == "name" else f"model.{key}", value, "the network that init.from names")
        elif side >= PHOTOGRAPH:
            take("model", "convnet", "the network for photographs")
            if facts.images < MANY:
                take("model.width", 16, f"half the width for fewer than {MANY:,} images")
        else:
            take("model", config.model["name"], f"the network for images of fewer than {PHOTOGRAPH} pixels")
        if facts.written and not facts.ready:
            take("augment", "light", "no mirror images: they are grey, or their classes are single characters")
    trainer = config.trainer
    if facts.batched:
        return found
    batch = max(trainer.devices, batch_for(facts.images, trainer.batch_size))
    steps = facts.images // batch
    why = f"{STEPS_PER_EPOCH} or more steps per epoch" if steps >= STEPS_PER_EPOCH else "the smallest batch in use"
    batch = take("trainer.batch_size", batch, f"{why}, from {facts.images:,} training images", trainer.batch_size)
    steps = max(1, facts.images // batch // trainer.accumulate)
    epochs = epochs_for(facts.images, steps, trainer.epochs, general)
    take("trainer.epochs", epochs, f"{epochs * steps:,} steps in all", trainer.epochs)
    return found


def batch_for(images: int, most: int) -> int:
    """Images per batch: a power of two that leaves STEPS_PER_EPOCH steps, SMALLEST_BATCH at least, `most` at most."""
    return min(most, max(SMALLEST_BATCH, _power_of_two(images // STEPS_PER_EPOCH)))


def epochs_for(images: int, steps: int, usual: int, tuned_on_many: bool) -> int:
    """Epochs that give `images`, in so many steps each, LEAST_STEPS: between the `usual` number and MOST_EPOCHS.

    Args:
        tuned_on_many: the usual number is for TUNED_ON images; fewer get more epochs, by the fourth root of the ratio.
    """
    wanted = -(-LEAST_STEPS // steps)
    if tuned_on_many:
        wanted = max(wanted, round(usual * (TUNED_ON / max(1, images)) ** 0.25))
    return max(usual, min(MOST_EPOCHS, wanted))


def resolve_for_set(
    words: Sequence[str],
    config_dir: str | Path | None = None,
    config_file: str | Path | None = None,
    trust_code: bool = False,
    download: bool = True,
    network_of: Callable[[str], Mapping[str, Any] | None] = lambda source: None,
) -> tuple[Composed, list[Recommended]]:
    """What these words and files say, above what follows from the set that they name, and that.

    A set that has a recipe of its own is left to it unless the words cut the set down; a recipe that is named is always
    followed.

    Args:
        config_dir, config_file, trust_code: see `cnnlab.config.compose`.
        download: let a set that is not there be fetched, where data.download allows it too.
        network_of: gives name and arguments of the network that lies at init.from, None where it does not say.

    Raises:
        ConfigError, DataError: see `cnnlab.config.compose` and `cnnlab.data.sources`.
    """
    composed = resolve(words, config_dir, config_file, trust_code=trust_code)
    config = composed.config
    if _said(composed, "recipe") or not follows_from_set(config):
        return composed, []
    import_dataset(config.data.name)  # the user's own word names it, or trust_code allows it
    data = dataclasses.replace(config.data, download=config.data.download and download)
    opened = open_to_look(data, _said(composed, "data.root"))
    facts = facts_of(opened, data, config.seed)
    found = recommended_recipe(facts, config) if "recipe" in composed.chosen else []  # a run's config.yaml has none
    config = resolve(words, config_dir, config_file, derived(found), trust_code).config
    begun_from = network_of(config.init.source) if config.init.source is not None else None
    found += recommend(facts, config, lambda key: _said(composed, key), begun_from)
    return resolve(words, config_dir, config_file, derived(found), trust_code), found


def recommended_recipe(facts: Facts, config: Config) -> list[Recommended]:
    """That of a folder for a Dataset of the user's own that gives whole images."""
    if names_code(config.data.name) and not facts.ready:
        return [Recommended("recipe", "folder", "your Dataset gives whole images, as a folder does")]
    return []


def derived(found: Iterable[Recommended]) -> dict[str, tuple[Any, str]]:
    return {one.key: (one.value, one.reason) for one in found}


def open_to_look(settings: DataConfig, root_is_said: bool = True) -> ImageSet | OwnData:
    """The set; where nobody said where the images of a folder lie, the error says that first."""
    if names_code(settings.name):
        return open_named(settings)
    try:
        return open_images(settings)
    except DataError as error:
        if settings.name != "folder" or root_is_said:
            raise
        raise DataError(
            "data=folder needs the folder of your images, which holds a folder per class: add data.root=FOLDER, such as"
            f" data.root=photos. (Without it {settings.root} is looked at: {str(error).partition(';')[0]}.)"
        ) from None


def follows_from_set(config: Config) -> bool:
    """Whether settings follow from the images: those of a set without a recipe of its own, or of one that is cut down,
    in plain training."""
    cut = config.data.name in CATALOG and any(getattr(config.data, key) is not None for key in CUT)
    return config.adapt.method == "none" and (has_no_recipe(config) or cut)


def has_no_recipe(config: Config) -> bool:
    """Whether nobody has tuned settings for the set: a folder, or a Dataset named "package.module:Class"."""
    return config.data.name == "folder" or names_code(config.data.name)


def compose_for_set(words: Sequence[str], config_dir: str | Path | None = None, **how: Any) -> Config:
    """The config of `resolve_for_set`, which takes the same arguments."""
    return resolve_for_set(words, config_dir, **how)[0].config


def is_said(composed: Composed, key: str) -> bool:
    """Whether the user decides on a key, or on the option of a group: in words, or in a file of the user's own."""
    return _said(composed, key)


def _said(composed: Composed, key: str) -> bool:
    """Whether the user decides on a key or, for the name of a group, on its option."""
    if key in GROUPS and key != "data":
        return _said(composed, f"{key}.name")
    group = key.split(".")[0]
    source = composed.sources.get(key, Source("default", own=False))
    if source.startswith("option "):
        source = composed.chosen[group][1]
    asked = group in composed.chosen and group != "data" and not _is_recipe(composed.chosen[group][1])
    return asked or not _is_recipe(source)


def _is_recipe(source: Source) -> bool:
    """Whether this is said by cnnlab itself, and not in the user's words or files."""
    return not source.own


def facts_of(images: ImageSet | OwnData, config: DataConfig, seed: int) -> Facts:
    """Look at labels and headers; no image is decoded. Every image is taken for readable. Of a Dataset some items."""
    if isinstance(images, OwnData):
        return _facts_of_own(images, config, seed)
    readable = np.ones(len(images), bool)
    split = make_split(images.labels, readable, images.official, config, seed)
    classes = list(images.classes)
    side = min(images.size) if images.size else _typical_side(images)
    written = images.mode == "L" or all(len(name) == 1 for name in classes)
    return Facts(len(split.train), side, images.size is not None, written)


def _facts_of_own(own: OwnData, config: DataConfig, seed: int) -> Facts:
    """Look at some items of the user's own Dataset; of a DataLoader only the first batch is read.

    Raises:
        DataError: an item that cannot be read.
    """
    whole = own.is_whole_images()
    if own.in_batches:
        side = _ready_side(lambda: next(iter(own.train))[0])
        return Facts(0, side, common=True, written=False, ready=True, batched=True)
    dataset: Any = own.train
    count = len(split_parts(own.parts, config, seed).train)
    items = [read_item(dataset, int(i))[0] for i in np.linspace(0, len(dataset) - 1, min(SAMPLED, len(dataset)))]
    if not whole:
        side = _ready_side(lambda: own.transform(items[0]) if own.transform is not None else items[0])
        return Facts(count, side, common=True, written=False, ready=True)
    images = [as_image(item) for item in items]
    sizes = {image.size for image in images if image is not None}
    side = int(np.median([min(image.size) for image in images if image is not None]))
    names = own.known_classes() or []
    grey = all(image is not None and image.mode == "L" for image in images)
    written = grey or (bool(names) and all(len(name) == 1 for name in names))
    return Facts(count, side, len(sizes) == 1 and max(max(size) for size in sizes) <= SMALL, written)


def _ready_side(first: Callable[[], Any]) -> int:
    """The shorter side of what the user's own code gives first; where it gives no images the training says so."""
    try:
        shape = first().shape
        return int(min(shape[-2:])) if len(shape) >= 3 else DEFAULT_SIDE
    except Exception:  # the user's code can fail in any way, and the training that follows names how
        return DEFAULT_SIDE


def _typical_side(images: ImageSet) -> int:
    """Median of the shorter side, in pixels, of some images; of headers that cannot be read none is asked."""
    if not isinstance(images, FileSet):
        return DEFAULT_SIDE
    sides = []
    for number in np.random.Generator(np.random.PCG64(0)).permutation(len(images))[:SAMPLED]:
        try:
            with Image.open(images.root / images.names[int(number)]) as image:
                sides.append(min(image.size))
        except Exception:  # a damaged file is found, named and quarantined when it is decoded
            continue
    return int(np.median(sides)) if sides else DEFAULT_SIDE


def _power_of_two(number: int) -> int:
    """The largest that is not above `number`."""
    return 1 << (number.bit_length() - 1) if number > 0 else 1
