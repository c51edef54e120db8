"""Which image is for what: stratified, seeded train/val/test, and a manifest that can prove it later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnlab.config import DataConfig
from cnnlab.errors import DataError

NAMES = ("train", "val", "test")
PROTOCOL = ("val_fraction", "test_fraction", "per_class_train", "per_class_test", "limit", "background")
FOLDS = ("folds", "fold")


@dataclass(frozen=True)
class Split:
    """Sorted numbers of the images of each part; no number is in two."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def make_split(labels: np.ndarray, ok: np.ndarray, official: np.ndarray | None, config: DataConfig, seed: int) -> Split:
    """Cut the readable images into train, val and test.

    Official splits stay what they are: a missing val is cut from train (`data.val_fraction` of it), a missing test from
    all (`data.test_fraction`). With `data.per_class_train` = k, k images per class are drawn for train and val together
    and the others are test. Every class keeps its share in each part, and at least one image to train on.

    Raises:
        DataError: a class without a readable image to train on.
    """
    pool = {
        name: np.flatnonzero(ok & (official == name)) if official is not None else np.array([], int) for name in NAMES
    }
    if official is None:
        pool["train"] = np.flatnonzero(ok)
    has_test, has_val = len(pool["test"]) > 0, len(pool["val"]) > 0
    if config.per_class_train:
        keep, rest = _draw_per_class(pool["train"], labels, config.per_class_train, seed, "per_class_train")
        pool["train"] = keep
        if not has_test:
            limit = config.per_class_test
            pool["test"] = rest if limit is None else _draw_per_class(rest, labels, limit, seed, "per_class_test")[0]
    elif not has_test and config.test_fraction:
        pool["train"], pool["test"] = _cut(pool["train"], labels, config.test_fraction, seed, "test")
    if config.folds:
        if has_val:
            raise DataError("data.folds draws validation images, and this set has a validation split; leave it out.")
        if config.fold is not None:
            pool["train"], pool["val"] = _cut_fold(pool["train"], labels, config.folds, config.fold, seed)
    elif not has_val and config.val_fraction:
        share = config.val_fraction
        if not has_test and not config.per_class_train:
            share /= 1 - config.test_fraction  # both fractions are of all images
        pool["train"], pool["val"] = _cut(pool["train"], labels, share, seed, "val")
    if config.limit:
        pool = {name: _limit(part, labels, config.limit, seed, name) for name, part in pool.items()}
    return Split(*(np.sort(pool[name]) for name in NAMES))


def check_classes(counts: np.ndarray, classes: Sequence[str]) -> None:
    """Raise DataError if a class has no image to train on, by (K,) the training images of each."""
    if (counts == 0).any():
        empty = [classes[int(i)] for i in np.flatnonzero(counts == 0)]
        raise DataError(
            f"no readable training image of class {empty[0]!r}"
            f"{f' and {len(empty) - 1} more' if len(empty) > 1 else ''}; add some, or raise data.limit."
        )


def _random(seed: int, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *purpose.encode()])))


def _by_class(pool: np.ndarray, labels: np.ndarray, seed: int, purpose: str) -> list[np.ndarray]:
    """The pool, shuffled and parted by class."""
    shuffled = _random(seed, purpose).permutation(pool)
    grouped = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.split(grouped, np.flatnonzero(np.diff(labels[grouped])) + 1) if len(grouped) else []


def _shares(sizes: np.ndarray, total: int, seed: int, purpose: str) -> np.ndarray:
    """Part `total` over classes in proportion to `sizes`: round down, then by the largest remainders."""
    exact = sizes * (total / max(1, sizes.sum()))
    counts = np.floor(exact + 1e-9).astype(int)
    tie = _random(seed, purpose + " tie").random(len(sizes))
    order = np.lexsort((tie, -(exact - counts)))
    counts[order[: total - int(counts.sum())]] += 1
    return counts


def _cut(pool: np.ndarray, labels: np.ndarray, share: float, seed: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """(rest, part) with `share` of the pool in part; each class leaves at least one image in rest."""
    groups = _by_class(pool, labels, seed, purpose)
    sizes = np.array([len(group) for group in groups])
    counts = np.minimum(_shares(sizes, round(share * len(pool)), seed, purpose), sizes - 1)
    part = [group[:count] for group, count in zip(groups, counts, strict=True)]
    rest = [group[count:] for group, count in zip(groups, counts, strict=True)]
    return np.concatenate(rest or [pool]), np.concatenate(part or [pool])


def _cut_fold(pool: np.ndarray, labels: np.ndarray, folds: int, fold: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rest, fold): each image is in one fold, each class as evenly as it goes; one that is alone stays in the rest."""
    groups = _by_class(pool, labels, seed, "folds")
    several = np.concatenate([group for group in groups if len(group) > 1] or [pool[:0]])
    part = several[fold::folds]
    if not len(part):
        raise DataError(f"data.folds={folds} are more than there are images to validate; lower it.")
    return np.setdiff1d(pool, part), part


def _draw_per_class(
    pool: np.ndarray, labels: np.ndarray, count: int, seed: int, purpose: str
) -> tuple[np.ndarray, np.ndarray]:
    """(`count` images of each class or all it has, the others)."""
    groups = _by_class(pool, labels, seed, purpose)
    drawn = np.concatenate([group[:count] for group in groups] or [pool])
    return drawn, np.setdiff1d(pool, drawn)


def _limit(pool: np.ndarray, labels: np.ndarray, limit: int, seed: int, purpose: str) -> np.ndarray:
    """At most `limit` images, each class in its share, one at the least where the limit allows it."""
    if len(pool) <= limit:
        return pool
    groups = _by_class(pool, labels, seed, purpose + " limit")
    sizes = np.array([len(group) for group in groups])
    one = np.ones_like(sizes) if limit >= len(groups) else np.zeros_like(sizes)
    counts = one + np.minimum(_shares(sizes - one, limit - one.sum(), seed, purpose), sizes - one)
    return np.concatenate([group[:count] for group, count in zip(groups, counts, strict=True)])


def manifest(
    split: Split, names: Sequence[str], digest: np.ndarray, classes: Sequence[str], config: DataConfig, seed: int
) -> dict[str, Any]:
    """What split.json holds: the protocol, and for each part its size, its members, a hash of names and contents."""
    return {
        "version": 1,
        "data": config.name,
        "seed": seed,
        "protocol": {key: getattr(config, key) for key in (*PROTOCOL, *(FOLDS if config.folds else ()))},
        "classes": list(classes),
        "sizes": {part: len(split[part]) for part in NAMES},
        "sha256": {part: part_hash(split[part], names, digest) for part in NAMES},
        "members": {part: [names[int(i)] for i in split[part]] for part in NAMES},
    }


def part_hash(members: np.ndarray, names: Sequence[str], digest: np.ndarray) -> str:
    """SHA-256 over (name, content digest) of the members, in order."""
    total = hashlib.sha256()
    for i in members:
        total.update(names[int(i)].encode(errors="surrogateescape") + b"\0" + digest[int(i)].tobytes())
    return total.hexdigest()
