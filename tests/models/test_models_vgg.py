"""VGG: the general net, and the four of the paper against torchvision's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models as tv

from cnnlab.errors import ModelError
from cnnlab.models.activations import ACTIVATIONS, new_activation
from cnnlab.models.base import GlobalAveragePool, count_parameters
from cnnlab.models.registry import create_model
from cnnlab.models.vgg import VGG

PAPER = {
    ("vgg11", False): 132_863_336,
    ("vgg13", False): 133_047_848,
    ("vgg16", False): 138_357_544,
    ("vgg19", False): 143_667_240,
    ("vgg11", True): 132_868_840,
    ("vgg13", True): 133_053_736,
    ("vgg16", True): 138_365_992,
    ("vgg19", True): 143_678_248,
}


def layers(model: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, kind)]


# ---- the general net


@pytest.mark.parametrize(
    ("arguments", "count", "first_logit"),
    [
        ({}, 288_746, 0.0881017),
        ({"width": 16, "image_size": 28, "in_channels": 1}, 72_666, 0.0398027),
        ({"width": 8, "image_size": (8, 8)}, 4_514, -0.0118939),
        ({"width": 8, "blocks": 6, "image_size": 64}, 222_466, 0.0114093),
        ({"width": 4, "convs_per_block": 3, "batch_norm": False, "image_size": (128, 200)}, None, None),
    ],
)
def test_layers_and_first_weights_are_those_it_has_always_had(
    arguments: dict[str, Any], count: int | None, first_logit: float | None
) -> None:
    torch.manual_seed(0)
    model = VGG(**arguments)
    torch.rand(1)
    images = torch.randn(3, arguments.get("in_channels", 3), 96, 96)
    torch.manual_seed(1)
    logits = model(images)
    if count is not None:
        assert count_parameters(model) == count
        torch.testing.assert_close(logits[0, 0].item(), first_logit, rtol=1e-3, atol=1e-6)
    kinds = [type(layer).__name__ for block in model.features for layer in block]
    order = ["Conv2d", "BatchNorm2d", "ReLU"] if arguments.get("batch_norm", True) else ["Conv2d", "ReLU"]
    convs = arguments.get("convs_per_block", 2)
    assert kinds[: convs * len(order) + 1] == order * convs + ["MaxPool2d"]
    assert kinds[-len(order) :] == order


def test_a_vgg_has_the_parameters_of_its_layers() -> None:
    model = VGG(width=8, blocks=2, convs_per_block=1, in_channels=1, num_classes=10)
    assert count_parameters(model) == (1 * 8 * 9 + 8 * 16 * 9) + (2 * 8 + 2 * 16) + 17 * 10


@pytest.mark.parametrize(("size", "blocks", "stride"), [(8, 2, 2), (28, 3, 4), (32, 3, 4), (64, 4, 8), (128, 4, 16)])
def test_it_grows_blocks_until_its_map_is_small(size: int, blocks: int, stride: int) -> None:
    model = VGG(width=2, image_size=size).eval()
    assert (len(model.features), model.feature_info.stride) == (blocks, stride)
    assert model.forward_features(torch.zeros(1, 3, size, size)).shape[2] == size // stride <= 8


def test_it_counts_the_shorter_side() -> None:
    assert VGG(width=2, image_size=(8, 100)).feature_info.stride == 2


@pytest.mark.parametrize(("max_width", "channels"), [(None, [2, 4, 8, 16, 16, 16]), (4, [2, 4, 4, 4, 4, 4])])
def test_channels_double_up_to_the_largest_width(max_width: int | None, channels: list[int]) -> None:
    model = VGG(width=2, blocks=6, convs_per_block=1, max_width=max_width, image_size=64)
    assert [conv.out_channels for conv in layers(model, nn.Conv2d)] == channels


def test_a_list_gives_each_block_its_convolutions() -> None:
    model = VGG(width=2, convs_per_block=[1, 3, 2], image_size=32)
    assert [len(layers(block, nn.Conv2d)) for block in model.features] == [1, 3, 2]
    assert model.stages == ("features.0", "features.1", "features.2")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_can_be_chosen(name: str) -> None:
    model = VGG(width=2, activation=name, image_size=8)
    assert len(layers(model, type(new_activation(name)))) == 4
    x = torch.randn(4, 3, 8, 8)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("downsample", "pools", "strides", "map_size"),
    [("max", 2, [1] * 6, 8), ("average", 2, [1] * 6, 8), ("conv", 0, [1, 1, 2, 1, 2, 1], 9)],
)
def test_what_halves_the_map_can_be_chosen(downsample: str, pools: int, strides: list[int], map_size: int) -> None:
    model = VGG(width=2, downsample=downsample, image_size=33, blocks=3).eval()
    kind = nn.MaxPool2d if downsample == "max" else nn.AvgPool2d
    assert len(layers(model, kind)) == pools
    assert [conv.stride[0] for conv in layers(model, nn.Conv2d)] == strides
    assert model.forward_features(torch.zeros(1, 3, 33, 33)).shape == (1, 8, map_size, map_size)
    assert count_parameters(model) == count_parameters(VGG(width=2, image_size=33, blocks=3))


def test_an_average_pool_averages() -> None:
    model = VGG(width=1, blocks=2, downsample="average", image_size=8)
    pool = layers(model, nn.AvgPool2d)[0]
    assert pool(torch.arange(16.0).view(1, 1, 4, 4)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize("downsample", ["max", "average", "conv"])
def test_a_linear_head_has_hidden_layers_on_a_flat_map(downsample: str) -> None:
    model = VGG(width=2, blocks=3, head_kind="linear", hidden=[12, 5], downsample=downsample, image_size=(32, 48))
    height, width = (4, 6) if downsample != "conv" else (7, 7)  # 8×12 without the last pooling, 7×7 at most
    assert [layer.in_features for layer in layers(model, nn.Linear)] == [8 * height * width, 12, 5]
    assert model.stages[-1] == "hidden"
    assert model.eval()(torch.zeros(2, 3, 50, 40)).shape == (2, 10)


def test_a_linear_head_without_hidden_layers_is_the_last_layer_alone() -> None:
    model = VGG(width=2, blocks=2, head_kind="linear", hidden=[], image_size=8)
    assert model.head.in_features == 4 * 2 * 2
    assert "hidden" not in model.stages


def test_a_global_average_is_the_default_head() -> None:
    assert isinstance(VGG(width=2).pool, GlobalAveragePool)


@pytest.mark.parametrize("head_kind", ["average", "linear"])
def test_dropout_draws_in_training_only(head_kind: str) -> None:
    model = VGG(width=4, dropout=0.5, image_size=8, head_kind=head_kind, hidden=[64])
    nn.init.normal_(model.head.weight)
    x = torch.ones(4, 3, 8, 8)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_a_bias_goes_with_missing_normalisation_unless_said_otherwise() -> None:
    for batch_norm, bias, expected in ((True, None, False), (False, None, True), (True, True, True)):
        model = VGG(width=2, batch_norm=batch_norm, bias=bias)
        assert all((conv.bias is not None) == expected for conv in layers(model, nn.Conv2d))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"image_size": 1}, "too small"),
        ({"image_size": 8, "blocks": 5}, "too small"),
        ({"image_size": (64, 2), "blocks": 3}, "too small"),
        ({"image_size": 4, "blocks": 3, "head_kind": "linear"}, "at least 8 pixels"),
        ({"width": 0}, "width"),
        ({"convs_per_block": 0}, "convs_per_block"),
        ({"convs_per_block": []}, "convs_per_block"),
        ({"convs_per_block": [1, 0]}, "convs_per_block"),
        ({"convs_per_block": [1, 2], "blocks": 3}, "convs_per_block"),
        ({"convs_per_block": [1] * 17, "image_size": 2**17}, "blocks"),
        ({"max_width": 8}, "max_width"),
        ({"activation": "rleu"}, "'rleu'.*Did you mean 'relu'"),
        ({"downsample": "min"}, "downsample"),
        ({"head_kind": "none"}, "head_kind"),
        ({"hidden": [0]}, "hidden"),
        ({"bias": "yes"}, "bias"),
        ({"dropout": 1.0}, "dropout"),
        ({"blocks": 0}, "blocks"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_what_makes_no_network_is_refused(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=word):
        create_model("vgg", **arguments)


# ---- the nets of the paper


@pytest.mark.parametrize(("name", "batch_norm"), PAPER)
def test_each_net_of_the_paper_has_its_parameters_and_the_names_of_torchvision(name: str, batch_norm: bool) -> None:
    with torch.device("meta"):
        ours: Any = create_model(name, batch_norm=batch_norm)
        theirs = tv.get_model(f"{name}_bn" if batch_norm else name, weights=None)
    assert count_parameters(ours) == count_parameters(theirs) == PAPER[name, batch_norm]
    renamed = {ours.rename_foreign(key): value.shape for key, value in theirs.state_dict().items()}
    assert list(renamed.items()) == [(key, value.shape) for key, value in ours.state_dict().items()]


def thin_vgg_of_torchvision(convs: list[int], batch_norm: bool) -> nn.Module:
    """torchvision's class with few filters, and its fully connected layers cut to 16."""
    plan: list[int | str] = []
    for block, count in enumerate(convs):
        plan += [min(4 * 2**block, 32)] * count + ["M"]
    with torch.device("meta"):  # its own fully connected layers are large
        net = tv.VGG(tv.vgg.make_layers(plan, batch_norm=batch_norm), num_classes=7, init_weights=False)
        for place, (inputs, outputs) in {0: (32 * 49, 16), 3: (16, 16), 6: (16, 7)}.items():
            net.classifier[place] = nn.Linear(inputs, outputs)
    net.to_empty(device="cpu")
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            layer.reset_parameters()
    return net


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("name", "convs"),
    [
        ("vgg11", [1, 1, 2, 2, 2]),
        ("vgg13", [2, 2, 2, 2, 2]),
        ("vgg16", [2, 2, 3, 3, 3]),
        ("vgg19", [2, 2, 4, 4, 4]),
    ],
)
def test_with_weights_of_torchvision_the_logits_are_its_own(name: str, convs: list[int], batch_norm: bool) -> None:
    theirs = thin_vgg_of_torchvision(convs, batch_norm)
    ours: Any = create_model(name, batch_norm=batch_norm, width=4, hidden=[16, 16], num_classes=7)
    ours.load_state_dict({ours.rename_foreign(key): value for key, value in theirs.state_dict().items()})
    for size in (32, 64, 75):
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            expected = theirs.eval()(images)
            assert expected.abs().max() > 1e-3
            torch.testing.assert_close(ours.eval()(images), expected)


def test_what_is_no_name_of_torchvision_stays_as_it_is() -> None:
    model = VGG(width=2)
    for name in ("features.99.weight", "head.weight", "stem.0.weight"):
        assert model.rename_foreign(name) == name


def test_an_image_below_32_pixels_is_refused_by_the_nets_of_the_paper() -> None:
    with pytest.raises(ModelError, match="at least 32 pixels"):
        create_model("vgg16", image_size=31, width=2)
