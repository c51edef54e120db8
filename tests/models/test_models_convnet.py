"""Our own network for photographs: its stages, gates, blur and stochastic depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cnnlab.errors import ModelError
from cnnlab.models.base import count_parameters
from cnnlab.models.convnet import BlurPool, ConvNet, ResidualBlock, SqueezeExcitation
from cnnlab.models.registry import create_model


@pytest.mark.parametrize(
    ("size", "stages", "stride"), [(8, 2, 2), (28, 3, 4), (32, 4, 8), (64, 4, 16), (128, 4, 32), (224, 4, 32)]
)
def test_smaller_images_get_fewer_reductions(size: int, stages: int, stride: int) -> None:
    model = ConvNet(width=2, image_size=size).eval()
    assert (len(model.blocks), model.feature_info.stride) == (stages, stride)
    features = model.forward_features(torch.zeros(1, 3, size, size))
    assert features.shape == (1, model.feature_info.channels, -(-size // stride), -(-size // stride))
    assert features.shape[2] >= 4


def test_the_parameters_are_those_of_its_layers() -> None:
    model = ConvNet(width=4, depths=[1], squeeze_excitation=False, image_size=128, num_classes=10)
    stem = 3 * 4 * 9 + 2 * 4
    block = 4 * 8 * 9 + 2 * 8 + 8 * 8 * 9 + 2 * 8 + (4 * 8 + 2 * 8)
    assert count_parameters(model) == stem + block + 9 * 10
    gates = (8 + 1) * 8 + (8 + 1) * 8
    assert count_parameters(ConvNet(width=4, depths=[1], image_size=128)) == stem + block + 9 * 10 + gates


def test_widths_double_up_to_the_largest() -> None:
    assert [s[0].conv2.out_channels for s in ConvNet(width=2, depths=[1] * 5).blocks] == [4, 8, 16, 32, 32]
    assert ConvNet(width=2, max_width=6).feature_info.channels == 6


def test_a_block_of_zero_weights_is_its_shortcut() -> None:
    block = ResidualBlock(4, 4, 1, kernel_size=3, squeeze_excitation=False, blur_pool=False, drop=0.0).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1)])
def test_a_shrinking_block_averages_what_its_shortcut_sees(size: tuple[int, int]) -> None:
    block = ResidualBlock(2, 2, 2, kernel_size=3, squeeze_excitation=False, blur_pool=False, drop=0.0).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.full((1, 2, *size), 3.0)
    out = block(x)
    assert out.shape == (1, 2, -(-size[0] // 2), -(-size[1] // 2))
    torch.testing.assert_close(out, torch.full_like(out, 3.0))  # also where a window hangs over the border


def test_a_gate_scales_each_channel_between_zero_and_one() -> None:
    gate = SqueezeExcitation(16)
    x = torch.rand(2, 16, 3, 3) + 1
    share = gate(x) / x
    assert ((share > 0) & (share < 1)).all()
    torch.testing.assert_close(share, share.mean((2, 3), keepdim=True).expand_as(share))
    nn.init.zeros_(gate.expand.weight)
    nn.init.zeros_(gate.expand.bias)
    torch.testing.assert_close(gate(x), x / 2)


def test_blur_pool_keeps_a_plain_area_and_forgets_a_checkerboard() -> None:
    blur = BlurPool(2)
    inside = blur(torch.ones(1, 2, 8, 8))[:, :, 1:, 1:]
    torch.testing.assert_close(inside, torch.ones_like(inside))
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert blur(board.expand(1, 2, 8, 8))[:, :, 1:, 1:].abs().max() < 1e-6
    assert not list(blur.parameters())
    assert not blur.state_dict()


def test_stochastic_depth_skips_whole_images_in_training_alone() -> None:
    block = ResidualBlock(2, 2, 1, kernel_size=3, squeeze_excitation=False, blur_pool=False, drop=0.5)
    block.norm2.bias.data.fill_(1.0)  # what the convolutions add, on the average
    nn.init.zeros_(block.conv2.weight)
    torch.manual_seed(0)
    added = block(torch.ones(400, 2, 3, 3)) - 1
    assert set(added.unique().tolist()) == {0.0, 2.0}
    assert all(image.unique().numel() == 1 for image in added)
    assert 0.4 < (added[:, 0, 0, 0] > 0).float().mean() < 0.6
    torch.testing.assert_close(block.eval()(torch.ones(3, 2, 3, 3)), torch.full((3, 2, 3, 3), 2.0))


def test_later_blocks_are_skipped_more_often() -> None:
    model = ConvNet(width=2, depths=[1, 1, 2], stochastic_depth=0.2)
    blocks = [block.drop for stage in model.blocks for block in stage]  # type: ignore[union-attr]
    assert blocks == pytest.approx([0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"depths": []}, "depths"),
        ({"depths": [1, 0]}, r"depths\[1\]"),
        ({"depths": [1] * 7}, "depths"),
        ({"depths": "deep"}, "depths"),
        ({"stochastic_depth": 1.0}, "stochastic_depth"),
        ({"dropout": -0.1}, "dropout"),
        ({"max_width": 0}, "max_width"),
    ],
)
def test_what_makes_no_network_is_refused(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=word):
        create_model("convnet", **arguments)
