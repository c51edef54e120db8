"""U-Net: the paper's parameters, sizes, and that it learns a mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnlab.errors import ModelError
from cnnlab.models.base import count_parameters
from cnnlab.models.registry import create_model
from cnnlab.models.unet import UNet


def test_a_unet_has_the_parameters_of_the_paper_to_the_unit() -> None:
    """23 convolutions (section 2): 18 of 3×3, 4 transposed of 2×2, one of 1×1."""
    with torch.device("meta"):
        model = UNet(depth=4, width=64, batch_norm=False, in_channels=1, num_classes=2)
    assert count_parameters(model) == 31_030_658
    assert sum(isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in model.modules()) == 23


@pytest.mark.parametrize("upsample", ["deconv", "bilinear"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (16, 16), (17, 31), (33, 20)])
def test_every_pixel_of_an_image_of_any_size_gets_its_logits(size: tuple[int, int], upsample: str) -> None:
    model = UNet(depth=3, width=2, upsample=upsample, num_classes=5).eval()
    images = torch.zeros(2, 3, *size)
    assert model(images).shape == (2, 5, *size)
    assert model.forward_features(images).shape == (2, 2, *size)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_filters_double_with_each_halving(depth: int) -> None:
    model = UNet(depth=depth, width=2)
    assert model.bottom[0].out_channels == 2 * 2**depth
    assert len(model.encoder) == len(model.decoder) == depth
    assert model.stages[0] == "encoder.0"
    assert model.stages[-1] == model.feature_info.module == f"decoder.{depth - 1}"


def test_a_pixel_that_changes_moves_its_own_logits_most() -> None:
    """Positions go through the net unmoved: the skip connection of full size sees to it."""
    torch.manual_seed(0)
    model = UNet(depth=2, width=8).eval()
    images = torch.zeros(1, 3, 21, 19)
    changed = images.clone()
    changed[0, :, 13, 6] = 1
    with torch.no_grad():
        difference = (model(changed) - model(images)).abs().sum(dim=1)[0]
    row, column = divmod(int(difference.argmax()), 19)
    assert abs(row - 13) <= 2
    assert abs(column - 6) <= 2


@pytest.mark.parametrize("upsample", ["deconv", "bilinear"])
def test_it_learns_to_tell_bright_pixels_from_dark_ones(upsample: str) -> None:
    torch.manual_seed(0)
    model = UNet(depth=2, width=4, upsample=upsample, in_channels=1)
    images = torch.randn(8, 1, 13, 11)
    masks = (images[:, 0] > 0).long()  # (B, H, W)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), masks)
        loss.backward()
        optimizer.step()
    assert (model(images).argmax(1) == masks).float().mean() > 0.95


def test_without_batch_norm_the_convolutions_have_a_bias() -> None:
    for batch_norm in (True, False):
        model = UNet(depth=1, width=2, batch_norm=batch_norm)
        assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()) == batch_norm
        assert (model.bottom[0].bias is None) == batch_norm


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"depth": 0}, "depth"),
        ({"depth": 9}, "depth must be at most 8, got 9"),
        ({"width": 0}, "width"),
        ({"upsample": "nearest"}, "upsample must be deconv or bilinear, got 'nearest'"),
        ({"num_classes": 0}, "num_classes"),
        ({"in_channels": 0}, "in_channels"),
    ],
)
def test_what_makes_no_network_is_refused(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=word):
        create_model("unet", **arguments)
