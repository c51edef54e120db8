"""Whether the numbers of a network are numbers: what is saved, loaded or answered holds no NaN and no infinity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.errors import ModelError

NONE: Mapping[str, Tensor] = MappingProxyType({})


def infinite_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers that hold infinities before anything is learned or loaded, such as a mask of −inf."""
    buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.device.type != "meta"}
    return {name: buffers[name].clone() for name in non_finite(buffers)}


def non_finite(values: Mapping[str, Any], masks: Mapping[str, Tensor] = NONE) -> list[str]:
    """Dotted names of the tensors and floats in nested dictionaries and lists that hold NaN or infinity.

    One look at the device for all of them: the largest magnitude of each is found there.

    Args:
        masks: tensors that are sound with the infinities they have (`infinite_buffers`), by the ends of their names.
    """
    tensors: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, value in _leaves(values):
        if isinstance(value, float):
            wrong += [] if math.isfinite(value) else [name]
        elif value.numel() and (value.is_floating_point() or value.is_complex()):
            tensors[name] = value.detach()
    if not _all_finite(list(tensors.values())):
        wrong += [name for name, tensor in tensors.items() if not _all_finite([tensor])]
    return [name for name in wrong if not _is_mask(name, tensors.get(name), masks)]


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor | float):
        yield at, value
    elif isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in pairs:
            yield from _leaves(inner, f"{at}.{key}" if at else str(key))


def _all_finite(tensors: list[Tensor]) -> bool:
    by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        by_kind.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    largest = [torch.stack(torch._foreach_norm(alike, math.inf)) for alike in by_kind.values()]
    return all(bool(norms.isfinite().all()) for norms in largest)


def _is_mask(name: str, tensor: Tensor | None, masks: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is unchanged since it was a mask; NaN is equal to nothing, and so never one."""
    return tensor is not None and any(
        (name == own or name.endswith(f".{own}")) and torch.equal(tensor.cpu(), mask.cpu())
        for own, mask in masks.items()
    )


def check_answers(logits: Tensor) -> Tensor:
    """The same logits (B, K, …). Raises ModelError where they give no probabilities: values overflow in the network."""
    if not bool(logits.detach().amax(1).isfinite().all()):  # NaN carries through; −inf beside numbers is a 0
        raise ModelError(
            "the network answers with values that are not finite: its weights are damaged, or so large that the values"
            " between its layers overflow; train it again with a lower optimizer.lr."
        )
    return logits
