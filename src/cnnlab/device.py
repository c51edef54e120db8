"""Where a run computes, and with which instructions."""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cnnlab.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """ "auto" → the accelerator that torch finds here (cuda, mps, …), or cpu.

    Raises:
        DeviceError: the named device is not on this machine.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise DeviceError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}.")
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
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


def device_name(device: torch.device) -> str:
    """What `choose_device` makes that device of, on other machines too: "auto" for the accelerator that it finds."""
    return "auto" if device.type != "cpu" and device == choose_device("auto") else str(device)


def sum_type(device: torch.device) -> torch.dtype:
    """In which long sums are taken: float64, or float32 where there is no float64, as on Apple's GPUs."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


@functools.cache  # none is ever freed: a recorded graph knows them by their address
def constant(values: tuple[float, ...], device: torch.device, times: int = 1) -> torch.Tensor:
    """(times · n,) float32, the values again and again. It is made once: a copy to a GPU would wait for all it does.

    Nobody may change it.
    """
    with torch.inference_mode(False):  # what is made for a test may be used in training
        return torch.tensor(values, dtype=torch.float32, device=device).repeat(times)


_lock = threading.Lock()
_before: list[Any] = []  # the settings before the first of the threads that are within `exact_float32`
_threads = 0


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within, CUDA takes float32 as it is; TF32, which drops 13 of its 23 bits in products, is for training alone.

    So a run answers the same on a GPU, on a processor and exported. Any number of threads may be within at once. It
    sets what libraries and models still read (`allow_tf32`): torch refuses that once the newer names were set.
    """
    global _threads
    with _lock:
        _threads += 1
        if _threads == 1:
            _before[:] = [torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32]
            _set_tf32("highest", False)
    try:
        yield
    finally:
        with _lock:
            _threads -= 1
            if _threads == 0:
                _set_tf32(*_before)


def _set_tf32(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


# oneDNN's names, from the least to the most, and what torch calls the same.
INSTRUCTION_SETS = {
    "SSE41": "sse4_1",
    "AVX": "avx",
    "AVX2": "avx2",
    "AVX2_VNNI": "avx_vnni",
    "AVX512_CORE": "avx512_bw",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_FP16": "avx512_fp16",
    "AVX512_CORE_AMX": "amx_bf16",
    "AVX512_CORE_AMX_FP16": "amx_fp16",
}
SAME = {"AVX10_1_512": "AVX512_CORE_FP16", "AVX10_1_512_AMX": "AVX512_CORE_AMX", "AVX2_VNNI_2": "AVX2_VNNI"}


def instruction_set() -> str:
    """The instructions of the processor that oneDNN, and so convolutions and matrix products, may use here.

    The best that the processor has and ONEDNN_MAX_CPU_ISA allows: "AVX2", "AVX512_CORE_AMX", …; "" on processors that
    are not x86.
    """
    has = torch.cpu.get_capabilities()
    sets = [name for name, torchs in INSTRUCTION_SETS.items() if has.get(torchs)]
    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
    limit = SAME.get(limit, limit)
    if limit in INSTRUCTION_SETS:
        order = list(INSTRUCTION_SETS)
        sets = [name for name in sets if order.index(name) <= order.index(limit)]
    return sets[-1] if sets else ""


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bfloat16, and may use them."""
    order = list(INSTRUCTION_SETS)
    now = instruction_set()
    return now != "" and order.index(now) >= order.index("AVX512_CORE_BF16")
