"""Seeds: what a network draws itself comes from (seed, step)."""

from __future__ import annotations

import torch


def mix(seed: int, step: int) -> int:
    """A well-spread 63-bit number from two: the finaliser of SplitMix64 (Steele et al. 2014)."""
    value = (seed * 0x9E3779B97F4A7C15 + step + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (value ^ (value >> 31)) >> 1


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Before a step: dropout and its like draw the same numbers whatever happened before, a crash included.

    Of several processes each draws its own (`rank`), as each has other images.
    """
    value = mix(seed, step)
    torch.manual_seed(mix(value, rank) if rank else value)
