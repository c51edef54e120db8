"""What a forward pass costs, counted on torch's meta device, which computes shapes only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.torch_patches import MetaMode, without_compiler

# The products of matrices that torch's layers come down to, and where among their arguments the left factor is.
LEFT_FACTOR = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1, "mv": 0, "addmv": 1, "dot": 0}


def operation_multiply_adds(name: str, arguments: Sequence[Any], output: Any) -> int:
    """Multiply-adds of one operation of torch: convolutions, also transposed and grouped, and products of matrices.

    Args:
        name: of the operation below autograd, such as "convolution" or "addmm".
    """
    if name == "convolution":
        pixels, weight, transposed = arguments[0], arguments[1], arguments[6]
        # (out, in/groups, …): what one output costs; transposed (in, out/groups, …): what one input does.
        return int((pixels if transposed else output).numel() * weight[0].numel())
    if name in LEFT_FACTOR:
        return int(output.numel() * arguments[LEFT_FACTOR[name]].shape[-1])
    return 0


class _Counter(MetaMode):  # type: ignore[no-untyped-call]
    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution" or name in LEFT_FACTOR:
            self.total += operation_multiply_adds(name, args, output)
        return output


def multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of the convolutions and linear layers, as modules or as functions, for one image of `shape`.

    Args:
        shape: (C, H, W). Raises what the model raises for a wrong one.
    """
    counter = _Counter()  # type: ignore[no-untyped-call]
    run_on_meta_device(to_meta_device(model), shape, lambda image: counter)
    return counter.total


def to_meta_device(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode on torch's meta device: tensors have shapes but no values, and no weight is copied."""
    memo: dict[int, Any] = {}
    attributes = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    for tensor in chain(model.parameters(), model.buffers(), attributes):
        if nn.parameter.is_lazy(tensor):  # its first forward pass gives it a shape
            kind: Any = type(tensor)
            memo[id(tensor)] = kind(requires_grad=tensor.requires_grad, device="meta")
            continue
        empty: Tensor = torch.empty_like(tensor.detach(), device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo).eval()


def run_on_meta_device(meta_model: nn.Module, shape: tuple[int, ...], watch: Callable[[Tensor], MetaMode]) -> Any:
    """One forward pass of an image of `shape` (C, H, W) through a model on the meta device.

    Args:
        watch: image (1, C, H, W) → the mode under which the operations run.
    """
    dtype = next((parameter.dtype for parameter in meta_model.parameters() if parameter.is_floating_point()), None)
    image = torch.empty(1, *shape, dtype=dtype, device="meta")
    with without_compiler(), torch.no_grad(), torch.device("meta"), watch(image):
        return meta_model(image)
