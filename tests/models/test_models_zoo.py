"""What is special about each model: known parameter counts, shortcuts, sizes, costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnnlab.errors import ModelError
from cnnlab.models.base import as_pair, count_parameters
from cnnlab.models.cost import multiply_adds
from cnnlab.models.mlp import MLP
from cnnlab.models.registry import create_model
from cnnlab.models.resnet import BasicBlock, PadShortcut, ResNet
from cnnlab.models.vgg import VGG

# ---- resnet


@pytest.mark.parametrize(("depth", "count"), [(20, 269722), (32, 464154), (44, 658586), (56, 853018), (110, 1727962)])
def test_a_resnet_has_the_parameters_of_the_paper_to_the_unit(depth: int, count: int) -> None:
    assert count_parameters(ResNet(depth=depth)) == count


@pytest.mark.parametrize("depth", [8, 20, 32])
def test_a_resnet_has_as_many_layers_as_its_name_says(depth: int) -> None:
    layers = [layer for layer in ResNet(depth=depth).modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_depth_21_is_refused_with_its_neighbours() -> None:
    with pytest.raises(ModelError) as caught:
        create_model("resnet", depth=21)
    assert "depth must be 6n+2 for a CIFAR ResNet, got 21 (nearest: 20, 26)" in str(caught.value)


@pytest.mark.parametrize(
    ("depth", "near"), [(19, "14, 20"), (25, "20, 26"), (7, "8"), (2, "8"), (0, "8"), (-4, "8"), (9, "8, 14")]
)
def test_other_depths_are_refused_with_their_neighbours(depth: int, near: str) -> None:
    with pytest.raises(ModelError, match=rf"got {depth} \(nearest: {near}\)"):
        ResNet(depth=depth)


def test_the_plain_net_has_the_parameters_of_its_residual_twin() -> None:
    for depth in (8, 20):
        plain, residual = ResNet(depth=depth, residual=False), ResNet(depth=depth)
        assert count_parameters(plain) == count_parameters(residual)
        assert plain.state_dict().keys() == residual.state_dict().keys()


def test_the_plain_net_leaves_the_additions_out() -> None:
    x = torch.rand(1, 4, 5, 5)  # not negative, so that the last ReLU changes nothing
    for residual, expected in ((True, x), (False, torch.zeros_like(x))):
        block = BasicBlock(4, 4, 1, residual=residual, shortcut="A", batch_norm=False)
        for parameter in block.parameters():
            nn.init.zeros_(parameter)
        assert torch.equal(block(x), expected)


@pytest.mark.parametrize(
    ("shortcut", "more"),
    [
        ("A", 0),
        ("B", (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)),
        ("C", 3 * (16 * 16 + 32) + (16 * 32 + 64) + 2 * (32 * 32 + 64) + (32 * 64 + 128) + 2 * (64 * 64 + 128)),
    ],
)
def test_the_shortcuts_have_the_parameters_of_their_projections(shortcut: str, more: int) -> None:
    model = ResNet(depth=20, shortcut=shortcut)
    assert count_parameters(model) == 269722 + more
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_shortcut_a_takes_every_second_pixel_and_pads_channels_with_zeros() -> None:
    x = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    out = PadShortcut(2, 5, stride=2)(x)
    assert out.shape == (1, 5, 2, 2)
    assert out[0, 1].tolist() == [[0, 2], [8, 10]]
    assert out[0, 2].tolist() == [[16, 18], [24, 26]]
    assert not out[0, [0, 3, 4]].any()


def test_an_unknown_shortcut_is_refused() -> None:
    with pytest.raises(ModelError, match="A, B or C"):
        ResNet(shortcut="D")


def test_without_batch_norm_the_convolutions_have_a_bias() -> None:
    for model in (ResNet(depth=8, batch_norm=False), VGG(width=4, batch_norm=False)):
        assert not [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert all(layer.bias is not None for layer in model.modules() if isinstance(layer, nn.Conv2d))
    with_norm = ResNet(depth=8)
    assert all(layer.bias is None for layer in with_norm.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize(("size", "places"), [((32, 32), (8, 8)), ((1, 1), (1, 1)), ((30, 45), (8, 12))])
def test_a_resnet_takes_any_size_and_halves_it_twice(size: tuple[int, int], places: tuple[int, int]) -> None:
    features = ResNet(depth=8).eval().forward_features(torch.zeros(1, 3, *size))
    assert features.shape == (1, 64, *places)


# ---- mlp and vgg


def test_an_mlp_has_the_parameters_of_its_layers() -> None:
    assert count_parameters(MLP((512, 256), image_size=8)) == 65 * 512 + 513 * 256 + 257 * 10
    assert count_parameters(MLP((), image_size=(4, 6), in_channels=3, num_classes=7)) == (3 * 4 * 6 + 1) * 7


def test_a_vgg_net_has_the_parameters_of_its_layers() -> None:
    model = VGG(width=8, blocks=2, convs_per_block=1, in_channels=1, num_classes=10)
    convolutions = 1 * 8 * 9 + 8 * 16 * 9
    norms = 2 * 8 + 2 * 16
    assert count_parameters(model) == convolutions + norms + 17 * 10


@pytest.mark.parametrize(("size", "blocks", "stride"), [(8, 2, 2), (28, 3, 4), (32, 3, 4), (64, 4, 8), (128, 4, 16)])
def test_a_vgg_net_grows_blocks_until_its_map_is_small(size: int, blocks: int, stride: int) -> None:
    model = VGG(width=2, image_size=size).eval()
    pools = sum(isinstance(layer, nn.MaxPool2d) for layer in model.modules())
    assert (pools + 1, model.feature_info.stride) == (blocks, stride)
    assert model.forward_features(torch.zeros(1, 3, size, size)).shape[2] == size // stride <= 8


def test_a_vgg_net_counts_the_shorter_side() -> None:
    model = VGG(width=2, image_size=(8, 100))
    assert model.feature_info.stride == 2


def test_channels_stop_doubling_at_eight_times_the_width() -> None:
    assert VGG(width=2, blocks=6, image_size=64).feature_info.channels == 16


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"image_size": 1}, "too small"),
        ({"image_size": 8, "blocks": 5}, "too small"),
        ({"image_size": (64, 2), "blocks": 3}, "too small"),
        ({"width": 0}, "width"),
        ({"convs_per_block": 0}, "convs_per_block"),
        ({"dropout": 1.0}, "dropout"),
        ({"blocks": 0}, "blocks"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_a_vgg_net_refuses_what_makes_no_network(arguments: dict[str, int], word: str) -> None:
    with pytest.raises(ModelError, match=word):
        create_model("vgg", **arguments)


@pytest.mark.parametrize("arguments", [{"hidden": [0]}, {"hidden": [-3]}, {"dropout": -0.1}, {"dropout": 1}])
def test_an_mlp_refuses_what_makes_no_network(arguments: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=next(iter(arguments))):
        create_model("mlp", **arguments)


@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_dropout_draws_in_training_only(name: str) -> None:
    model = create_model(name, dropout=0.5, image_size=8, in_channels=1)
    nn.init.normal_(model.head.weight)  # type: ignore[union-attr, arg-type]
    x = torch.ones(4, 1, 8, 8)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


# ---- sizes and costs


def test_one_number_or_two_are_a_pair() -> None:
    assert as_pair(3) == as_pair((3, 3)) == as_pair([3, 3]) == (3, 3)
    assert as_pair((3, 4)) == (3, 4)


def test_multiply_adds_of_a_resnet_20_are_those_of_the_paper() -> None:
    stage1 = 6 * 16 * 16 * 9 * 32 * 32
    stage2 = (16 * 32 + 5 * 32 * 32) * 9 * 16 * 16
    stage3 = (32 * 64 + 5 * 64 * 64) * 9 * 8 * 8
    expected = 3 * 16 * 9 * 32 * 32 + stage1 + stage2 + stage3 + 64 * 10
    assert expected == 40_551_040
    assert multiply_adds(ResNet(depth=20), (3, 32, 32)) == expected


def test_multiply_adds_of_a_grouped_and_of_a_transposed_convolution() -> None:
    grouped = nn.Conv2d(8, 16, 3, groups=4, padding=1)
    assert multiply_adds(grouped, (8, 10, 10)) == 16 * (8 // 4) * 9 * 100
    transposed = nn.ConvTranspose2d(4, 6, 2, stride=2)
    assert multiply_adds(transposed, (4, 5, 5)) == 4 * 25 * 6 * 4


def test_counting_costs_leaves_the_model_as_it_was() -> None:
    model = ResNet(depth=8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    multiply_adds(model, (3, 32, 32))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())
