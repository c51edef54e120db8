"""Sizes of feature maps. Pure integers; no torch.

With input size I, kernel K, padding P, stride S and dilation D (Dumoulin and Visin 2016, A guide to convolution
arithmetic, relationships 6 and 15):

    convolution, pooling     ⌊(I + 2P − D(K − 1) − 1) / S⌋ + 1
"""

from __future__ import annotations

from cnnlab.errors import ModelError


def conv_output_size(size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Output size, in pixels along one axis, of a convolution or a pooling layer.

    Args:
        size: input pixels along the axis, at least 1.
        kernel_size: taps of the kernel, at least 1.
        stride: step of the kernel in pixels, at least 1.
        padding: pixels added on each of the two sides, at least 0.
        dilation: distance of two neighbouring taps in pixels, at least 1.

    Raises:
        ModelError: an argument out of range, or a kernel larger than the padded input.
    """
    for name, value, low in (
        ("size", size, 1),
        ("kernel_size", kernel_size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ModelError(f"{name} must be a whole number of at least {low}, got {value!r}.")
    span = dilation * (kernel_size - 1) + 1
    if span > size + 2 * padding:
        raise ModelError(
            f"the kernel spans {span} pixels but the padded input has {size + 2 * padding}:"
            " use a larger picture, a smaller kernel or more padding."
        )
    return (size + 2 * padding - span) // stride + 1
