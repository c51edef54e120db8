"""Randomness as a function of (seed, epoch): the order of an epoch, and the augmentation of the image at each position.

All draws of an epoch are made at its start, for all images. So neither the batch size nor the number of processes
nor the moment of a crash changes what an image looks like in an epoch, and resuming is an index.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cnnlab.data.augment import Augmentation, Draws


@dataclass(frozen=True)
class EpochPlan:
    """`order[p]` is the member of the split at place p; `draws[name][p]` what was drawn for it."""

    order: Tensor  # (n,) int64
    draws: Draws  # each (n,) or (n, k)

    def drawn(self, places: slice | Tensor) -> Draws:
        """What was drawn for the images at some places."""
        return {name: draw[places] for name, draw in self.draws.items()}


def shard_of(part: slice, rank: int, size: int) -> slice:
    """The places of a batch that process `rank` of `size` takes: all of them are taken once, as evenly as they go."""
    count = part.stop - part.start
    return slice(part.start + count * rank // size, part.start + count * (rank + 1) // size)


def stream(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """An independent generator for each (seed, epoch, purpose): a new kind of draw leaves the others as they were."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, zlib.crc32(purpose.encode())])))


def plan_epoch(
    count: int, augmentation: Augmentation | None, seed: int, epoch: int, weights: np.ndarray | None = None
) -> EpochPlan:
    """Plan one epoch over `count` images.

    Args:
        augmentation: what to draw for; None draws nothing.
        weights: (count,) probabilities for sampling with replacement; None visits each image once.
    """
    if weights is None:
        order = stream(seed, epoch, "order").permutation(count)
    else:
        order = stream(seed, epoch, "order").choice(count, size=count, p=weights / weights.sum())
    draws = _draws(count, augmentation, seed, epoch) if augmentation else {}
    if augmentation and augmentation.config.flip == "alternate":
        draws["flip"] = _alternate(order, seed, epoch)
    return EpochPlan(torch.from_numpy(order), {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in draws.items()})


def _alternate(order: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Each image starts mirrored or not by chance, and changes sides every epoch (Jordan 2024, section 3.6)."""
    start = stream(seed, 0, "alternate").random(int(order.max()) + 1) < 0.5
    return start[order] ^ bool(epoch % 2)


def _draws(n: int, augmentation: Augmentation, seed: int, epoch: int) -> dict[str, np.ndarray]:
    config, height, width = augmentation.config, augmentation.height, augmentation.width
    draws: dict[str, np.ndarray] = {}

    def uniform(purpose: str, low: float = -1.0, high: float = 1.0, *shape: int) -> np.ndarray:
        values = stream(seed, epoch, purpose).random((n, *shape), dtype=np.float32)
        return values * np.float32(high - low) + np.float32(low)

    if config.flip == "random":
        draws["flip"] = stream(seed, epoch, "flip").random(n, dtype=np.float32) < 0.5
    if augmentation.crop == "pad":
        up, side = augmentation.border
        draws["top"] = stream(seed, epoch, "top").integers(-up, up + 1, n)
        draws["left"] = stream(seed, epoch, "left").integers(-side, side + 1, n)
    if augmentation.crop == "resized":
        draws["box"] = _boxes(uniform("box", 0, 1, 4), config.scale, config.ratio)
    if augmentation.affine:
        turn = np.deg2rad(uniform("rotation") * config.rotation)
        shear = np.tan(np.deg2rad(uniform("shear") * config.shear))
        zoom = 1 / (1 + uniform("zoom") * config.zoom)
        shift = uniform("translate", -1, 1, 2) * config.translate * 2
        cos, sin, aspect = np.cos(turn) * zoom, np.sin(turn) * zoom, height / width
        rows = [cos, (shear * cos - sin) * aspect, shift[:, 0], sin / aspect, shear * sin + cos, shift[:, 1]]
        draws["affine"] = np.stack(rows, 1).reshape(n, 2, 3).astype(np.float32)
    for name in ("brightness", "contrast", "saturation"):
        if spread := getattr(config, name):
            draws[name] = np.maximum(0, 1 + uniform(name) * spread)
    if config.erasing:
        hole = _boxes(uniform("erasing box", 0, 1, 4), [0.02, 1 / 3], [0.3, 3.3])
        hit = uniform("erasing", 0, 1) < config.erasing
        draws["erasing"] = np.where(hit[:, None], hole, 0).astype(np.float32)
    if config.cutout:
        centre = uniform("cutout", 0, 1, 2) - config.cutout / 2
        draws["cutout"] = np.concatenate([centre, np.full_like(centre, config.cutout)], 1)
    if config.mixup or config.cutmix:
        alpha = config.mixup or config.cutmix
        draws["mix"] = stream(seed, epoch, "mix").beta(alpha, alpha, n).astype(np.float32)
        draws["partner"] = stream(seed, epoch, "partner").permutation(n)
    if config.cutmix:
        side = np.sqrt(1 - draws["mix"])[:, None] * np.ones((1, 2), np.float32)
        centre = uniform("cutmix", 0, 1, 2)
        low, high = np.clip(centre - side / 2, 0, 1), np.clip(centre + side / 2, 0, 1)
        draws["cutmix"] = np.concatenate([low, high - low], 1).astype(np.float32)
    return draws


def _boxes(uniform: np.ndarray, scale: list[float], ratio: list[float]) -> np.ndarray:
    """(n, 4) uniform numbers → (n, 4) boxes (top, left, height, width) as shares of the image.

    Area uniform in `scale`, log of the aspect ratio uniform in log `ratio`, as Inception's random resized crop
    (Szegedy et al. 2015, section 6); sides longer than the image are cut to it.
    """
    area = scale[0] + uniform[:, 0] * (scale[1] - scale[0])
    aspect = np.exp(math.log(ratio[0]) + uniform[:, 1] * (math.log(ratio[1]) - math.log(ratio[0])))
    height, width = np.minimum(1, np.sqrt(area / aspect)), np.minimum(1, np.sqrt(area * aspect))
    return np.stack([uniform[:, 2] * (1 - height), uniform[:, 3] * (1 - width), height, width], 1).astype(np.float32)
