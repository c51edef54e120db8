"""What is gathered for the page: the images as the model saw them, with their maps, and no run without a report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnlab
from cnnlab.data.data import Data
from cnnlab.evaluation.classification import LabelOutputs as Outputs
from cnnlab.evaluation.evaluate import evaluate_split
from cnnlab.evaluation.metrics import image_losses
from cnnlab.explain.cam import activation_maps
from cnnlab.models.base import Classifier
from cnnlab.models.registry import create_model
from cnnlab.report import gather as module
from cnnlab.report.gather import MISTAKES, SAMPLES, gather, images_at, worst_places


@pytest.fixture(scope="module")
def data() -> Data:
    return cnnlab.load_data("digits", limit=60, batch_size=20)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("vgg", in_channels=1, image_size=8, width=4).eval()


@pytest.fixture(scope="module")
def outputs(model: nn.Module, data: Data) -> Outputs:
    return evaluate_split(model, data, "test")


def test_samples_are_half_mistakes_in_order_and_the_same_again(model: nn.Module, data: Data, outputs: Outputs) -> None:
    samples, _ = gather(model, data, outputs)
    assert len(samples) == SAMPLES
    wrong = [s for s in samples if data.classes[int(np.argmax(s.probabilities))] != s.true]
    assert len(wrong) >= SAMPLES // 2
    assert [sample.name for sample in gather(model, data, outputs)[0]] == [sample.name for sample in samples]
    numbers = [int(sample.name) for sample in samples]
    assert numbers == sorted(numbers)
    for sample, number in zip(samples, numbers, strict=True):
        assert sample.true == data.classes[data.images.labels[number]]
        assert np.array_equal(np.asarray(data.images.load_image(number)), sample.image)


def test_an_image_is_shown_as_the_model_sees_it() -> None:
    data = cnnlab.load_data("digits", limit=20, image_size=[16, 12], batch_size=20)
    model = create_model("vgg", in_channels=1, image_size=[16, 12], width=4).eval()
    samples, _ = gather(model, data, evaluate_split(model, data, "test"))
    assert samples[0].image.shape == (16, 12)
    assert samples[0].overlay is not None
    assert samples[0].overlay.shape == (128, 96, 3)  # eight pixels for one


def test_mistakes_are_the_wrong_answers_with_the_highest_loss(model: nn.Module, data: Data, outputs: Outputs) -> None:
    _, insight = gather(model, data, outputs)
    losses = image_losses(outputs.logits, outputs.labels)
    wrong = outputs.logits.argmax(1) != outputs.labels
    expected = sorted(losses[wrong].tolist(), reverse=True)[:MISTAKES]
    assert [sample.loss for sample in insight.mistakes] == expected
    right = Outputs({}, [], torch.eye(10), torch.arange(10), data.classes)
    assert worst_places(right) == []


def test_a_map_is_that_of_the_answer(model: nn.Module, data: Data, outputs: Outputs) -> None:
    samples, insight = gather(model, data, outputs)
    assert insight.method == "CAM"
    place = outputs.names.index(samples[0].name)
    heat = activation_maps(model, images_at(data, [place]), target=int(outputs.logits[place].argmax()))
    strongest = np.unravel_index(int(heat[0].argmax()), (8, 8))
    colour = samples[0].overlay
    assert colour is not None
    yellow = colour[..., :2].astype(int).sum(2).reshape(8, 16, 8, 16).mean((1, 3))
    assert yellow[strongest] > np.median(yellow)


def test_the_strongest_channels_of_every_stage_are_kept(model: nn.Module, data: Data, outputs: Outputs) -> None:
    _, insight = gather(model, data, outputs)
    assert [stage.shape[0] for stage in insight.stages] == [4, 8]
    assert all(len(stage.maps) == stage.shape[0] for stage in insight.stages)
    maps = torch.arange(40.0).view(40, 1, 1).expand(40, 2, 2)
    (stage,) = module.strongest([("wide", maps)])
    assert stage.maps[:, 0, 0].tolist() == list(range(24, 40))


def test_maps_are_judged_beside_random_ones(model: nn.Module, data: Data, outputs: Outputs) -> None:
    _, insight = gather(model, data, outputs)
    judged = insight.faithfulness
    assert judged is not None
    assert judged.n == 32
    assert all(0 <= area.mean <= 1 and area.half < area.spread for area in (*judged.maps, *judged.random))
    assert all(0 <= better <= 32 for better in judged.better)


@pytest.mark.parametrize(("cost", "expected"), [(1, 32), (5e8, 20), (10**12, 8)])
def test_fewer_images_are_judged_where_the_model_is_slow(
    cost: float, expected: int, model: nn.Module, data: Data, outputs: Outputs
) -> None:
    assert module.faithfulness(model, data, outputs, int(cost)).n == expected


def test_layers_are_those_of_the_summary(model: nn.Module, data: Data, outputs: Outputs) -> None:
    _, insight = gather(model, data, outputs)
    assert sum(layer.parameters for layer in insight.layers) == sum(p.numel() for p in model.parameters())
    assert insight.layers[0].output == "4×8×8"
    assert insight.layers[0].arithmetic


def test_a_model_without_feature_maps_says_so(data: Data) -> None:
    mlp = create_model("mlp", hidden=[8], image_size=8).eval()
    samples, insight = gather(mlp, data, evaluate_split(mlp, data, "test"))
    assert insight.without_maps.startswith("MLP has no spatial features")
    assert all(sample.overlay is None for sample in [*samples, *insight.mistakes])
    assert (insight.method, insight.stages, insight.faithfulness) == (None, (), None)
    assert insight.layers


class Stubborn(Classifier):
    """Looks at numbers as it runs, and fails when it is asked for gradients."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) == float("inf") or (torch.is_grad_enabled() and not self.training):
            raise RuntimeError("no gradients here")
        return self.head(x.flatten(1))

    @property
    def feature_info(self) -> Any:
        return type("Info", (), {"module": "head"})()


def test_a_model_that_fails_under_a_hook_still_gets_its_report(data: Data) -> None:
    model = Stubborn().eval()
    samples, insight = gather(model, data, evaluate_split(model, data, "test"))
    assert len(samples) == SAMPLES
    assert insight.without_maps == "RuntimeError: no gradients here"
    assert insight.layers == [] and insight.totals == {}


def test_without_a_test_split_only_the_layers_are_shown(model: nn.Module, data: Data) -> None:
    samples, insight = gather(model, data, None)
    assert samples == []
    assert insight.layers and not insight.mistakes
