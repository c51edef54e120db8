"""Seeds: what a network draws itself comes from (seed, step)."""

from __future__ import annotations

import torch

BEFORE_TRAINING = -1  # the step whose numbers the initial weights are
PROCESSOR = torch.device("cpu")


def mix(seed: int, step: int) -> int:
    """A well-spread 63-bit number from two: the finaliser of SplitMix64 (Steele et al. 2014)."""
    value = (seed * 0x9E3779B97F4A7C15 + step + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (value ^ (value >> 31)) >> 1


def seed_step(seed: int, step: int, rank: int = 0, device: torch.device = PROCESSOR) -> None:
    """Before a step: dropout and its like draw the same numbers whatever happened before, a crash included.

    What draws on the processor is seeded, and what draws on the device. `torch.manual_seed` seeds every kind of device
    that torch knows as well, in 0.1 ms; without a GPU it keeps each seed for the day that one is there.

    Args:
        rank: of several processes each draws its own numbers, as each has other images.
    """
    value = mix(seed, step)
    value = mix(value, rank) if rank else value
    torch.default_generator.manual_seed(value)
    if device.type != "cpu":
        module = torch.get_device_module(device)
        seed_all = getattr(module, "manual_seed_all", None) or module.manual_seed  # of mps there is but one
        seed_all(value)
