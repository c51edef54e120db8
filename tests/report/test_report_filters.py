"""The weights of the first layer on the page: which there are, how they are drawn, and when there are none."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnnlab.models.first_layer import first_layer_weights
from cnnlab.models.registry import create_model
from cnnlab.report.images import EmbeddedImage, weight_grid
from cnnlab.report.sections import MAX_FILTERS, filters_view


def pixels(image: EmbeddedImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.uri.split(",")[1]))))


def test_an_mlp_shows_an_image_of_the_input_for_each_unit() -> None:
    model: Any = create_model("mlp", hidden=[5], image_size=[2, 3], in_channels=3)
    weights = first_layer_weights(model, (3, 2, 3))
    assert weights is not None
    assert weights.shape == (5, 3, 2, 3)
    image = torch.rand(1, 3, 2, 3)
    expected = model.hidden[1](image.flatten(1)) - model.hidden[1].bias
    torch.testing.assert_close((weights * image).sum((1, 2, 3))[None], expected)


def test_a_convolutional_net_shows_its_first_kernels() -> None:
    model: Any = create_model("resnet", depth=8, width=4)
    assert torch.equal(first_layer_weights(model, (3, 32, 32)), model.stem[0].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "model",
    [nn.Flatten(), nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 2)), nn.Conv2d(2, 4, 3, groups=2)],
    ids=["no weights", "behind a pooling", "grouped"],
)
def test_without_a_layer_that_sees_the_image_there_is_nothing_to_show(model: nn.Module) -> None:
    assert first_layer_weights(model, (1, 4, 4)) is None


def test_zero_is_grey_and_each_unit_has_a_scale_of_its_own() -> None:
    weights = np.zeros((2, 1, 1, 3))
    weights[0, 0, 0] = [-2, 0, 2]
    weights[1, 0, 0] = [0, 0.001, 0]
    sheet = pixels(weight_grid(weights))
    assert sheet.shape == (3, 3)  # two rows of one tile, a white line between them
    assert sheet[0].tolist() == [0, 128, 255]
    assert sheet[1].tolist() == [255, 255, 255]
    assert sheet[2].tolist() == [128, 255, 128]


def test_three_channels_are_drawn_in_colour() -> None:
    weights = np.zeros((1, 3, 1, 1))
    weights[0, 0] = 1
    assert pixels(weight_grid(weights)).tolist() == [[[255, 128, 128]]]


def test_a_unit_that_is_all_zero_is_grey() -> None:
    assert pixels(weight_grid(np.zeros((1, 1, 2, 2)))).tolist() == [[128, 128], [128, 128]]


def test_of_many_units_the_strongest_are_shown() -> None:
    weights = np.ones((200, 1, 2, 2)) * np.arange(200)[:, None, None, None]
    view = filters_view(weights)
    assert view is not None
    assert (view["shown"], view["units"], view["size"]) == (MAX_FILTERS, 200, "2×2")


@pytest.mark.parametrize("weights", [None, np.zeros((2, 5, 3, 3)), np.full((2, 1, 3, 3), np.nan)])
def test_what_cannot_be_drawn_is_left_out(weights: np.ndarray | None) -> None:
    assert filters_view(weights) is None


def test_units_as_large_as_photographs_stay_a_small_image() -> None:
    image = weight_grid(np.random.default_rng(0).normal(size=(64, 3, 224, 224)))
    assert max(image.width, image.height) <= 560
    assert len(image.uri) < 2_000_000
