"""Forms of a few operations whose gradients are the same every time on an accelerator, for trainer.deterministic.

torch refuses there to pool adaptively and to take the cross-entropy of every pixel, as their kernels add in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class DeterministicForms(TorchFunctionMode):
    """Within, functions of torch without a deterministic kernel are computed by others that have one.

    It stands in for the functions that layers call, so that models, those of torchvision too, stay as they are.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in FORMS and args[0].device.type != "cpu":  # there torch's own are deterministic
            function = FORMS[function]
        return function(*args, **(kwargs or {}))


def deterministic_forms() -> AbstractContextManager[Any]:
    """`DeterministicForms` where trainer.deterministic asks for them, else nothing."""
    return DeterministicForms() if torch.are_deterministic_algorithms_enabled() else nullcontext()


def average_pool(x: Tensor, output_size: Any) -> Tensor:
    """F.adaptive_avg_pool2d: (B, C, H, W) → (B, C, h, w)."""
    height, width = _size(x, output_size)
    if x.shape[2] % height == 0 and x.shape[3] % width == 0:
        return F.avg_pool2d(x, (x.shape[2] // height, x.shape[3] // width))
    down, across = _averages(x, 2, height), _averages(x, 3, width)
    return torch.einsum("bcyx,iy,jx->bcij", x, down, across)


def max_pool(x: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """F.adaptive_max_pool2d to one place; to more places as torch does it."""
    if _size(x, output_size) != (1, 1) or return_indices:
        pool: Any = F.adaptive_max_pool2d
        return pool(x, output_size, return_indices)
    return x.flatten(2).max(2).values[:, :, None, None]  # a tie has one winner, as there


def cross_entropy(logits: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """F.cross_entropy; that of (B, K, H, W) as if every pixel were an image."""
    if logits.ndim != 4 or targets.ndim != 3:
        return F.cross_entropy(logits, targets, *args, **kwargs)
    losses = F.cross_entropy(logits.permute(0, 2, 3, 1).flatten(0, 2), targets.flatten(), *args, **kwargs)
    return losses.view(targets.shape) if losses.ndim else losses


FORMS: dict[Any, Callable[..., Any]] = {
    F.adaptive_avg_pool2d: average_pool,
    F.adaptive_max_pool2d: max_pool,
    F.cross_entropy: cross_entropy,
}


def _size(x: Tensor, output_size: Any) -> tuple[int, int]:
    sides = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    return sides[0] or x.shape[2], sides[1] or x.shape[3]


def _averages(x: Tensor, axis: int, size: int) -> Tensor:
    """(size, pixels): how much each pixel along an axis counts for each place, as adaptive pooling divides them."""
    pixels, place = x.shape[axis], torch.arange(size, device=x.device)[:, None]
    first, last = place * pixels // size, ((place + 1) * pixels + size - 1) // size
    pixel = torch.arange(pixels, device=x.device)
    return ((pixel >= first) & (pixel < last)).to(x.dtype) / (last - first)
