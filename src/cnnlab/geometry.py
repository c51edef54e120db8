"""Sizes of feature maps and what their positions see of the image. Pure integers, one axis at a time; no torch.

With input size I, kernel K, padding P on each side, stride S and dilation D (Dumoulin and Visin 2016, A guide to
convolution arithmetic, relationships 6, 14 and 15; Araujo et al. 2019, Computing receptive fields, equations 1 to 3):

    convolution, pooling     ⌊(I + 2P − D(K − 1) − 1) / S⌋ + 1
    pooling, ceil mode       ⌈(I + 2P − D(K − 1) − 1) / S⌉ + 1, less 1 if the last window begins after the input
    transposed convolution   (I − 1)S − 2P + D(K − 1) + 1 + output padding
    receptive field          r ← r + D(K − 1)j
    jump                     j ← jS
    centre of position 0     c ← c + (D(K − 1)/2 − P)j

Before the first layer r = 1, j = 1, c = 0: pixel i has its centre at i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

from cnnlab.errors import ModelError

# ---- sizes


def conv_output_size(size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Output size, in pixels along one axis, of a convolution or a pooling layer: ⌊(I + 2P − D(K−1) − 1)/S⌋ + 1.

    Args:
        size: input pixels along the axis, at least 1.
        kernel_size: taps of the kernel, at least 1.
        stride: step of the kernel in pixels, at least 1.
        padding: pixels added on each of the two sides, at least 0.
        dilation: distance of two neighbouring taps in pixels, at least 1.

    Raises:
        ModelError: an argument out of range, or a kernel larger than the padded input.
    """
    _check(size=(size, 1), kernel_size=(kernel_size, 1), stride=(stride, 1), padding=(padding, 0))
    _check(dilation=(dilation, 1))
    span = dilation * (kernel_size - 1) + 1
    if span > size + 2 * padding:
        raise _too_large(span, size + 2 * padding)
    return (size + 2 * padding - span) // stride + 1


def pool_output_size(
    size: int, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Output size along one axis of a max or average pooling; arguments as for `conv_output_size`.

    Args:
        stride: None is the size of the kernel, as in torch.
        padding: at most half the kernel, so that no window lies wholly in the padding of one side.
        ceil_mode: also take a last window that hangs over the right edge, if it begins in the input or in the left
            padding: ⌈(I + 2P − D(K−1) − 1)/S⌉ + 1, less 1 where that window would begin in the right padding.

    Raises:
        ModelError: an argument out of range, or a kernel larger than the padded input.
    """
    stride = kernel_size if stride is None else stride
    _check(size=(size, 1), kernel_size=(kernel_size, 1), stride=(stride, 1), padding=(padding, 0))
    _check(dilation=(dilation, 1))
    if padding > kernel_size // 2:
        raise ModelError(f"padding of a pooling layer must be at most half its kernel of {kernel_size}, got {padding}.")
    if not ceil_mode:
        return conv_output_size(size, kernel_size, stride, padding, dilation)
    span = dilation * (kernel_size - 1) + 1
    output = -((span - size - 2 * padding) // stride) + 1
    if (output - 1) * stride >= size + padding:
        output -= 1
    if output < 1:
        raise _too_large(span, size + 2 * padding)
    return output


def conv_transpose_output_size(
    size: int, kernel_size: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> int:
    """Output size along one axis of a transposed convolution: (I − 1)S − 2P + D(K−1) + 1 + output padding.

    Args:
        padding: pixels cut off each of the two sides of the output, at least 0.
        output_padding: pixels added on the right; the choice among the S input sizes that one output size comes from,
            so smaller than the stride (or, as torch has it, than the dilation).

    Raises:
        ModelError: an argument out of range, or padding that leaves nothing.
    """
    _check(size=(size, 1), kernel_size=(kernel_size, 1), stride=(stride, 1), padding=(padding, 0))
    _check(output_padding=(output_padding, 0), dilation=(dilation, 1))
    if output_padding >= max(stride, dilation):
        raise ModelError(
            f"output_padding must be smaller than stride {stride} or dilation {dilation}, got {output_padding}."
        )
    full = (size - 1) * stride + dilation * (kernel_size - 1) + 1 + output_padding
    if full <= 2 * padding:
        raise ModelError(
            f"the transposed convolution makes {full} pixels and padding {padding} cuts off {2 * padding} of them:"
            " use a larger image, a larger kernel or less padding."
        )
    return full - 2 * padding


def same_padding(kernel_size: int, dilation: int = 1) -> tuple[int, int]:
    """(left, right) padding with which a convolution of stride 1 keeps the size: D(K−1) in total.

    Where the total is odd, torch puts the odd pixel on the right.
    """
    _check(kernel_size=(kernel_size, 1), dilation=(dilation, 1))
    total = dilation * (kernel_size - 1)
    return total // 2, total - total // 2


def _check(**values: tuple[int, int]) -> None:
    """Raise ModelError unless each value is a whole number and at least as large as the second of its pair."""
    for name, (value, low) in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ModelError(f"{name} must be a whole number of at least {low}, got {value!r}.")


def _too_large(span: int, room: int) -> ModelError:
    return ModelError(
        f"the kernel spans {span} pixels but the padded input has {room}:"
        " use a larger image, a smaller kernel or more padding."
    )


# ---- the same as text: what is 0, or a factor of 1, is left out


def conv_arithmetic(size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> str:
    """`conv_output_size` written out: "⌊(32+2·1−3)/2⌋+1 = 16", "32+2·2−2·(3−1)−1+1 = 32"."""
    output = conv_output_size(size, kernel_size, stride, padding, dilation)
    return f"{_steps(size, kernel_size, stride, padding, dilation, '⌊⌋')}+1 = {output}"


def pool_arithmetic(
    size: int, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> str:
    """`pool_output_size` written out: "⌈(112−3)/2⌉+1 = 56"; "+1−1" where ceil mode gives the last window up."""
    output = pool_output_size(size, kernel_size, stride, padding, dilation, ceil_mode)
    stride = kernel_size if stride is None else stride
    if not ceil_mode:
        return conv_arithmetic(size, kernel_size, stride, padding, dilation)
    windows = -((dilation * (kernel_size - 1) + 1 - size - 2 * padding) // stride) + 1
    dropped = "−1" if output < windows else ""
    return f"{_steps(size, kernel_size, stride, padding, dilation, '⌈⌉')}+1{dropped} = {output}"


def conv_transpose_arithmetic(
    size: int, kernel_size: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> str:
    """`conv_transpose_output_size` written out: "(16−1)·2−2·1+3+1 = 32"."""
    output = conv_transpose_output_size(size, kernel_size, stride, padding, output_padding, dilation)
    grown = f"({size}−1)·{stride}" if stride > 1 else f"{size}−1"
    span = f"+{kernel_size}" if dilation == 1 else f"+{dilation}·({kernel_size}−1)+1"
    return f"{grown}{_twice('−', padding)}{span}{f'+{output_padding}' if output_padding else ''} = {output}"


def _steps(size: int, kernel_size: int, stride: int, padding: int, dilation: int, brackets: str) -> str:
    span = f"−{kernel_size}" if dilation == 1 else f"−{dilation}·({kernel_size}−1)−1"
    room = f"{size}{_twice('+', padding)}{span}"
    return room if stride == 1 else f"{brackets[0]}({room})/{stride}{brackets[1]}"


def _twice(sign: str, padding: int) -> str:
    return f"{sign}2·{padding}" if padding else ""


# ---- receptive fields


@dataclass(frozen=True)
class ReceptiveField:
    """What the positions of a feature map see of the image along one axis, to the pixel.

    After a transposed convolution or an upsampling, neighbouring positions no longer see equally many pixels, but the
    pattern repeats. So the windows of one period are kept: position q sees `windows[q mod n]`, moved by
    (q div n)·`shift` pixels. A plain stack of convolutions and pools has a period of one, and the equations of the
    module's docstring hold. Pixels are counted as if the image were infinite: padding is seen, too.

    Attributes:
        windows: (first, last) pixel that each position of one period sees; None where a position sees nothing.
        shift: pixels from one period to the next.
    """

    windows: tuple[tuple[int, int] | None, ...] = ((0, 0),)
    shift: int = 1

    @property
    def size(self) -> int:
        """Pixels that a position sees; where positions differ, the largest number."""
        return max((window[1] - window[0] + 1 for window in self.windows if window), default=0)

    @property
    def jump(self) -> Fraction:
        """Pixels between two neighbouring positions, on average: 1/2 on a map twice as large as the image."""
        return Fraction(self.shift, len(self.windows))

    @property
    def start(self) -> Fraction:
        """Centre, in pixels, of what the first position sees; halves for even sizes, and below 0 in the padding."""
        window = next((window for window in self.windows if window), (0, 0))
        return Fraction(window[0] + window[1], 2)

    def window(self, position: int) -> tuple[int, int] | None:
        """(first, last) pixel that `position` sees; None for one that sees nothing."""
        period, phase = divmod(position, len(self.windows))
        window = self.windows[phase]
        return window and (window[0] + period * self.shift, window[1] + period * self.shift)

    def through(self, reads: Callable[[int], Iterable[int]], outputs: int = 1, inputs: int = 1) -> ReceptiveField:
        """The field after a layer whose output q reads the positions `reads(q)`.

        Args:
            outputs, inputs: the layer's own period: reads(q + outputs) = reads(q) + inputs.
        """
        periods = len(self.windows) // gcd(len(self.windows), inputs)
        seen = tuple(_hull(self.window(p) for p in reads(q)) for q in range(periods * outputs))
        return ReceptiveField(seen, self.shift * periods * inputs // len(self.windows))._shortest()

    def after_conv(
        self, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1, transposed: bool = False
    ) -> ReceptiveField:
        """The field after a convolution or pooling, or after a transposed convolution."""
        if not transposed:
            first, span = -padding, dilation * (kernel_size - 1) + 1
            return self.through(lambda q: range(q * stride + first, q * stride + first + span, dilation), 1, stride)

        def reads(q: int) -> list[int]:  # input p writes to the outputs p·S − P + t·D
            reached = (q + padding - dilation * tap for tap in range(kernel_size))
            return [pixel // stride for pixel in reached if pixel % stride == 0]

        return self.through(reads, stride, 1)

    def after_slice(self, start: int, step: int = 1) -> ReceptiveField:
        """The field of the positions start, start + step, …; a negative start is padding on the left."""
        return self.through(lambda q: (start + q * step,), 1, step)

    def after_adaptive_pool(self, size: int, output_size: int) -> ReceptiveField:
        """Output q averages the positions ⌊q·I/O⌋ to ⌈(q+1)·I/O⌉ − 1, as torch does."""
        common = gcd(size, output_size)
        return self.through(
            lambda q: range(q * size // output_size, -(-(q + 1) * size // output_size)),
            output_size // common,
            size // common,
        )

    def after_resize(self, size: int, output_size: int, mode: str, align_corners: bool = False) -> ReceptiveField:
        """The field after interpolation, `mode` being nearest, nearest-exact, linear or cubic.

        Output q lies at (q + ½)·I/O − ½ of the input, or at q·(I − 1)/(O − 1) with `align_corners`, between two or,
        cubic, four positions. The nearest is ⌊q·I/O⌋, and exactly so ⌊(q + ½)·I/O⌋.
        """
        aligned = align_corners and size > 1 and output_size > 1
        inputs, outputs = (size - 1, output_size - 1) if aligned else (size, output_size)
        common = gcd(inputs, outputs)

        def reads(q: int) -> range:
            if mode.startswith("nearest"):
                half = int(mode == "nearest-exact")
                nearest = (2 * q + half) * size // (2 * output_size)
                return range(nearest, nearest + 1)
            place = Fraction(q * inputs, outputs)
            if not align_corners:
                place += Fraction(inputs - outputs, 2 * outputs)
            below = place.numerator // place.denominator
            if place.denominator == 1:  # the weights of the others are 0
                return range(below, below + 1)
            neighbours = 4 if mode == "cubic" else 2
            return range(below + 1 - neighbours // 2, below + 1 + neighbours // 2)

        return self.through(reads, outputs // common, inputs // common)

    def merge(self, other: ReceptiveField) -> ReceptiveField:
        """What positions see that add or concatenate two maps: all that either sees.

        Maps that advance by different jumps do not lie over each other; then the larger field is the answer.
        """
        if self.jump != other.jump:
            return max(self, other, key=lambda field: (field.size, field.jump))
        period = lcm(len(self.windows), len(other.windows))
        both = tuple(_hull((self.window(q), other.window(q))) for q in range(period))
        return ReceptiveField(both, int(self.jump * period))._shortest()

    def _shortest(self) -> ReceptiveField:
        """The same field with the shortest period that says it."""
        n = len(self.windows)
        for period in range(1, n):
            if n % period == 0 and self.shift * period % n == 0:
                short = ReceptiveField(self.windows[:period], self.shift * period // n)
                if all(short.window(q) == window for q, window in enumerate(self.windows)):
                    return short
        return self


def _hull(windows: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    seen = [window for window in windows if window]
    return (min(first for first, _ in seen), max(last for _, last in seen)) if seen else None


@dataclass(frozen=True)
class Layer:
    """Kernel of a convolution or pooling along one axis; `transposed` for a transposed convolution."""

    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    transposed: bool = False


def receptive_field(layers: Iterable[Layer]) -> ReceptiveField:
    """What the positions see after a stack of layers, the first one first.

    Example:
        >>> field = receptive_field([Layer(7, stride=2, padding=3), Layer(3, stride=2, padding=1)])
        >>> field.size, field.jump, field.start
        (11, Fraction(4, 1), Fraction(0, 1))

    Raises:
        ModelError: an argument out of range.
    """
    field = ReceptiveField()
    for layer in layers:
        _check(kernel_size=(layer.kernel_size, 1), stride=(layer.stride, 1), padding=(layer.padding, 0))
        _check(dilation=(layer.dilation, 1))
        field = field.after_conv(layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.transposed)
    return field
