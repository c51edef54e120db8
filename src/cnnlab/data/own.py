"""A user's own Dataset or DataLoader, given as an object or named as "package.module:Class".

Whole images (Pillow, or 8-bit pixels) that are the same each time they are read become an `ImageSet`: they are read
once, and everything works on them. What a transform has made, and the batches of a DataLoader, are used as they come.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnnlab.config import DataConfig
from cnnlab.data.decode import upright
from cnnlab.data.sources.base import ArraySet, ImageSet, check_multi_hot, strata_of
from cnnlab.data.split import Split, make_split
from cnnlab.errors import CnnlabError, DataError
from cnnlab.imports import import_named, names_code
from cnnlab.values import are_names

OWN_SET = "own"  # data.name of a set that was given as an object
WRAPPED = 20  # Subsets and the like around a Dataset
MOST_NUMBERED = 100_000  # classes that are numbers
PROBED = 8  # items that are read twice
IN_MEMORY = 2**30  # bytes of images of one size that are kept as one array
DATASETS: dict[str, Callable[..., Any]] = {}  # "package.module:Class" → what was imported for it
_ONE_AT_A_TIME = threading.Lock()  # images are decoded by threads, and a user's Dataset need not know of them

Source = Dataset[Any] | DataLoader[Any]
Label = int | np.ndarray  # a class number, or (K,) uint8 of 0 and 1


@dataclass(frozen=True)
class OwnData:
    """What the user gave. Without `val` and `test`, Datasets are split as a folder is (data.val_fraction, …).

    Attributes:
        transform: of the images of a Dataset; what it gives is used as it is.
        classes: their names; None takes `train.classes`, else numbers.
        title: what a person sees of it.
    """

    train: Source
    val: Source | None = None
    test: Source | None = None
    transform: Callable[[Any], Any] | None = None
    classes: Sequence[str] | None = None
    title: str = ""

    def __post_init__(self) -> None:
        for part, source in ({"train": self.train} | self.parts).items():
            if not is_source(source):
                raise DataError(
                    f"{part} must be a torch Dataset (with __len__ and __getitem__) or a DataLoader, got a"
                    f" {type(source).__name__}."
                )
        if not self.in_batches and not self._length():
            raise DataError(f"{self.name} has no image; check its length (__len__).")
        loaders = {part for part, source in self.parts.items() if isinstance(source, DataLoader)}
        if loaders and len(loaders) < len(self.parts):
            raise DataError("train, val and test must be all Datasets or all DataLoaders; wrap the Datasets too.")
        if loaders and self.transform is not None:
            raise DataError(
                "transform= is for a Dataset, and a DataLoader has batches already; give it to its Dataset."
            )
        if self.classes is not None and not (are_names(list(self.classes)) and len(set(self.classes)) > 1):
            raise DataError(f"classes= must be two or more names that can be shown, got {self.classes!r}.")

    @property
    def parts(self) -> dict[str, Source]:
        """train, and val and test where they were given."""
        given = {"train": self.train, "val": self.val, "test": self.test}
        return {part: source for part, source in given.items() if source is not None}

    @property
    def in_batches(self) -> bool:
        return isinstance(self.train, DataLoader)

    @property
    def name(self) -> str:
        dataset = self.train.dataset if isinstance(self.train, DataLoader) else self.train
        return self.title or type(dataset).__name__

    def _length(self) -> int:
        try:
            return len(self.train)  # type: ignore[arg-type]
        except Exception as error:  # the user's code can fail in any way
            raise DataError(f"{self.name} has no length ({_described(error)}); check __len__.") from error

    def known_classes(self) -> list[str] | None:
        """What the user or the Dataset says; None where neither does."""
        source: Any = self.train.dataset if isinstance(self.train, DataLoader) else self.train
        try:
            for _ in range(WRAPPED):  # a Subset of a Subset
                if self.classes is not None or hasattr(source, "classes") or not hasattr(source, "dataset"):
                    break
                source = source.dataset
            found = self.classes if self.classes is not None else getattr(source, "classes", None)
        except Exception as error:  # a property of the user's can fail in any way
            raise DataError(f"the classes of {self.name} cannot be read ({_described(error)}).") from error
        if not isinstance(found, list | tuple) or not are_names([str(name) for name in found]) or len(found) < 2:
            return None
        return [str(name) for name in found]

    def is_whole_images(self) -> bool:
        """Whether each part gives images that are the same each time, so that they can be kept."""
        if self.in_batches or self.transform is not None:
            return False
        return all(gives_images(source) for source in self.parts.values())


def is_source(value: object) -> bool:
    """Whether it can be trained on: a DataLoader, or a map-style Dataset; a tuple or dict of several is none."""
    several = isinstance(value, tuple | list) and any(isinstance(one, Dataset | DataLoader) for one in value)
    if several or isinstance(value, dict | str):
        return False
    return isinstance(value, DataLoader) or (hasattr(value, "__getitem__") and hasattr(value, "__len__"))


def gives_images(dataset: Any) -> bool:
    """Whether it gives Pillow images or 8-bit pixels, has no transform of its own, and repeats itself."""
    inner = dataset
    for _ in range(WRAPPED):
        inner = getattr(inner, "dataset", inner)
    if getattr(inner, "transform", None) is not None or getattr(inner, "transforms", None) is not None:
        return False
    for index in range(min(PROBED, len(dataset))):
        first = as_image(read_item(dataset, index)[0])
        if first is None:
            return False
        again = as_image(read_item(dataset, index)[0])
        if again is None or first.size != again.size or first.tobytes() != again.tobytes():
            return False
    return True


def read_item(dataset: Any, index: int) -> tuple[Any, Label]:
    """(image, label) of an item of a user's Dataset. Raises DataError where it fails, or gives anything else."""
    name = type(dataset).__name__
    try:
        item = dataset[index]
    except CnnlabError:
        raise
    except (Exception, SystemExit) as error:  # the user's code can fail in any way
        raise DataError(f"item {index} of {name} cannot be read ({_described(error)}).") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        what = f"{len(item)} values" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
        raise DataError(f"item {index} of {name} must be (image, label), got {what}; wrap the Dataset in one that is.")
    return item[0], as_label(item[1], f"item {index} of {name}")


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first(error)}"


def _first(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else "no message"


def as_label(value: Any, where: str) -> Label:
    """A class number, from 0, or where an image may have several classes (K,) uint8 of 0 and 1.

    Raises DataError for anything else.
    """
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, Tensor | np.ndarray | list | tuple):
        row = np.asarray(value)
        if row.ndim != 1 or len(row) < 2 or row.dtype.kind not in "buif" or not np.isin(row, (0, 1)).all():
            raise DataError(
                f"the label of {where} must be a class number, or a 0 or 1 for each class, got {str(value)[:40]!r}."
            )
        return row.astype(np.uint8)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < 0:
        raise DataError(f"the label of {where} must be a class number 0, 1, …, got {str(value)[:40]!r}.")
    return int(value)


def as_image(image: Any) -> Image.Image | None:
    """Pillow image, 8-bit (H, W[, 1 or 3]) array, or (1 or 3, H, W) tensor → "L" or "RGB"; None for others."""
    if isinstance(image, Image.Image):
        return upright(image)
    if isinstance(image, Tensor) and str(image.dtype) == "torch.uint8" and image.ndim == 3 and image.shape[0] in (1, 3):
        image = image.permute(1, 2, 0).cpu().numpy()
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[:, :, 0]
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
            return Image.fromarray(np.ascontiguousarray(image))
    return None


# ---- whole images


class DatasetImages(ImageSet):
    """Images of different sizes, read from the Datasets of `parts` again whenever they are needed."""

    def __init__(self, parts: Mapping[str, Any], labels: np.ndarray, classes: Sequence[str], digest: str) -> None:
        self.parts, self.labels, self.classes, self.digest = list(parts.values()), labels, classes, digest
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.names, self.official = names_and_splits(parts)

    def load_image(self, index: int) -> Image.Image:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        with _ONE_AT_A_TIME:
            image = as_image(read_item(self.parts[part], index - int(self.starts[part]))[0])
        if image is None:
            raise DataError("it is not an image of 8 bits any more")
        return image

    def read_bytes(self, index: int) -> bytes:
        return to_bytes(self.load_image(index))

    def decode(self, data: bytes, index: int) -> Image.Image:
        head, _, pixels = data.partition(b"\n")
        mode, width, height = head.decode().split()
        return Image.frombytes(mode, (int(width), int(height)), pixels)

    def fingerprint(self) -> str:
        return self.digest


def to_bytes(image: Image.Image) -> bytes:
    return f"{image.mode} {image.width} {image.height}\n".encode() + image.tobytes()


def names_and_splits(parts: Mapping[str, Any]) -> tuple[list[str], np.ndarray | None]:
    """A name for each image, its number in its Dataset; and its split, where there is more than one Dataset."""
    if len(parts) == 1:
        return [str(i) for i in range(len(next(iter(parts.values()))))], None
    names = [f"{part}/{i}" for part, dataset in parts.items() for i in range(len(dataset))]
    return names, np.repeat(list(parts), [len(dataset) for dataset in parts.values()])


def read_images(own: OwnData, progress: Callable[[int, int], None]) -> ImageSet:
    """Read every image once, for its label, size and content. Those of one size are kept.

    Raises:
        DataError: an item that cannot be read, is not an image, or has a label that is no class.
    """
    parts: dict[str, Any] = dict(own.parts)
    total, done, held = sum(len(dataset) for dataset in parts.values()), 0, 0
    labels: list[Label] = []
    digest = hashlib.sha256()
    arrays: list[np.ndarray] | None = []
    for dataset in parts.values():
        for index in range(len(dataset)):
            item, label = read_item(dataset, index)
            labels.append(label)
            if np.shape(label) != np.shape(labels[0]):
                raise DataError(
                    f"item {index} of {type(dataset).__name__} has {_kind(label)}, and the first {_kind(labels[0])};"
                    " give each a class number, or each a 0 or 1 for every class."
                )
            image = as_image(item)
            if image is None:
                raise DataError(f"item {index} of {type(dataset).__name__} is not an image of 8 bits, as others are.")
            if 0 in image.size:
                raise DataError(f"item {index} of {type(dataset).__name__} is an image without pixels.")
            digest.update(to_bytes(image))
            if arrays is not None:
                arrays.append(np.asarray(image))
                held += arrays[-1].nbytes
                if arrays[-1].shape != arrays[0].shape or held > IN_MEMORY:
                    arrays = None
            done += 1
            progress(done, total)
    known, stacked = own.known_classes(), np.array(labels)
    several = stacked.ndim == 2
    if not several and known is None and len(np.unique(stacked)) < 2:
        raise DataError(f"all {total:,} images of {own.name} have the same label; a classifier needs two classes.")
    classes = class_names(known, stacked.shape[1] if several else int(stacked.max(initial=0)) + 1)
    if several:
        check_multi_hot(stacked, total, classes)
    numbers = strata_of(stacked) if several else stacked
    if arrays:
        images: ImageSet = ArraySet(np.stack(arrays), np.zeros(total, np.int64), classes)
        images.names, images.official = names_and_splits(parts)
        images.labels = numbers
    else:
        images = DatasetImages(parts, numbers, classes, digest.hexdigest())
    images.multi_hot = stacked if several else None
    return images


def _kind(label: Label) -> str:
    return "a class number" if isinstance(label, int) else f"a list of {len(label)}"


def class_names(known: Sequence[str] | None, count: int) -> list[str]:
    """The known names, else numbers. Raises DataError if there are fewer names than classes."""
    if known is None and count > MOST_NUMBERED:
        raise DataError(f"labels go up to {count - 1}; number the classes 0, 1, …, or name them: classes=[…].")
    if known is None:
        return [str(number) for number in range(max(2, count))]
    if double := next((name for place, name in enumerate(known) if name in known[:place]), None):
        raise DataError(f"two classes are named {double!r}; give each a name of its own: classes=[…].")
    if len(known) < count:
        raise DataError(
            f"there are labels up to {count - 1} and {len(known)} class names; name each class: classes=[…]."
        )
    return list(known)


def split_parts(parts: Mapping[str, Any], settings: DataConfig, seed: int) -> Split:
    """Which items of Datasets train, validate and test, where no label is known yet."""
    official = np.repeat(list(parts), [len(dataset) for dataset in parts.values()])
    same = np.zeros(len(official), np.int64)
    return make_split(same, np.ones(len(official), bool), official if len(parts) > 1 else None, settings, seed)


# ---- by name


def import_dataset(*names: object) -> None:
    """Make each "package.module:Class" known as a data set; its module is imported. Any other name passes."""
    for name in names:
        if names_code(name) and name not in DATASETS:
            DATASETS[str(name)] = import_named(str(name), "data", DataError, is_set)


def is_set(found: type) -> bool:
    """Whether the objects of a class can be trained on."""
    return issubclass(found, Dataset | DataLoader | ImageSet) or (
        hasattr(found, "__getitem__") and hasattr(found, "__len__")
    )


def open_named(settings: DataConfig) -> OwnData | ImageSet:
    """The set that data.name, a "package.module:Class" that was imported, gives.

    It is called with data.args, and with root and download where it asks for them. One that asks for `split` is opened
    for train, val and test; one that asks for `train` for both; any other is split as a folder is.

    Raises:
        DataError: it was not imported, since nobody said that its code may run; or it fails.
    """
    name = settings.name
    if name not in DATASETS:
        raise DataError(
            f"{name} is code outside of cnnlab, which is run only if you trust it: name it yourself, as in"
            f" data={name} or load_data({name!r}); where a run names it, pass --trust-code,"
            " or trust_code=True in Python."
        )
    builder = DATASETS[name]
    facts = {"root": settings.root, "download": settings.download}
    try:
        asked = inspect.signature(builder).parameters
    except (TypeError, ValueError):
        asked = {}  # type: ignore[assignment]
    given = {key: value for key, value in facts.items() if key in asked} | dict(settings.args)
    if "split" in asked and "split" not in given:
        opened = _open_each(name, builder, given, [("train", {"split": "train"}), ("test", {"split": "test"})])
        opened["val"] = _try_open(builder, given | {"split": "val"})
    elif "train" in asked and "train" not in given:
        opened = _open_each(name, builder, given, [("train", {"train": True}), ("test", {"train": False})])
    else:
        opened = _open_each(name, builder, given, [("train", {})])
    if isinstance(opened["train"], ImageSet) and len(opened) == 1:
        return opened["train"]
    return OwnData(**opened, title=name)


def _open_each(
    name: str, builder: Callable[..., Any], given: dict[str, Any], parts: Iterable[tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    opened: dict[str, Any] = {}
    for part, how in parts:
        try:
            opened[part] = builder(**given, **how)
        except CnnlabError:
            raise
        except (Exception, SystemExit) as error:  # a constructor of the user's own can fail in any way
            with_what = ", ".join(f"{key}={value!r}" for key, value in {**given, **how}.items())
            raise DataError(
                f"data={name} cannot be opened with ({with_what}): {type(error).__name__}: {_first(error)}. Give its"
                " arguments in data.args."
            ) from error
    return opened


def _try_open(builder: Callable[..., Any], given: dict[str, Any]) -> Any:
    """None where the set has no such split; how it says so is its own affair."""
    try:
        return builder(**given)
    except (Exception, SystemExit):
        return None
