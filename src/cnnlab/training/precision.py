"""How a run computes: precision, compilation, threads, allocator."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from cnnlab.config import TrainerConfig
from cnnlab.device import multiplies_bf16
from cnnlab.errors import DeviceError
from cnnlab.models.cost import multiply_adds

TINY_STEP = 150_000_000  # multiply-adds of a forward pass; below it a second thread hardly gains (docs/performance.md)
COMPILE_SECONDS = 45  # that compilation takes
COMPILE_GAIN, GPU_FLOPS = 0.1, 1e13  # assumed, only to judge whether a run is long enough to earn it back


def choose_precision(name: str, device: torch.device, model: nn.Module) -> str:
    """ "auto" → bf16 where the processor multiplies in it and the model convolves, else fp32.

    Raises:
        DeviceError: fp16 without a CUDA GPU.
    """
    if name == "fp16" and device.type in ("cpu", "mps"):
        raise DeviceError(
            f"trainer.precision=fp16 needs a CUDA GPU, and this run uses {device.type}; use bf16 or auto."
        )
    if name != "auto":
        return name
    convolves = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    return "bf16" if convolves and has_fast_bf16(device) else "fp32"


def has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and multiplies_bf16()


def choose_compile(
    setting: object, device: torch.device, model: nn.Module, shape: tuple[int, ...], images: int
) -> bool:
    """ "auto" → on a CUDA GPU where the run is long enough to earn it back; on processors it gains nothing.

    A function of the configuration and the machine's kind alone, so that a resumed run decides as the first did.

    Args:
        shape: (C, H, W) of an image; images: how many the whole run trains on.
    """
    if setting != "auto":
        return bool(setting)
    if device.type != "cuda":
        return False
    flops = 6.0 * multiply_adds(model, shape) * images  # a multiply-add is two; backward costs twice forward
    return COMPILE_GAIN * flops / GPU_FLOPS > 2 * COMPILE_SECONDS


def prepare_process(config: TrainerConfig, threads: int | None = None) -> None:
    """Set what holds for the whole process, once, before the first tensor of a run.

    Args:
        threads: where the config names no number of them; None leaves torch's own choice.
    """
    if config.threads or threads:
        torch.set_num_threads(config.threads or threads or 1)
    keep_freed_memory()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no word about CUDA where there is none
    torch.set_float32_matmul_precision("high")
    if torch.are_deterministic_algorithms_enabled() != config.deterministic:
        torch.use_deterministic_algorithms(config.deterministic)  # imports the compiler, which takes a second
    torch.backends.cudnn.benchmark = not config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS adds in any order


@contextlib.contextmanager
def threads_for(
    config: TrainerConfig, device: torch.device, model: nn.Module, shape: tuple[int, ...]
) -> Iterator[None]:
    """Within, one thread for steps so small that a second one would wait longer than it helps.

    On a busy machine it would wait far longer. A function of configuration and model, as the number of threads shows in
    the last digits of what is computed. A number that is given, by trainer.threads or OMP_NUM_THREADS, holds.

    Args:
        shape: (C, H, W) of an image.
    """
    before = torch.get_num_threads()
    chosen = device.type != "cpu" or config.threads or "OMP_NUM_THREADS" in os.environ or before == 1
    if not chosen and _work(model, shape) * config.batch_size // config.devices < TINY_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _work(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of an image; more than TINY_STEP where a model of the user's own cannot be asked."""
    try:
        return multiply_adds(model, shape)
    except Exception:  # it may ask what a tensor without numbers cannot answer
        return TINY_STEP


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks instead of giving each activation back to the system after every step.

    Without it ResNet-20 spends a tenth to a fifth of its time in page faults (docs/performance.md). No-op elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):  # musl
        return


def give_back_freed_memory() -> None:
    """Return to the system what glibc kept, and to the accelerator what torch kept. No-op elsewhere."""
    if torch.accelerator.is_available():
        with contextlib.suppress(RuntimeError):  # not every backend of torch can
            torch.accelerator.empty_cache()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


@dataclass(frozen=True)
class Precision:
    """Autocast of one precision on one device."""

    name: str
    device: torch.device

    def autocast(self) -> torch.autocast:
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)
        return torch.autocast(self.device.type, dtype=kind, enabled=kind is not None)
