"""What to know of a set before a network is trained on it, a line each, and the command that shows more."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import numpy as np

from cnnlab.config import DataConfig
from cnnlab.data.catalog import has_root
from cnnlab.data.split import NAMES

if TYPE_CHECKING:
    from cnnlab.data.data import Data


def look_command(settings: DataConfig, *more: str) -> str:
    """The command that shows a set, as it can be typed: cnnlab data folder data.root=photos --check."""
    root = [] if not has_root(settings.name) else [f"data.root={settings.root}"]
    return shlex.join(["cnnlab", "data", settings.name, *root, *more])


def notes(data: Data) -> list[str]:
    """What its source says of a set, parts that were cut from train, and copies; none where all is as it seems."""
    return [*data.images.notes, *cut_parts_note(data), *copies_notes(data)]


def cut_parts_note(data: Data) -> list[str]:
    """A line where a folder has some of train, val and test, and the others were cut from train."""
    cut = [part for part in data.images.missing if len(data.split[part])]
    if not cut:
        return []
    counts = " and ".join(f"{len(data.split[part]):,} {part}" for part in cut)
    return [
        f"there is no folder {' or '.join(cut)}: {counts} images were cut from train; add the folder to use your own,"
        f" or set {' and '.join(f'data.{part}_fraction' for part in cut)}."
    ]


def copies_notes(data: Data) -> list[str]:
    """A line each for files of a folder that are in two classes, and in two splits, byte for byte.

    The digests were taken while the files were decoded: of 300,000 images this takes some tenths of a second.
    """
    if data.config.data.name != "folder":
        return []
    labels, splits = data.images.labels, np.full(len(data.images), -1)
    for number, part in enumerate(NAMES):
        splits[data.split[part]] = number
    used = np.flatnonzero(splits >= 0)
    found = []
    for what, parts in (("in two classes", labels), ("in two splits", splits)):
        count, places = copies_apart(data.index.digest[used], parts[used])
        if count:
            first = " = ".join(data.images.names[int(used[i])] for i in places[:2])
            files = "1 file is" if count == 1 else f"{count:,} files are"
            more = look_command(data.config.data, "--check")
            found.append(f"{files} {what}, byte for byte ({first}); to see them: {more}")
    return found


def copies_apart(digest: np.ndarray, parts: np.ndarray) -> tuple[int, list[int]]:
    """How many rows of `digest` lie in several `parts`, and of the first of them one place in each part.

    Args:
        digest: (n, 16) uint8.
        parts: (n,) whole numbers from 0.
    """
    _, group = np.unique(np.ascontiguousarray(digest).view(np.uint64)[:, 0], return_inverse=True)  # 64 bits are enough
    width = int(parts.max(initial=0)) + 1
    pairs, first = np.unique(group * width + parts, return_index=True)  # one for a group and a part it lies in
    apart = np.flatnonzero(np.bincount(pairs // width) > 1)
    return len(apart), first[pairs // width == apart[0]].tolist() if len(apart) else []
