"""The ImageNet family of ResNets: parameters, stems, torchvision's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models as tv

from cnnlab.errors import ModelError
from cnnlab.models.base import count_parameters
from cnnlab.models.imagenet_resnet import Bottleneck, ImageNetResNet
from cnnlab.models.registry import create_model
from cnnlab.models.resnet import BasicBlock

PAPER = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}


@pytest.mark.parametrize(("name", "count"), PAPER.items())
def test_a_net_of_the_paper_has_its_parameters_to_the_unit_and_the_names_of_torchvision(name: str, count: int) -> None:
    with torch.device("meta"):
        ours: Any = create_model(name)
        theirs = tv.get_model(name, weights=None)
    assert count_parameters(ours) == count_parameters(theirs) == count
    renamed = {ours.rename_foreign(key): value.shape for key, value in theirs.state_dict().items()}
    assert renamed == {key: value.shape for key, value in ours.state_dict().items()}


@pytest.mark.parametrize("name", PAPER)
def test_a_net_of_the_paper_has_as_many_layers_as_its_name_says(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    weights = [key for key, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len([key for key in weights if "shortcut" not in key]) == int(name.removeprefix("resnet"))


@pytest.mark.parametrize(
    ("name", "block", "blocks"),
    [
        ("resnet18", tv.resnet.BasicBlock, [2, 2, 2, 2]),
        ("resnet34", tv.resnet.BasicBlock, [3, 4, 6, 3]),
        ("resnet50", tv.resnet.Bottleneck, [3, 4, 6, 3]),
    ],
)
def test_with_weights_of_torchvision_the_logits_are_its_own(name: str, block: Any, blocks: list[int]) -> None:
    torch.manual_seed(0)
    theirs = tv.ResNet(block, blocks, num_classes=7)
    theirs.train()(torch.randn(4, 3, 64, 64))  # running statistics that are not 0 and 1
    ours: Any = create_model(name, num_classes=7)
    ours.load_state_dict({ours.rename_foreign(key): value for key, value in theirs.state_dict().items()})
    for size in (64, 75):
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            expected = theirs.eval()(images)
            assert expected.abs().max() > 0.1
            torch.testing.assert_close(ours.eval()(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "stride"),
    [
        ({"image_size": 64}, 32),
        ({"image_size": 63}, 8),
        ({"image_size": (224, 32)}, 8),
        ({"image_size": 32, "stem": "imagenet"}, 32),
        ({"image_size": 224, "stem": "small"}, 8),
    ],
)
def test_small_images_get_the_small_stem(arguments: dict[str, Any], stride: int) -> None:
    model: Any = create_model("resnet18", width=2, **arguments)
    assert model.feature_info.stride == stride
    first = model.stem[0]
    assert (first.kernel_size, first.stride) == (((7, 7), (2, 2)) if stride == 32 else ((3, 3), (1, 1)))
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in model.stem) == (stride == 32)
    assert model.eval().forward_features(torch.zeros(1, 3, 64, 96)).shape == (1, 16, 64 // stride, 96 // stride)


def test_in_a_bottleneck_the_3x3_convolution_has_the_stride() -> None:
    block = Bottleneck(8, 4, stride=2)
    assert [conv.stride for conv in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]
    assert block(torch.zeros(2, 8, 5, 6)).shape == (2, 16, 3, 3)


@pytest.mark.parametrize(("block", "channels"), [("basic", 8), ("bottleneck", 32)])
def test_stages_can_be_as_many_as_asked_for(block: str, channels: int) -> None:
    model = ImageNetResNet(block, blocks=(1, 2, 1), width=2, image_size=32)
    assert model.stages == ("stem", "body.0", "body.1", "body.2")
    assert (model.feature_info.channels, model.feature_info.stride) == (channels, 4)


@pytest.mark.parametrize(
    ("name", "kind", "norm"), [("resnet18", BasicBlock, "norm2"), ("resnet50", Bottleneck, "norm3")]
)
def test_with_zero_init_residual_each_block_begins_as_its_shortcut(name: str, kind: type[nn.Module], norm: str) -> None:
    zero, usual = (create_model(name, width=2, zero_init_residual=choice) for choice in (True, False))
    for model, expected in ((zero, 0.0), (usual, 1.0)):
        blocks: list[Any] = [block for block in model.modules() if isinstance(block, kind)]
        assert len(blocks) > 7
        assert all((getattr(block, norm).weight == expected).all() for block in blocks)
        assert all((block.norm1.weight == 1).all() for block in blocks)
    block = next(
        block for block in zero.modules() if isinstance(block, kind) and isinstance(block.shortcut, nn.Identity)
    )
    x = torch.rand(1, block.conv1.in_channels, 4, 4)  # not negative, so that the last ReLU changes nothing
    assert torch.equal(block.eval()(x), x)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"stem": "large"}, "stem must be auto, imagenet or small, got 'large'"),
        ({"width": 0}, "width"),
        ({"image_size": 0}, "image_size"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_what_makes_no_network_is_refused(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=word):
        create_model("resnet18", **arguments)


@pytest.mark.parametrize("arguments", [{"block": "wide"}, {"blocks": []}, {"blocks": [1, 0]}, {"blocks": [1] * 9}])
def test_blocks_that_make_no_network_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(arguments))):
        ImageNetResNet(**arguments)
