"""Exact mean and standard deviation of stored images, for normalisation."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch import Tensor

from cnnlab.data.loader import Streamed


def measure(
    pixels: Tensor | Streamed, numbers: np.ndarray, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation of each channel over images `numbers`, in units of [0, 1]."""
    if isinstance(pixels, Streamed):
        parts = [numbers[first : first + 128].tolist() for first in range(0, len(numbers), 128)]
        sums = [channel_sums(block.numpy()) for block in pixels.batches(parts)]
    else:
        images = pixels.cpu().numpy()
        size = max(1, 2**20 // images[0].nbytes)
        blocks = [numbers[first : first + size] for first in range(0, len(numbers), size)]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            sums = list(pool.map(lambda block: channel_sums(images[block]), blocks))
    count, total, squares = np.sum(sums, axis=0)[:, :channels]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1.0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def channel_sums(block: np.ndarray) -> np.ndarray:
    """(B, H, W, C) uint8 → (3, C) float64: how many values a channel has, their sum and that of their squares, exactly.

    Few enough rows are added at once for float32 to hold each sum, whose additions are vector instructions.
    """
    rows = block.reshape(block.shape[0] * block.shape[1], -1)
    sums = np.zeros((3, rows.shape[1]))
    sums[0] = len(rows)
    most = 2**24 // 255**2
    for first in range(0, len(rows), most):
        values = rows[first : first + most].astype(np.float32)
        sums[1] += values.sum(0)
        sums[2] += np.square(values, out=values).sum(0)
    return sums.reshape(3, -1, block.shape[3]).sum(1)
