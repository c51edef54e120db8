"""What torch's spatial operations do to each axis: the size they give, its arithmetic, and what is seen after them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cnnlab.geometry import (
    ReceptiveField,
    conv_arithmetic,
    conv_output_size,
    conv_transpose_arithmetic,
    conv_transpose_output_size,
    pool_arithmetic,
    pool_output_size,
)

RESIZE = re.compile(r"_?upsample_(nearest_exact|nearest|linear|bilinear|trilinear|bicubic)\dd")
MODES = {"nearest_exact": "nearest-exact", "bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}


@dataclass(frozen=True)
class SpatialStep:
    """One operation along one axis.

    Attributes:
        size: the output size that the arithmetic gives.
        arithmetic: the same in writing; empty where nothing is to be said.
        field: what a position sees after it, from what a position saw before.
    """

    size: int
    arithmetic: str
    field: Callable[[ReceptiveField], ReceptiveField]


def spatial_steps(name: str, given: Mapping[str, Any], shape: Sequence[int]) -> list[SpatialStep] | None:
    """Steps along the last axes of an input of `shape`, one for each axis; None for an operation not spatial.

    Args:
        name: of the operation below autograd, such as "max_pool2d_with_indices".
        given: its arguments by name, defaults included.
    """
    if name == "convolution":
        return _convolution(given, shape)
    if re.fullmatch(r"(max|avg)_pool\dd(_with_indices)?", name):
        return _pooling(given, shape)
    if re.fullmatch(r"_?adaptive_(max|avg)_pool\dd", name):
        return [_adaptive(size, output) for size, output in _last(shape, given["output_size"])]
    if match := RESIZE.fullmatch(name):
        mode, aligned = MODES.get(match[1], match[1]), bool(given.get("align_corners"))
        return [_resize(size, output, mode, aligned) for size, output in _last(shape, given["output_size"])]
    if name == "constant_pad_nd" or re.fullmatch(r"(reflection|replication)_pad\dd", name):
        # From the last axis back: (left, right, top, bottom, …).
        pairs = list(zip(given["pad" if "pad" in given else "padding"][::2], _second(given), strict=True))[::-1]
        return [_pad(size, before, after) for size, (before, after) in _last(shape, pairs)]
    if name in ("pixel_shuffle", "pixel_unshuffle"):
        factor = given["upscale_factor" if name == "pixel_shuffle" else "downscale_factor"]
        return [(_shuffle if name == "pixel_shuffle" else _unshuffle)(size, factor) for size in shape[-2:]]
    return None


def _second(given: Mapping[str, Any]) -> Sequence[int]:
    return given["pad" if "pad" in given else "padding"][1::2]


def _last(shape: Sequence[int], values: Sequence[Any]) -> list[tuple[int, Any]]:
    return list(zip(shape[len(shape) - len(values) :], values, strict=True))


def _each(values: Sequence[int], axes: int, default: int = 1) -> list[int]:
    """One value for each axis; torch lets a single one stand for all, and none for the default."""
    values = list(values) or [default]
    return values * axes if len(values) == 1 else values


def _convolution(given: Mapping[str, Any], shape: Sequence[int]) -> list[SpatialStep]:
    kernel = list(given["weight"].shape[2:])
    settings = [_each(given[key], len(kernel)) for key in ("stride", "padding", "dilation", "output_padding")]
    steps = []
    for size, taps, stride, padding, dilation, extra in zip(shape[-len(kernel) :], kernel, *settings, strict=True):
        if given["transposed"]:
            numbers = (size, taps, stride, padding, extra, dilation)
            answer, text = conv_transpose_output_size(*numbers), conv_transpose_arithmetic(*numbers)
        else:
            answer = conv_output_size(size, taps, stride, padding, dilation)
            text = conv_arithmetic(size, taps, stride, padding, dilation)
        steps.append(SpatialStep(answer, text, _after_conv(taps, stride, padding, dilation, given["transposed"])))
    return steps


def _pooling(given: Mapping[str, Any], shape: Sequence[int]) -> list[SpatialStep]:
    axes = 1 if len(given["kernel_size"]) == 1 and len(shape) == 3 else max(2, len(given["kernel_size"]))
    kernel = _each(given["kernel_size"], axes)
    stride = _each(given["stride"], axes) if given["stride"] else kernel
    padding, dilation = _each(given["padding"], axes), _each(given.get("dilation", ()), axes)
    steps = []
    for size, taps, jump, pad, spread in zip(shape[-axes:], kernel, stride, padding, dilation, strict=True):
        numbers = (size, taps, jump, pad, spread, bool(given["ceil_mode"]))
        field = _after_conv(taps, jump, pad, spread, transposed=False)
        steps.append(SpatialStep(pool_output_size(*numbers), pool_arithmetic(*numbers), field))
    return steps


def _after_conv(
    kernel_size: int, stride: int, padding: int, dilation: int, transposed: bool
) -> Callable[[ReceptiveField], ReceptiveField]:
    return lambda field: field.after_conv(kernel_size, stride, padding, dilation, transposed)


def _adaptive(size: int, output: int) -> SpatialStep:
    text = f"{size}/{size // output} = {output}" if size % output == 0 else f"{size} → {output} as set"
    return SpatialStep(output, text, lambda field: field.after_adaptive_pool(size, output))


def _resize(size: int, output: int, mode: str, align_corners: bool) -> SpatialStep:
    text = f"{output // size}·{size} = {output}" if output % size == 0 else f"{size} → {output} as set"
    return SpatialStep(output, text, lambda field: field.after_resize(size, output, mode, align_corners))


def _pad(size: int, before: int, after: int) -> SpatialStep:
    sides = "".join(f"{'+' if side > 0 else '−'}{abs(side)}" for side in (before, after) if side)
    output = size + before + after
    return SpatialStep(output, f"{size}{sides} = {output}" if sides else "", lambda field: field.after_slice(-before))


def _shuffle(size: int, factor: int) -> SpatialStep:
    spread = partial(ReceptiveField.through, reads=lambda q: (q // factor,), outputs=factor, inputs=1)
    return SpatialStep(factor * size, f"{factor}·{size} = {factor * size}", spread)


def _unshuffle(size: int, factor: int) -> SpatialStep:
    return SpatialStep(
        size // factor, f"{size}/{factor} = {size // factor}", lambda field: field.after_conv(factor, factor)
    )


def slice_step(size: int, start: int, stop: int, step: int) -> SpatialStep:
    """Positions start, start + step, … before stop."""
    start, stop, _ = slice(start, stop).indices(size)
    output = len(range(start, stop, step))
    cut = "".join(f"−{side}" for side in (start, size - stop) if side)
    text = f"⌈({size}{cut})/{step}⌉" if cut and step > 1 else f"⌈{size}/{step}⌉" if step > 1 else f"{size}{cut}"
    return SpatialStep(
        output, f"{text} = {output}" if output != size else "", lambda field: field.after_slice(start, step)
    )
