"""Models by name: the dictionary, the decorator, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnlab
from cnnlab.errors import ModelError
from cnnlab.models.base import Classifier, FeatureInfo
from cnnlab.models.registry import MODELS, create_model, list_models, model_arguments, model_spec, register_model


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(MODELS)
    yield
    MODELS.clear()
    MODELS.update(before)


class Tiny(Classifier):
    """A user's own model."""

    def __init__(self, filters: int = 3, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Conv2d(in_channels, filters, 1)
        self.head = nn.Linear(filters, num_classes)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo("body", self.body.out_channels, 1)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(features.mean((2, 3)))


def test_a_decorated_class_is_known_by_its_name() -> None:
    assert register_model("tiny")(Tiny) is Tiny
    assert "tiny" in list_models()
    model = cnnlab.create_model("tiny", filters=5)
    assert isinstance(model, Tiny)
    assert model_spec(model) == ("tiny", {"filters": 5, "in_channels": 1, "num_classes": 10})
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_decorated_function_is_known_by_its_name() -> None:
    @register_model("softmax")
    def softmax(in_channels: int = 1, num_classes: int = 10) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))

    model = create_model("softmax", num_classes=3)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert model_spec(model)[1]["num_classes"] == 3


def test_a_model_that_takes_any_argument_can_be_written_to_a_card() -> None:
    @register_model("open")
    class Open(Tiny):
        def __init__(self, *layers: int, num_classes: int = 10, **rest: Any) -> None:
            super().__init__(num_classes=num_classes)

    spec = json.loads(json.dumps(model_spec(create_model("open", num_classes=3))))
    assert create_model(spec[0], **spec[1])(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_a_class_by_its_dotted_path_needs_trust() -> None:
    """The design: a class outside the dictionary loads only when the caller passes trust_code=True."""
    with pytest.raises(ModelError):
        create_model("torch.nn:Identity")


@pytest.mark.parametrize(("typed", "meant"), [("resnt", "resnet"), ("convnt", "convnet"), ("mpl", "mlp")])
def test_an_unknown_model_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(ModelError, match=f"{typed}.*Did you mean '{meant}'"):
        create_model(typed)


@pytest.mark.parametrize("name", [None, 5, ["resnet"], "", "zzz"])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(ModelError, match="model"):
        create_model(name)


def test_an_unknown_argument_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"'dept'.*Did you mean 'depth'"):
        create_model("resnet", dept=20)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": "deep"}, "whole number"),
        ({"depth": 20.0}, "whole number"),
        ({"depth": True}, "whole number"),
        ({"depth": None}, "whole number"),
        ({"residual": 1}, "true or false"),
        ({"residual": "yes"}, "true or false"),
        ({"shortcut": 3}, "text"),
        ({"width": -2}, "width"),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused_by_its_name(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        create_model("resnet", **arguments)
    assert next(iter(arguments)) in str(caught.value)


def test_a_model_takes_of_the_data_what_it_asks_for_and_the_user_wins() -> None:
    facts = {"in_channels": 1, "num_classes": 10, "image_size": [8, 8]}
    assert model_arguments("resnet", {"depth": 8}, **facts) == {"in_channels": 1, "num_classes": 10, "depth": 8}
    assert model_arguments("mlp", {"image_size": 4}, **facts)["image_size"] == 4


def test_a_model_built_by_hand_is_told_how_to_be_known() -> None:
    with pytest.raises(ModelError, match=r"register_model.*create_model"):
        model_spec(Tiny())


def test_a_model_whose_constructor_fails_gives_one_line() -> None:
    @register_model("broken")
    class Broken(Tiny):
        def __init__(self, num_classes: int = 10) -> None:
            raise ValueError("first line\nsecond line")

    with pytest.raises(ModelError) as caught:
        create_model("broken")
    assert "first line" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_classifier_without_features_says_so() -> None:
    class Bare(Classifier):
        pass

    for call in (lambda: Bare().feature_info, lambda: Bare()(torch.zeros(1)), lambda: Bare().forward_head(None)):
        with pytest.raises(ModelError, match="Bare has no spatial features"):
            call()
    with pytest.raises(ModelError, match="reset_classifier"):
        Bare().reset_classifier(3)
