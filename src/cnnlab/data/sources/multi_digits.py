"""Canvases with several digits, as a multi-label set: which digits are on it, and not where or how often."""

from __future__ import annotations

import functools

import numpy as np

from cnnlab.data.canvases import Canvas, digit_canvases
from cnnlab.data.sources.base import ArraySet
from cnnlab.data.sources.digits import open_digits

COUNTS = {"train": 4000, "test": 1000}
SIDE = 32
DIGITS = (1, 4)  # fewest and most on a canvas
SCALE = (1.0, 1.5)
TEST_SHARE = 4  # every fourth digit is on test canvases alone


def open_multi_digits() -> ArraySet:
    """5,000 grey images of 32×32 pixels with one to four digits each; those of the test split are in no other split."""
    images, multi_hot = draw_canvases()
    classes = [str(digit) for digit in range(10)]
    return ArraySet.multi_label(images, multi_hot, classes, np.repeat(list(COUNTS), list(COUNTS.values())))


@functools.cache
def draw_canvases() -> tuple[np.ndarray, np.ndarray]:
    """(5000, 32, 32) images, and (5000, 10) of 0 and 1, which digits are on each."""
    digits = open_digits()
    assert digits.array is not None
    for_test = np.arange(len(digits)) % TEST_SHARE == TEST_SHARE - 1
    canvases: list[Canvas] = []
    for seed, (part, count) in enumerate(COUNTS.items()):
        mine = for_test == (part == "test")
        canvases += digit_canvases(
            digits.array[mine], digits.labels[mine], count, size=SIDE, objects=DIGITS, scale=SCALE, seed=seed
        )
    multi_hot = np.zeros((len(canvases), len(digits.classes)), np.uint8)
    for row, canvas in zip(multi_hot, canvases, strict=True):
        row[canvas.labels] = 1
    return np.stack([canvas.image for canvas in canvases]), multi_hot
