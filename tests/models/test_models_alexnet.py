"""AlexNet: parameters, variants, torchvision's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models as tv

from cnnlab.errors import ModelError
from cnnlab.models.alexnet import AlexNet
from cnnlab.models.base import count_parameters
from cnnlab.models.registry import create_model

THIN: dict[str, Any] = {"width": 4, "hidden": [16, 16]}


def test_an_alexnet_has_its_parameters_to_the_unit_and_the_names_of_torchvision() -> None:
    with torch.device("meta"):
        ours: Any = create_model("alexnet")
        theirs = tv.alexnet(weights=None)
    assert count_parameters(ours) == 61_100_840
    renamed = {ours.rename_foreign(key): value.shape for key, value in theirs.state_dict().items()}
    assert list(renamed.items()) == [(key, value.shape) for key, value in ours.state_dict().items()]


@pytest.mark.parametrize("size", [63, 96, 130])
def test_with_the_layers_of_torchvision_the_logits_are_its_own(size: int) -> None:
    """torchvision's forward, run on thin layers: its numbers of filters are fixed."""
    ours = AlexNet(variant="standard", **THIN).eval()
    with torch.device("meta"):
        theirs = tv.alexnet(weights=None).eval()
    for path, layer in list(theirs.named_modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parent, _, name = path.rpartition(".")
            twin = ours.get_submodule(ours.rename_foreign(f"{path}.weight").removesuffix(".weight"))
            setattr(theirs.get_submodule(parent), name, twin)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("arguments", "stride"),
    [
        ({"image_size": 96}, 16),
        ({"image_size": 95}, 4),
        ({"image_size": (224, 32)}, 4),
        ({"image_size": 95, "variant": "standard"}, 16),
        ({"image_size": 224, "variant": "small"}, 4),
    ],
)
def test_small_images_get_the_small_variant(arguments: dict[str, Any], stride: int) -> None:
    model = AlexNet(**THIN, **arguments).eval()
    assert model.feature_info.stride == stride
    assert model(torch.zeros(1, 3, 97, 99)).shape == (1, 1000)


def test_the_map_of_224_pixels_has_13_places_a_side() -> None:
    assert AlexNet(**THIN).forward_features(torch.zeros(1, 3, 224, 224)).shape == (1, 16, 13, 13)


@pytest.mark.parametrize(("size", "side"), [(1, 1), (8, 1), (28, 4), (32, 4), (48, 6), (90, 6)])
def test_the_small_variant_has_no_more_hidden_weights_than_its_map_has_places(size: int, side: int) -> None:
    model = AlexNet(**THIN, image_size=size)
    assert model.hidden[1].in_features == 16 * side * side
    places = model.pool[0](model.forward_features(torch.zeros(1, 3, size, size))).shape[2]
    assert side == min(places, 6)


def test_dropout_draws_in_training_only() -> None:
    model = AlexNet(**THIN, image_size=32)
    nn.init.normal_(model.head.weight)
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"variant": "tiny"}, "variant must be auto, standard or small, got 'tiny'"),
        ({"variant": "standard", "image_size": 62}, "at least 63 pixels"),
        ({"image_size": 0}, "too small"),
        ({"hidden": [0]}, "hidden"),
        ({"dropout": 1}, "dropout"),
        ({"width": 0}, "width"),
    ],
)
def test_what_makes_no_network_is_refused(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=word):
        create_model("alexnet", **arguments)
