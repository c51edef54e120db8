"""Convolutions that torch computes badly on processors, computed in another way; weights, names and classes stay.

Three kinds (torch 2.15, oneDNN 3.13; docs/performance.md has the times):

- A 1×1 convolution with a stride, fewer than 16 channels, images in channels-last memory, and a batch that the
  threads do not share evenly: the gradient of its filters is written outside its memory (float32 and bfloat16), and the
  process dies, now or later. The same result comes from leaving out the pixels first and convolving without a stride.
- A convolution with a stride and an output of one column, in bfloat16: taps that lie beside the map at that column get
  for gradient whatever was in memory. With the zeros around the map as pixels, no tap does.
- Many filters of 3×3 or less over a small map in bfloat16, as in the last stage of a ResNet or VGG: the zeros around
  the map are multiplied like pixels, and the filters fit in no cache that is near. Matrix products of the map's rows,
  each with the taps that lie inside, take a third to nine tenths of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from cnnlab.torch_patches import replace_convolution
from cnnlab.training.precision import has_fast_bf16

Pair = tuple[int, ...]  # rows, columns, as torch's layers have it

SAFE_CHANNELS = 16  # from here on the fault was not seen
SMALL_KERNEL = 3  # rows and columns, at most
WEIGHTS_A_POSITION, SMALL_MAP = 1 << 16, 25  # of the output: so many weights for each, so many of them at most


def fix_convolutions(model: nn.Module) -> None:
    """Let the layers of a model that torch computes badly on a processor compute otherwise.

    Until `torch_patches.restore_convolutions`.
    """
    fast = has_fast_bf16(torch.device("cpu"))
    for layer in model.modules():
        if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            continue
        dense = layer.groups == 1 and max(layer.dilation) == 1
        convolve: Any = None
        if layer.kernel_size == (1, 1):
            if dense and max(layer.stride) > 1 and layer.in_channels < SAFE_CHANNELS and not any(layer.padding):
                convolve = partial(_without_stride, layer.stride)
        else:
            large = fast and dense and max(layer.kernel_size) <= SMALL_KERNEL
            large = large and layer.weight.numel() >= WEIGHTS_A_POSITION
            if large or (layer.stride[1] > 1 and layer.padding[1]):
                convolve = partial(_convolve, large, layer.stride, layer.padding, layer.dilation, layer.groups)
        if convolve is not None:
            replace_convolution(layer, convolve)


def _without_stride(stride: Pair, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1×1 convolution of every `stride`-th pixel: (B, C, H, W) → (B, C', ⌈H/s⌉, ⌈W/s⌉)."""
    rows, columns = stride
    return F.conv2d(x[..., ::rows, ::columns], weight, bias)


def _convolve(
    large: bool,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    if _is_bfloat16(x, weight) and x.ndim == 4 and x.shape[1] == groups * weight.shape[1]:
        height, width = (
            (size + 2 * pad - gap * (taps - 1) - 1) // step + 1
            for size, taps, step, pad, gap in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        )
        small = height * width <= min(SMALL_MAP, weight.numel() // WEIGHTS_A_POSITION)
        if large and small and min(len(x), height, width) > 0:
            y: Tensor = SmallMapConvolution.apply(x, weight, stride, padding)  # type: ignore[no-untyped-call]
            return y if bias is None else y + bias.to(y.dtype)[:, None, None]
        if width == 1 and stride[1] > 1:
            x, padding = F.pad(x, (padding[1], padding[1], padding[0], padding[0])), (0, 0)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _is_bfloat16(x: Tensor, weight: Tensor) -> bool:
    """Whether torch would convolve them in bfloat16, here and now."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") is torch.bfloat16 and x.dtype is not torch.float64
    return x.dtype is weight.dtype is torch.bfloat16


class SmallMapConvolution(torch.autograd.Function):
    """(B, C, H, W), filters (C', C, kernel rows, kernel columns) → (B, C', H', W') in bfloat16, in matrix products.

    Memory is channels last throughout. Sums are taken in float32, as torch's own convolution takes them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        x, filters = x.to(torch.bfloat16), weight.to(torch.bfloat16)
        ctx.save_for_backward(x, filters)
        ctx.stride, ctx.padding, ctx.kind = stride, padding, weight.dtype
        matrix = filters.permute(0, 2, 3, 1).flatten(1)  # (C', kernel rows · kernel columns · C)
        return _correlate(x, matrix.t(), (weight.shape[2], weight.shape[3]), stride, padding)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, filters = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _gradient_of_map(gradient, x, filters, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(filters, dtype=ctx.kind)
            of_weight.copy_(_gradient_of_filters(gradient, x, filters, ctx.stride, ctx.padding))
        return of_x, of_weight, None, None


def _correlate(x: Tensor, matrix: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """(B, C, H, W) with filters as (kernel rows · kernel columns · C, C') → (B, C', H', W')."""
    patches = _patches(x, kernel, stride, padding)
    rows, count, channels = len(patches), len(x), matrix.shape[1]
    result = x.new_empty(rows, patches.shape[1], channels)
    row_of_taps = kernel[1] * x.shape[1]
    for first, last, top, bottom in _runs(rows, x.shape[2], kernel[0], stride[0], padding[0]):
        inside = slice(top * row_of_taps, bottom * row_of_taps)
        torch.mm(patches[first:last].flatten(0, 1)[:, inside], matrix[inside], out=result[first:last].flatten(0, 1))
    result = result.view(rows, count, -1, channels).permute(1, 3, 0, 2)
    # No view is given back: what follows may change it in place.
    return torch.empty(result.shape, dtype=x.dtype, memory_format=torch.channels_last).copy_(result)


def _gradient_of_map(gradient: Tensor, x: Tensor, filters: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Without a stride: the gradient convolved with the filters turned by 180°, inputs and outputs exchanged."""
    out_channels, in_channels, rows, columns = filters.shape
    around = (rows - 1 - padding[0], columns - 1 - padding[1])
    if stride != (1, 1) or min(around) < 0:
        return conv2d_input(x.shape, filters, gradient, stride, padding)  # type: ignore[no-any-return, no-untyped-call]
    turned = filters.new_empty(rows, columns, out_channels, in_channels)
    for row in range(rows):
        for column in range(columns):
            turned[-1 - row, -1 - column].copy_(filters[:, :, row, column])
    return _correlate(gradient, turned.flatten(0, 2), (rows, columns), (1, 1), around)


def _gradient_of_filters(gradient: Tensor, x: Tensor, filters: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """For each row of taps, the output rows for which it lies inside the map times what the taps saw there."""
    out_channels, in_channels, taps, columns = filters.shape
    patches = _patches(x, (taps, columns), stride, padding)
    rows = len(patches)
    gradient = gradient.permute(2, 0, 3, 1).reshape(rows, -1, out_channels)
    seen = list(_runs(rows, x.shape[2], taps, stride[0], padding[0]))
    result = gradient.new_zeros(taps, out_channels, columns * in_channels)
    for tap in range(taps):
        inside = [row for first, last, top, bottom in seen if top <= tap < bottom for row in range(first, last)]
        if inside:
            them = slice(inside[0], inside[-1] + 1)
            of_tap = slice(tap * columns * in_channels, (tap + 1) * columns * in_channels)
            one, other = gradient[them].flatten(0, 1), patches[them].flatten(0, 1)[:, of_tap]
            torch.mm(one.t(), other, out=result[tap])
    return result.view(taps, out_channels, columns, in_channels).permute(1, 3, 0, 2)


def _patches(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """(B, C, H, W) → what each output position sees, zeros around included: (H', B · W', kernel · C)."""
    down, across = padding
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, across, across, down, down)).contiguous()
    of_image, of_row, of_column, _ = x.stride()
    height, width = ((x.shape[1 + i] - kernel[i]) // stride[i] + 1 for i in (0, 1))
    shape = (height, len(x), width, kernel[0], kernel[1] * x.shape[3])
    steps = (stride[0] * of_row, of_image, stride[1] * of_column, of_row, 1)
    return x.as_strided(shape, steps).reshape(height, len(x) * width, -1)


def _runs(rows: int, size: int, taps: int, stride: int, padding: int) -> Iterator[tuple[int, int, int, int]]:
    """Output rows first to last that have the same rows of taps, top to bottom, inside a map of `size` rows."""
    inside = [(max(0, padding - stride * row), max(0, min(taps, size + padding - stride * row))) for row in range(rows)]
    first = 0
    for row in range(1, rows + 1):
        if row == rows or inside[row] != inside[first]:
            yield first, row, *inside[first]
            first = row
