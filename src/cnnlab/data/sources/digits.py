"""The digits that come with scikit-learn: the default set, because it needs no download."""

from __future__ import annotations

import functools
import gzip
import importlib.util
from pathlib import Path

import numpy as np

from cnnlab.data.sources.base import ArraySet


def open_digits() -> ArraySet:
    """1,797 grey pictures of 8×8 pixels, values 0…16 stretched to 0…255."""
    table = _table()
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return ArraySet(images, table[:, -1].copy(), classes=[str(digit) for digit in range(10)])


@functools.cache
def _table() -> np.ndarray:
    """(1797, 65): 64 pixels and the label; do not write into it. Read from scikit-learn's file, once for all runs of a
    process: importing scikit-learn takes a second, and a run opens its set twice."""
    spec = importlib.util.find_spec("sklearn")
    if spec is not None and spec.submodule_search_locations:
        file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
        if file.exists():
            text = gzip.decompress(file.read_bytes())
            return np.fromstring(text.replace(b"\n", b","), dtype=np.float64, sep=",").reshape(-1, 65)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
