"""Where a run computes."""

from __future__ import annotations

import re

import torch

from cnnlab.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """ "auto" → the first of cuda, mps, cpu that is there.

    Raises:
        DeviceError: the named device is not on this machine.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise DeviceError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device=cuda, but torch finds no CUDA GPU here; use auto (trainer.device=auto, --device auto)."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {name}, but this machine has {torch.cuda.device_count()} GPU(s).")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(
            "device mps, but torch finds no Metal GPU here; use auto (trainer.device=auto, --device auto)."
        )
    return device
