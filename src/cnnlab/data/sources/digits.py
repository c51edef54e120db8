"""Handwritten digits that lie in this package: the default set, because it needs no download."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

import numpy as np

from cnnlab.data.sources.base import ArraySet

FILES = Path(__file__).parent / "files"  # of whom they are stands in its README


def open_digits() -> ArraySet:
    """1,797 grey images of 8×8 pixels, values 0…16 stretched to 0…255."""
    table = _table()
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return ArraySet(images, table[:, -1].copy(), classes=[str(digit) for digit in range(10)])


@functools.cache
def _table() -> np.ndarray:
    """(1797, 65): 64 pixels and the label; do not write into it. A run opens its set twice: it is parsed once."""
    text = gzip.decompress((FILES / "digits.csv.gz").read_bytes())
    return np.fromstring(text.replace(b"\n", b","), dtype=np.float64, sep=",").reshape(-1, 65)
