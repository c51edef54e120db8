"""What is wrong with a set of images: unreadable ones, duplicates, leaks between splits, classes out of balance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.data.data import Data
from cnnlab.data.split import NAMES
from cnnlab.errors import DataError

THUMBNAIL = 16  # pixels a side
ALIKE_SMALL = 0.99  # correlation of grey thumbnails above which a pair is looked at closely …
ALIKE_WHOLE = 0.97  # … and of the whole images, above which it is a near duplicate
LARGEST = 200_000  # images; every pair is compared, so beyond this only exact duplicates are sought
BLOCK = 4096


@dataclass(frozen=True)
class Audit:
    """Findings by name. `exact` and `near` are groups of names; `leaks` are the pairs of them in two splits."""

    unreadable: list[dict[str, str]]
    exact: list[list[str]]
    near: list[tuple[str, str, float]]
    leaks: list[dict[str, Any]]
    label_conflicts: list[list[str]]
    class_counts: dict[str, dict[str, int]]
    near_checked: bool

    @property
    def clean(self) -> bool:
        return not (self.unreadable or self.exact or self.near or self.leaks or self.label_conflicts)


def audit(data: Data) -> Audit:
    """Compare every image of the three splits with every other. Raises DataError for batches of the user's own."""
    refuse_batches(data)
    numbers = np.concatenate([data.split[part] for part in NAMES])
    where = {int(i): part for part in NAMES for i in data.split[part]}
    names, classes_of = data.images.names, data.images.class_names_of
    groups = exact_duplicates(numbers, data.index.digest)
    comparable = isinstance(data.test.pixels, Tensor) and len(numbers) <= LARGEST
    copies = [number for group in groups for number in group[1:]]
    single = np.setdiff1d(numbers, copies)  # one of each group stands for all
    pixels = data.evaluation_pixels(single) if comparable else None
    pairs = near_duplicates(pixels, single) if isinstance(pixels, Tensor) else []
    leaks = [
        {"kind": kind, "splits": sorted({where[i], where[j]}, key=NAMES.index), "names": [names[i], names[j]]}
        for kind, found in (("exact", [(g[0], j) for g in groups for j in g[1:]]), ("near", [p[:2] for p in pairs]))
        for i, j in found
        if where[i] != where[j]
    ]
    return Audit(
        unreadable=data.quarantined,
        exact=[[names[i] for i in group] for group in groups],
        near=[(names[i], names[j], r) for i, j, r in pairs],
        leaks=leaks,
        label_conflicts=[[names[i] for i in g] for g in groups if len({tuple(classes_of(i)) for i in g}) > 1],
        class_counts=class_counts(data),
        near_checked=comparable,
    )


def refuse_batches(data: Data) -> None:
    """Raise DataError where there are no images to look at."""
    if data.in_batches:
        raise DataError(
            f"{data.config.data.name} gives tensors, and what is shown here is about images; let it give Pillow"
            " images, without transform."
        )


def class_counts(data: Data) -> dict[str, dict[str, int]]:
    """class → split → images."""
    counts = {part: data.images.class_counts(data.split[part]) for part in NAMES}
    return {name: {part: int(counts[part][i]) for part in NAMES} for i, name in enumerate(data.images.classes)}


def exact_duplicates(numbers: np.ndarray, digest: np.ndarray) -> list[list[int]]:
    """Groups of two or more images whose files are the same byte for byte."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for number in numbers:
        groups[digest[number].tobytes()].append(int(number))
    return [group for group in groups.values() if len(group) > 1]


def near_duplicates(pixels: Tensor, numbers: np.ndarray) -> list[tuple[int, int, float]]:
    """Pairs (i, j, correlation) of images that look the same but for encoding, scale or a little noise.

    Every pair's grey thumbnails are correlated, as one blocked matrix product; a pair that passes is then correlated
    pixel by pixel.
    """
    thumbnails = torch.cat([standardised(pool(block)) for block in _blocks(pixels, numbers)])
    found = []
    for i, j in _alike(thumbnails):
        a, b = (standardised(pixels[int(numbers[k])][None].float()[..., :3].flatten(1)) for k in (i, j))
        r = float((a * b).sum())
        if r >= ALIKE_WHOLE:
            found.append((int(numbers[i]), int(numbers[j]), round(r, 4)))
    return found


def _blocks(pixels: Tensor, numbers: np.ndarray) -> Iterator[Tensor]:
    for first in range(0, len(numbers), 1024):
        yield pixels[torch.from_numpy(numbers[first : first + 1024])]


def pool(block: Tensor) -> Tensor:
    """(B, H, W, 1 or 4) uint8 → (B, THUMBNAIL²) grey."""
    grey = block[..., :3].float().mean(-1)
    return F.adaptive_avg_pool2d(grey[:, None], THUMBNAIL).flatten(1)


def standardised(rows: Tensor) -> Tensor:
    """Mean 0, length 1; an image of one flat colour stays all zero and resembles none."""
    rows = rows - rows.mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-3)


def _alike(rows: Tensor) -> Iterator[tuple[int, int]]:
    """(i, j), i < j, of all rows with a correlation of ALIKE_SMALL or more."""
    for first in range(0, len(rows), BLOCK):
        for second in range(first, len(rows), BLOCK):
            close = rows[first : first + BLOCK] @ rows[second : second + BLOCK].T >= ALIKE_SMALL
            for i, j in close.nonzero().tolist():
                if first + i < second + j:
                    yield first + i, second + j
