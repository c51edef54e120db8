"""Handwritten digits that lie in this package: the default set, because it needs no download."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from cnnlab.data.sources.base import ArraySet

FILES = Path(__file__).parent / "files"  # of whom they are stands in its README


def open_digits() -> ArraySet:
    """1,797 grey images of 8×8 pixels, values 0…16 stretched to 0…255."""
    text = gzip.decompress((FILES / "digits.csv.gz").read_bytes())
    table = np.fromstring(text.replace(b"\n", b","), dtype=np.float64, sep=",").reshape(-1, 65)  # 64 pixels, the label
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return ArraySet(images, table[:, -1], classes=[str(digit) for digit in range(10)])
