"""Trace which part of the image each tensor of a forward pass depends on, operation by operation.

Below autograd every model is a sequence of some hundreds of simple operations. A mode catches each of them and carries
along, with every tensor, which of its dimensions run over which axis of the image, and the receptive field of its
positions. So branches, functions outside of modules and layouts with channels last need no special case. An operation
that is not known here counts as one that works element by element.

The field is that of the spatial path. Where a map meets something that is the same at all its positions, such as the
gate of squeeze-and-excitation or a normalisation's statistics, the field stays that of the map, although the values do
depend on the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from cnnlab.models.cost import LEFT_FACTOR, operation_multiply_adds
from cnnlab.models.operations import SpatialStep, spatial_steps
from cnnlab.models.traced_tensor import TracedTensor, concatenate, larger, merge, multiply, plain_dim
from cnnlab.torch_patches import MetaMode

VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_copy", "unsqueeze", "squeeze", "unflatten"}
SPLITS = {"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"}
REDUCTIONS = {
    *("mean", "sum", "nansum", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "median", "any", "all"),
    *("var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm", "logsumexp"),
}
SCANS = {"_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp", "sort"}  # keep the shape


class ArithmeticMismatch(AssertionError):
    """The size that the arithmetic gives is not the one that the layer gave: a fault of ours."""


@dataclass(frozen=True)
class Operation:
    """What one operation did.

    Attributes:
        name: below autograd, such as "convolution" or "max_pool2d_with_indices".
        arithmetic: of the output size, one text for each axis that changed hands.
    """

    name: str
    given: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    output: Any
    arithmetic: tuple[str, ...]
    multiply_adds: int


class TraceMode(MetaMode):  # type: ignore[no-untyped-call]
    """While active, traces every tensor that is computed from `image`.

    Args:
        image: (1, C, H, W), or with another number of axes after the channels.
        on_operation: called after each operation.
    """

    def __init__(self, image: Tensor, on_operation: Callable[[Operation], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on_operation = on_operation
        self.by_tensor = WeakTensorKeyDictionary()
        self.by_tensor[image] = TracedTensor.of_image(image.shape)
        self.last_map: TracedTensor | None = None  # the last feature map after a convolution, pooling or resize
        self._seen_spatial = False

    def traced(self, value: Any) -> TracedTensor | None:
        """Axes and receptive fields of a tensor; None if it does not depend on the image."""
        return self.by_tensor[value] if isinstance(value, Tensor) and value in self.by_tensor else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        names = [argument.name for argument in func._schema.arguments]
        given = {argument.name: argument.default_value for argument in func._schema.arguments}
        given |= dict(zip(names, args, strict=False)) | (kwargs or {})
        inputs = tuple(tensors_in([args, kwargs or {}]))
        arithmetic: tuple[str, ...] = ()
        is_new = name.startswith("new_") or name.endswith("_like")  # takes shapes only
        if not is_new and any(self.traced(tensor) for tensor in inputs):
            arithmetic = self._trace(name, given, inputs, list(tensors_in(output)))
        cost = operation_multiply_adds(name, args, output)
        self.on_operation(Operation(name, given, inputs, output, arithmetic, cost))
        return output

    def _trace(
        self, name: str, given: Mapping[str, Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> tuple[str, ...]:
        """Trace the outputs of an operation, and return the arithmetic of their sizes."""
        traced = self.traced(inputs[0])
        texts: list[str] = []
        results: list[TracedTensor | None]
        if name in LEFT_FACTOR:
            left, right = inputs[LEFT_FACTOR[name] :][:2]
            results = [multiply(self.traced(left), self.traced(right), outputs[0].shape)]
        elif name in ("cat", "stack"):
            results = [self._joined(given, inputs, outputs[0])]
        elif name == "copy_":
            results = [self._merged(inputs[1:], outputs[0])]
        elif traced is None:
            results = [self._merged(inputs, out) for out in outputs]
        elif steps := spatial_steps(name, given, inputs[0].shape):
            results = [_after_steps(traced, steps, name, out) for out in outputs]
            along = range(-len(steps), 0)
            texts = [step.arithmetic for dim, step in zip(along, steps, strict=True) if traced.axis_of(dim) is not None]
            self._seen_spatial = True
        elif name == "slice":
            dim = given["dim"]
            result, text = traced.sliced(dim, inputs[0].shape[dim], given["start"], given["end"], given["step"])
            results, texts = [result], [text]
        elif name in VIEWS:
            results = [traced.reshaped(outputs[0].shape)]
            texts = [_flatten_text(traced, inputs[0].shape, outputs[0].shape)]
        elif name in ("permute", "transpose", "t"):
            results = [traced.permuted(_order(name, given, len(traced.dims)))]
        elif name in REDUCTIONS and "other" not in given:
            dims = _summed(given, len(traced.dims))
            results = [traced.reduced(dims, keepdim=out.ndim == inputs[0].ndim) for out in outputs]
            texts = [_reduction_text(name, traced, dims)]
        elif name in SCANS:
            results = [traced.mixed_over([given["dim"]]) for _ in outputs]
        elif name in ("select", "unbind"):
            results = [traced.without(given["dim"]) for _ in outputs]
        elif name in SPLITS:
            results = _split(traced, given["dim"], inputs[0], outputs)
        elif "attention" in name:
            results = [traced.mixed_over(range(len(traced.dims))) for _ in outputs]
        else:
            results = [self._merged(inputs, out) for out in outputs]
        for tensor, seen in zip(outputs, results, strict=True):
            if seen is not None:
                self._set(tensor, seen, written=name.endswith("_"))
        return tuple(text for text in texts if text)

    def _set(self, tensor: Tensor, traced: TracedTensor, written: bool) -> None:
        self.by_tensor[tensor] = traced
        if self._seen_spatial and traced.is_map:
            self.last_map = traced
        base = tensor._base
        if written and base is not None and base.ndim == tensor.ndim:
            self._write_through(base, tensor, traced)

    def _write_through(self, base: Tensor, part: Tensor, traced: TracedTensor) -> None:
        """What is written into a part of a tensor, the tensor sees; of several writes the largest field counts."""
        for dim, size in enumerate(base.shape):
            axis = traced.axis_of(dim)
            if axis is None:
                traced = traced.with_dim(dim, plain_dim(size))
                continue
            offset = (part.storage_offset() - base.storage_offset()) // base.stride(dim) % size
            step = max(1, part.stride(dim) // base.stride(dim))
            into = SpatialStep(size, "", lambda field, o=offset, s=step: field.through(lambda q: ((q - o) // s,), s, 1))  # type: ignore[misc]
            traced = traced.after_step(dim, into)
        before = self.traced(base)
        if before is not None:
            pairs = zip(before.fields, traced.fields, strict=True)
            traced = replace(traced, fields=tuple(larger(old, new) for old, new in pairs))
        self.by_tensor[base] = traced

    def _merged(self, inputs: Sequence[Tensor], out: Tensor) -> TracedTensor | None:
        known = [traced for traced in map(self.traced, inputs) if traced is not None]
        return merge(known, out.shape) if known else None

    def _joined(self, given: Mapping[str, Any], inputs: Sequence[Tensor], out: Tensor) -> TracedTensor:
        known = [traced for traced in map(self.traced, inputs) if traced is not None]
        dim = given["dim"] % out.ndim
        if len(known[0].dims) < out.ndim:  # stacked: a dimension more
            known = [replace(traced, dims=(*traced.dims[:dim], (), *traced.dims[dim:])) for traced in known]
        return concatenate(known, dim, out.shape[dim])


def tensors_in(values: Any) -> Iterable[Tensor]:
    """All tensors in nested lists, tuples and dictionaries, in order."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple | Mapping):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from tensors_in(value)


def _after_steps(traced: TracedTensor, steps: Sequence[SpatialStep], name: str, out: Tensor) -> TracedTensor:
    first = out.ndim - len(steps)
    if any(step.size != size for step, size in zip(steps, out.shape[first:], strict=True)):
        raise ArithmeticMismatch(f"{name}: {[step.arithmetic for step in steps]}, but torch gave {tuple(out.shape)}.")
    for dim, step in enumerate(steps, first):
        traced = traced.after_step(dim, step)
    channels = first - 1
    return (
        traced
        if any(factor.axis is not None for factor in traced.dims[channels])
        else traced.with_dim(channels, plain_dim(out.shape[channels]))
    )


def _order(name: str, given: Mapping[str, Any], ndim: int) -> list[int]:
    """Which dimension goes where in a permute, a transpose or a t."""
    if name == "permute":
        return [dim % ndim for dim in given["dims"]]
    order = list(range(ndim))
    if ndim > 1:
        one, other = (given["dim0"], given["dim1"]) if name == "transpose" else (0, 1)
        order[one], order[other] = order[other], order[one]
    return order


def _summed(given: Mapping[str, Any], ndim: int) -> list[int]:
    dims = given.get("dim")
    if dims is None or dims == []:
        return list(range(ndim))
    return [dim % ndim for dim in (dims if isinstance(dims, list | tuple) else [dims])]


def _reduction_text(name: str, traced: TracedTensor, dims: Sequence[int]) -> str:
    sizes = [factor.size for dim in dims for factor in traced.dims[dim] if factor.axis is not None]
    return f"{name.removeprefix('a')} of {'×'.join(map(str, sizes))}" if prod(sizes) > 1 else ""


def _flatten_text(traced: TracedTensor, before: Sequence[int], after: Sequence[int]) -> str:
    """ "16·5·5 = 400" where positions go into features."""
    if len(before) > 2 == len(after) and before[0] == after[0] and traced.positions > 1:
        return f"{'·'.join(str(size) for size in before[1:])} = {after[1]}"
    return ""


def _split(traced: TracedTensor, dim: int, whole: Tensor, outputs: Sequence[Tensor]) -> list[TracedTensor | None]:
    results: list[TracedTensor | None] = []
    done = 0
    for out in outputs:
        results.append(traced.sliced(dim, whole.shape[dim], done, done + out.shape[dim])[0])
        done += out.shape[dim]
    return results
