"""Weights put into a model by name: what is loaded, what stays fresh, and what is refused with its reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.models.base import Classifier
from cnnlab.models.registry import create_model
from cnnlab.models.transfer import frozen_stages, transfer


def net(classes: int = 4, seed: int = 0, **given: Any) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("resnet", depth=8, width=4, num_classes=classes, **given)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_the_same_model_takes_every_tensor() -> None:
    source, model = net(seed=1), net()
    result = transfer(model, source.state_dict())
    assert set(result.loaded) == set(model.state_dict())
    assert (result.fresh, result.unused) == ({}, [])
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_with_other_classes_the_head_stays_fresh_and_says_why() -> None:
    source, model = net(10, seed=1), net(4)
    head = model.head.weight.clone()  # type: ignore[union-attr, operator]
    result = transfer(model, source.state_dict())
    assert result.fresh == {"head.weight": "[10, 16] there, [4, 16] here", "head.bias": "[10] there, [4] here"}
    assert torch.equal(model.head.weight, head)  # type: ignore[arg-type]
    assert torch.equal(model.stage3[0].conv1.weight, source.stage3[0].conv1.weight)  # type: ignore[index, union-attr]
    assert "2 fresh (head.weight: [10, 16] there, [4, 16] here, …)" in result.describe()


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_what_a_wrapper_puts_before_the_names_is_seen_through(wrapper: str) -> None:
    source, model = net(seed=1), net()
    result = transfer(model, {wrapper + key: value for key, value in source.state_dict().items()})
    assert set(result.loaded) == set(model.state_dict())


def test_two_tensors_for_one_place_are_refused() -> None:
    source, model = net(seed=1), net()
    before = state(model)
    doubled = source.state_dict() | {"module.head.bias": torch.zeros(4)}
    with pytest.raises(ModelError, match=r"two tensors for head.bias: head.bias and module.head.bias"):
        transfer(model, doubled)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_other_names_are_mapped_by_their_prefix() -> None:
    source, model = net(seed=1), net()
    foreign = {
        key.replace("stem.0", "conv1").replace("stem.1", "bn1").replace("head", "fc"): value
        for key, value in source.state_dict().items()
    }
    with pytest.raises(ModelError, match=r"stem.0.weight \(not in the source\).*unused there: conv1.weight"):
        transfer(model, foreign)
    result = transfer(model, foreign, {"conv1": "stem.0", "bn1": "stem.1", "fc": "head"})
    assert set(result.loaded) == set(model.state_dict())
    assert torch.equal(model.head.weight, source.head.weight)  # type: ignore[arg-type, union-attr]


def test_the_longest_prefix_wins_and_only_whole_parts_of_a_name_count() -> None:
    source, model = net(seed=1), net()
    foreign = {f"a.{key}" if key.startswith("stem.") else key: value for key, value in source.state_dict().items()}
    foreign = {key.replace("stage1", "a.stem2"): value for key, value in foreign.items()}
    result = transfer(model, foreign, {"a": "wrong", "a.stem": "stem", "a.stem2": "stage1"})
    assert set(result.loaded) == set(model.state_dict())


def test_the_model_renames_names_of_its_own_kind() -> None:
    class Own(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(1, 2, 1), nn.Linear(2, 3)

        def rename_foreign(self, name: str) -> str:
            return name.replace("features.0", "body").replace("fc", "head")

    source, model = Own(), Own()
    foreign = {k.replace("body", "features.0").replace("head", "fc"): v for k, v in source.state_dict().items()}
    assert len(transfer(model, foreign).loaded) == 4
    assert len(transfer(Own(), {f"module.{k}": v for k, v in foreign.items()}).loaded) == 4


def test_a_wrong_backbone_is_refused_whole_and_nothing_changes() -> None:
    model = net()
    before = state(model)
    with pytest.raises(ModelError) as caught:
        transfer(model, net(seed=1, in_channels=1).state_dict())
    assert "stem.0.weight ([4, 1, 3, 3] there, [4, 3, 3, 3] here)" in str(caught.value)
    assert "init.strict=false" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_unless_strict_what_fits_is_loaded() -> None:
    source, model = net(seed=1, in_channels=1), net()
    result = transfer(model, source.state_dict(), strict=False)
    assert list(result.fresh) == ["stem.0.weight"]
    assert torch.equal(model.stage1[0].conv1.weight, source.stage1[0].conv1.weight)  # type: ignore[index, union-attr]


@pytest.mark.parametrize("strict", [True, False])
def test_tensors_of_which_none_fits_are_refused(strict: bool) -> None:
    with pytest.raises(ModelError, match=r"none of the 1 tensors.*has x.weight"):
        transfer(net(), {"x.weight": torch.zeros(3)}, strict=strict)


def test_a_map_that_renames_nothing_names_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"'hea'"):
        transfer(net(), net().state_dict(), {"hea": "head"})


def test_stages_are_frozen_from_the_input_on() -> None:
    model: Any = net()
    assert frozen_stages(model, "none") == frozen_stages(model, 0) == []
    assert frozen_stages(model, 2) == [model.stem, model.stage1]
    assert frozen_stages(model, "backbone") == [model.stem, model.stage1, model.stage2, model.stage3]
    with pytest.raises(ModelError, match=r"init.freeze=5, and the model has 4 stages: stem, stage1"):
        frozen_stages(model, 5)
    with pytest.raises(ModelError, match=r"Linear names no stages"):
        frozen_stages(nn.Linear(2, 2), "backbone")


def test_a_head_of_other_classes_stays_fresh_whatever_its_shape() -> None:
    source, model = net(seed=1), net()
    head = model.head.weight.clone()  # type: ignore[union-attr, operator]
    result = transfer(model, source.state_dict(), keep_head=False)
    assert result.fresh == {"head.weight": "other classes", "head.bias": "other classes"}
    assert torch.equal(model.head.weight, head)  # type: ignore[arg-type]


def test_a_model_that_is_all_head_can_be_taken_over() -> None:
    source, model = (create_model("mlp", hidden=[], image_size=4) for _ in range(2))
    assert len(transfer(model, source.state_dict()).loaded) == 2


@pytest.mark.parametrize("stages", [("stem", "nothere"), "stem"])
def test_a_stage_that_is_none_is_named(stages: object) -> None:
    model: Any = net()
    model.stages = stages
    with pytest.raises(ModelError, match=r"ResNet\.stages is"):
        frozen_stages(model, "backbone")
