"""Sizes by arithmetic against the sizes of torch's own layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cnnlab import geometry
from cnnlab.errors import ModelError
from cnnlab.geometry import conv_output_size

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


@settings(max_examples=100, deadline=None)
@given(sizes, kernels, strides, dilations, st.data())
def test_a_pooling_layer_has_the_size_that_torch_gives_it(
    size: int, kernel: int, stride: int, dilation: int, data: st.DataObject
) -> None:
    padding = data.draw(st.integers(0, kernel // 2))
    layer = nn.MaxPool2d(kernel, stride=stride, padding=padding, dilation=dilation)
    try:
        truth = layer(torch.empty(1, 1, size, size, device="meta")).shape[-1]
    except RuntimeError:
        with pytest.raises(ModelError):
            conv_output_size(size, kernel, stride, padding, dilation)
        return
    assert conv_output_size(size, kernel, stride, padding, dilation) == truth


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
