"""Sizes by arithmetic against the sizes of torch's own layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cnnlab import geometry
from cnnlab.errors import ModelError
from cnnlab.geometry import (
    Layer,
    ReceptiveField,
    conv_arithmetic,
    conv_output_size,
    conv_transpose_arithmetic,
    conv_transpose_output_size,
    pool_arithmetic,
    pool_output_size,
    receptive_field,
    same_padding,
)

sizes = st.integers(1, 40)
kernels = st.integers(1, 9)
strides = st.integers(1, 5)
paddings = st.integers(0, 5)
dilations = st.integers(1, 4)


@settings(max_examples=300, deadline=None)
@given(sizes, kernels, strides, paddings, dilations)
def test_a_convolution_has_the_size_that_torch_gives_it(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    layer = nn.Conv2d(1, 1, kernel, stride=stride, padding=padding, dilation=dilation, device="meta")
    try:
        truth = layer(torch.empty(1, 1, size, size, device="meta")).shape[-1]
    except RuntimeError:
        with pytest.raises(ModelError):
            conv_output_size(size, kernel, stride, padding, dilation)
        return
    assert conv_output_size(size, kernel, stride, padding, dilation) == truth


def truth_of(layer: nn.Module, size: int) -> int | None:
    """The size that torch gives; None if it refuses."""
    try:
        return layer(torch.empty(1, 1, size, size, device="meta")).shape[-1]
    except RuntimeError:
        return None


def answer_of(function: Callable[..., int], *arguments: Any) -> int | None:
    try:
        return function(*arguments)
    except ModelError as error:
        assert len(str(error).splitlines()) == 1
        return None


@settings(max_examples=300, deadline=None)
@given(sizes, kernels, st.none() | strides, paddings, dilations, st.booleans())
def test_a_pooling_layer_has_the_size_that_torch_gives_it(
    size: int, kernel: int, stride: int | None, padding: int, dilation: int, ceil: bool
) -> None:
    layer = nn.MaxPool2d(kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil)
    assert answer_of(pool_output_size, size, kernel, stride, padding, dilation, ceil) == truth_of(layer, size)


@settings(max_examples=300, deadline=None)
@given(sizes, kernels, st.none() | strides, paddings, st.booleans())
def test_an_average_pooling_has_the_size_that_torch_gives_it(
    size: int, kernel: int, stride: int | None, padding: int, ceil: bool
) -> None:
    layer = nn.AvgPool2d(kernel, stride=stride, padding=padding, ceil_mode=ceil)
    assert answer_of(pool_output_size, size, kernel, stride, padding, 1, ceil) == truth_of(layer, size)


@settings(max_examples=300, deadline=None)
@given(sizes, kernels, strides, st.integers(0, 8), st.integers(0, 5), dilations)
def test_a_transposed_convolution_has_the_size_that_torch_gives_it(
    size: int, kernel: int, stride: int, padding: int, output_padding: int, dilation: int
) -> None:
    settings = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    truth = truth_of(nn.ConvTranspose2d(1, 1, kernel, device="meta", **settings), size)  # type: ignore[arg-type]
    assert answer_of(conv_transpose_output_size, size, kernel, stride, padding, output_padding, dilation) == truth


@settings(max_examples=200, deadline=None)
@given(sizes, kernels, dilations)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_padding_keeps_the_size_and_is_that_of_torch(size: int, kernel: int, dilation: int) -> None:
    left, right = same_padding(kernel, dilation)
    assert left + right == dilation * (kernel - 1)
    assert conv_output_size(size + left + right, kernel, 1, 0, dilation) == size
    layer = nn.Conv1d(1, 1, kernel, padding="same", dilation=dilation, bias=False, dtype=torch.float64)
    image = torch.rand(1, 1, size, dtype=torch.float64)
    padded = nn.functional.pad(image, (left, right))
    assert torch.allclose(layer(image), nn.functional.conv1d(padded, layer.weight, dilation=dilation))


# ---- arithmetic in writing


def value_of(arithmetic: str) -> tuple[int, int]:
    """What stands before and after the sign of equality, worked out."""
    left, right = arithmetic.split(" = ")
    for sign, word in (("⌊", "floor("), ("⌋", ")"), ("⌈", "ceil("), ("⌉", ")"), ("·", "*"), ("−", "-")):
        left = left.replace(sign, word)
    return eval(left, {"floor": math.floor, "ceil": math.ceil}), int(right)


@settings(max_examples=300, deadline=None)
@given(sizes, kernels, strides, paddings, dilations, st.booleans(), st.integers(0, 3))
def test_the_arithmetic_in_writing_comes_to_the_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool, extra: int
) -> None:
    for number, text, arguments in (
        (conv_output_size, conv_arithmetic, (size, kernel, stride, padding, dilation)),
        (pool_output_size, pool_arithmetic, (size, kernel, stride, padding, dilation, ceil)),
        (conv_transpose_output_size, conv_transpose_arithmetic, (size, kernel, stride, padding, extra, dilation)),
    ):
        output = answer_of(number, *arguments)  # type: ignore[arg-type]
        if output is None:
            with pytest.raises(ModelError):
                text(*arguments)  # type: ignore[operator]
        else:
            assert value_of(text(*arguments)) == (output, output)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (conv_arithmetic(32, 3, 2, 1), "⌊(32+2·1−3)/2⌋+1 = 16"),
        (conv_arithmetic(32, 3, 1, 1), "32+2·1−3+1 = 32"),
        (conv_arithmetic(32, 5), "32−5+1 = 28"),
        (conv_arithmetic(32, 3, 1, 2, 2), "32+2·2−2·(3−1)−1+1 = 32"),
        (pool_arithmetic(28, 2), "⌊(28−2)/2⌋+1 = 14"),
        (pool_arithmetic(112, 3, 2, ceil_mode=True), "⌈(112−3)/2⌉+1 = 56"),
        (pool_arithmetic(5, 1, 3, ceil_mode=True), "⌈(5−1)/3⌉+1−1 = 2"),
        (conv_transpose_arithmetic(16, 3, 2, 1, 1), "(16−1)·2−2·1+3+1 = 32"),
        (conv_transpose_arithmetic(16, 2, 2), "(16−1)·2+2 = 32"),
        (conv_transpose_arithmetic(4, 3, 1, 0, 0, 2), "4−1+2·(3−1)+1 = 8"),
    ],
)
def test_the_arithmetic_reads_as_in_a_lecture(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"size": 32, "kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1}, 32),
        ({"size": 32, "kernel_size": 5}, 28),  # LeNet-5, first layer
        ({"size": 227, "kernel_size": 11, "stride": 4}, 55),  # AlexNet, first layer
        ({"size": 224, "kernel_size": 7, "stride": 2, "padding": 3}, 112),  # ResNet-50, first layer
        ({"size": 7, "kernel_size": 7}, 1),
        ({"size": 5, "kernel_size": 3, "dilation": 2}, 1),
        ({"size": 1, "kernel_size": 1}, 1),
    ],
)
def test_sizes_of_the_literature(arguments: dict[str, int], size: int) -> None:
    assert conv_output_size(**arguments) == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("size", -1),
        ("size", 3.0),
        ("size", "8"),
        ("size", True),
        ("size", None),
        ("kernel_size", 0),
        ("kernel_size", 2.5),
        ("kernel_size", False),
        ("stride", 0),
        ("stride", -2),
        ("padding", -1),
        ("padding", "same"),
        ("dilation", 0),
        ("dilation", [1]),
    ],
)
def test_a_wrong_setting_is_refused_by_name_and_value(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"size": 8, "kernel_size": 3, "stride": 1, "padding": 0, "dilation": 1, name: value}
    with pytest.raises(ModelError, match=name) as caught:
        conv_output_size(**arguments)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "numbers"), [((2, 3), ("3", "2")), ((4, 3, 1, 0, 2), ("5", "4")), ((1, 9, 1, 3), ("9", "7"))]
)
def test_a_kernel_larger_than_the_padded_input_is_refused_with_both_sizes(
    arguments: tuple[int, ...], numbers: tuple[str, str]
) -> None:
    with pytest.raises(ModelError) as caught:
        geometry.conv_output_size(*arguments)
    assert all(f"{number} pixels" in str(caught.value) or f"has {number}" in str(caught.value) for number in numbers)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: pool_output_size(8, 3, padding=2), ("padding", "3", "2")),
        (lambda: pool_output_size(2, 5, 1, ceil_mode=True), ("5 pixels", "has 2")),
        (lambda: pool_output_size(8, 0), ("kernel_size", "0")),
        (lambda: pool_output_size(8, 2, stride=0), ("stride", "0")),
        (lambda: conv_transpose_output_size(8, 3, stride=2, output_padding=2), ("output_padding", "2")),
        (lambda: conv_transpose_output_size(8, 3, output_padding=-1), ("output_padding", "-1")),
        (lambda: conv_transpose_output_size(1, 3, padding=2), ("3 pixels", "4 of them")),
        (lambda: same_padding(0), ("kernel_size", "0")),
        (lambda: receptive_field([Layer(3, stride=0)]), ("stride", "0")),
        (lambda: receptive_field([Layer(3), Layer(2, dilation=-1)]), ("dilation", "-1")),
    ],
)
def test_what_makes_no_layer_is_refused_with_its_numbers(call: Callable[[], Any], named: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        call()
    assert all(word in str(caught.value) for word in named), caught.value


# ---- receptive fields

CONV, POOL = Layer(3, padding=1), Layer(2, stride=2)
VGG_16 = [CONV, CONV, POOL] * 2 + [CONV, CONV, CONV, POOL] * 3
RESNET_20 = [CONV, *[CONV] * 6, Layer(3, 2, 1), *[CONV] * 5, Layer(3, 2, 1), *[CONV] * 5]
ALEXNET = [Layer(11, 4, 2), Layer(3, 2), Layer(5, 1, 2), Layer(3, 2), CONV, CONV, CONV, Layer(3, 2)]


@pytest.mark.parametrize(
    ("layers", "size", "jump", "start"),
    [
        ([], 1, 1, 0),
        (VGG_16[:-1], 196, 16, Fraction(15, 2)),  # conv5_3
        (VGG_16, 212, 32, Fraction(31, 2)),  # pool5; Araujo et al. 2019, table 1
        (ALEXNET, 195, 32, 31),  # the same table, there without padding
        (RESNET_20, 81, 4, 0),  # 3 + 6·2, + 2 + 5·4, + 4 + 5·8
        ([Layer(7, 2, 3), Layer(3, 2, 1)], 11, 4, 0),  # the stem of ResNet-50
        ([Layer(3, padding=2, dilation=2)] * 2, 9, 1, 0),
        ([Layer(2, 2), Layer(2, 2, transposed=True)], 2, 1, Fraction(1, 2)),
    ],
)
def test_receptive_fields_of_the_literature(layers: list[Layer], size: int, jump: int, start: float) -> None:
    field = receptive_field(layers)
    assert (field.size, field.jump, field.start) == (size, jump, start)


layers = st.builds(Layer, st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3))
any_layers = st.one_of(
    layers, st.builds(Layer, st.integers(1, 4), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2), st.just(True))
)


@settings(max_examples=300, deadline=None)
@given(st.lists(layers, max_size=6))
def test_a_plain_stack_follows_the_equations_of_the_literature(stack: list[Layer]) -> None:
    size, jump, start = 1, 1, Fraction(0)
    for layer in stack:
        span = layer.dilation * (layer.kernel_size - 1)
        size, start = size + span * jump, start + (Fraction(span, 2) - layer.padding) * jump
        jump *= layer.stride
    field = receptive_field(stack)
    assert (field.size, field.jump, field.start) == (size, jump, start)
    assert len(field.windows) == 1


def as_torch(layer: Layer) -> nn.Module:
    kind = nn.ConvTranspose1d if layer.transposed else nn.Conv1d
    settings = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    torch_layer = kind(1, 1, layer.kernel_size, bias=False, dtype=torch.float64, **settings)  # type: ignore[arg-type]
    nn.init.uniform_(torch_layer.weight, 0.5, 1)
    return torch_layer


def seen_by(position: int, output: torch.Tensor, image: torch.Tensor) -> tuple[int, int] | None:
    """First and last pixel with a gradient; all weights are positive, so that nothing cancels out."""
    gradient = torch.autograd.grad(output[0, 0, position], image, retain_graph=True)[0][0, 0]
    pixels = gradient.nonzero().flatten().tolist()
    return (pixels[0], pixels[-1]) if pixels else None


@settings(max_examples=250, deadline=None)
@given(st.lists(any_layers, min_size=1, max_size=4))
def test_the_receptive_field_is_where_the_gradient_is(stack: list[Layer]) -> None:
    field = receptive_field(stack)
    kernels = sum(layer.dilation * layer.kernel_size for layer in stack)  # what they cut off the border,
    strides = math.prod(layer.stride for layer in stack if not layer.transposed)  # counted in pixels
    size = 3 * field.size + 2 * field.shift + 20 + kernels * strides
    image = torch.rand(1, 1, size, dtype=torch.float64, requires_grad=True)
    output = nn.Sequential(*map(as_torch, stack))(image)
    # Far from the border, where padding hides nothing; a whole period, so that every kind of position comes.
    middle = int((size / 2 - field.start) / field.jump)
    assert 0 < middle < output.shape[-1] - len(field.windows)
    for position in range(middle, middle + len(field.windows)):
        assert seen_by(position, output, image) == field.window(position)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "cubic"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("size", "output_size"), [(16, 32), (16, 8), (12, 20), (15, 10), (9, 9), (7, 30)])
def test_the_receptive_field_after_interpolation(mode: str, align_corners: bool, size: int, output_size: int) -> None:
    words = {"linear": "bilinear", "cubic": "bicubic"}
    settings = {"align_corners": align_corners} if mode in words else {}
    image = torch.rand(1, 1, size, 3, dtype=torch.float64, requires_grad=True)
    resized = nn.functional.interpolate(image, size=(output_size, 3), mode=words.get(mode, mode), **settings)
    field = ReceptiveField().after_resize(size, output_size, mode, align_corners and mode in words)
    for position in range(output_size):
        gradient = torch.autograd.grad(resized[0, 0, position, 1], image, retain_graph=True)[0]
        pixels = gradient.abs().sum(3).flatten().gt(1e-9).nonzero().flatten().tolist()
        window = field.window(position)
        assert window is not None
        if window[0] >= 0 and window[1] < size:  # torch repeats the border's pixels
            assert (pixels[0], pixels[-1]) == window


@pytest.mark.parametrize(("size", "output_size"), [(8, 1), (8, 4), (13, 6), (7, 7), (5, 7), (3, 9)])
def test_the_receptive_field_after_an_adaptive_pooling(size: int, output_size: int) -> None:
    image = torch.rand(1, 1, size, dtype=torch.float64, requires_grad=True)
    pooled = nn.AdaptiveAvgPool1d(output_size)(image)
    field = ReceptiveField().after_adaptive_pool(size, output_size)
    for position in range(output_size):
        assert seen_by(position, pooled, image) == field.window(position)


def test_merged_maps_see_what_either_sees() -> None:
    wide, shifted = receptive_field([Layer(5, padding=2)]), receptive_field([Layer(2)])
    assert wide.merge(shifted) == shifted.merge(wide) == wide
    even = receptive_field([Layer(2, padding=0)]).merge(receptive_field([Layer(2, padding=1)]))
    assert (even.size, even.start) == (3, 0)
    finer, coarser = receptive_field([Layer(3)]), receptive_field([Layer(2, stride=2)])
    assert finer.merge(coarser) == coarser.merge(finer) == finer  # they do not lie over each other: the larger
