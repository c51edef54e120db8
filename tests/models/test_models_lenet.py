"""LeNet-5: the table of the paper, borders, options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cnnlab.errors import ModelError
from cnnlab.models.base import count_parameters
from cnnlab.models.lenet import LeNet
from cnnlab.models.registry import create_model


def test_the_maps_and_parameters_are_those_of_the_paper() -> None:
    model = LeNet(image_size=32).eval()
    x = torch.zeros(1, 1, 32, 32)
    sides = {}
    for name, layer in model.features.named_children():
        x = layer(x)
        sides[name] = tuple(x.shape[1:])
    assert (sides["conv1"], sides["pool2"]) == ((6, 28, 28), (6, 14, 14))
    assert (sides["conv3"], sides["pool4"]) == ((16, 10, 10), (16, 5, 5))
    counts = [count_parameters(layer) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert counts == [156, 2416, 48120, 10164, 850]
    assert count_parameters(model) == 61706


def test_28_pixels_make_the_same_net_as_32() -> None:
    assert count_parameters(LeNet(image_size=28)) == 61706
    assert LeNet(image_size=28).forward_features(torch.zeros(1, 1, 28, 28)).shape == (1, 16, 5, 5)


@pytest.mark.parametrize(
    ("size", "places"),
    [
        ((4, 4), (1, 1)),
        ((8, 8), (2, 2)),
        ((27, 27), (6, 6)),
        ((31, 31), (5, 5)),
        ((96, 64), (21, 13)),
        ((28, 40), (5, 8)),
    ],
)
def test_other_sizes_make_a_map_that_the_hidden_layers_fit(size: tuple[int, int], places: tuple[int, int]) -> None:
    model = LeNet(image_size=size, in_channels=3)
    assert model.forward_features(torch.zeros(1, 3, *size)).shape == (1, 16, *places)
    assert model.hidden[0].in_features == 16 * places[0] * places[1]
    assert model(torch.zeros(2, 3, *size)).shape == (2, 10)


def test_activation_and_pooling_are_those_of_the_paper_unless_chosen() -> None:
    paper, modern = LeNet(), LeNet(activation="relu", pooling="max")
    for model, activation, pool in ((paper, nn.Tanh, nn.AvgPool2d), (modern, nn.ReLU, nn.MaxPool2d)):
        assert sum(isinstance(layer, activation) for layer in model.modules()) == 4
        assert sum(isinstance(layer, pool) for layer in model.modules()) == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"image_size": 3}, "image_size must be at least 4 pixels for two poolings, got 3"),
        ({"pooling": "min"}, "pooling must be average or max, got 'min'"),
        ({"activation": "tahn"}, "'tahn'.*'tanh'"),
        ({"in_channels": 0}, "in_channels"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_what_makes_no_network_is_refused(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=word):
        create_model("lenet", **arguments)
