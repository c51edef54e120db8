"""The fully-convolutional form answers as the classifier does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnlab
from cnnlab.errors import ModelError
from cnnlab.explain import FullyConvolutional
from cnnlab.explain.head import head_layers
from cnnlab.models.base import Classifier, FeatureInfo, GlobalAveragePool

MODELS = [
    ("resnet", {"depth": 8, "width": 8}, 32),
    ("convnet", {"width": 8, "image_size": 64, "squeeze_excitation": False}, 64),
    ("vgg", {"width": 8, "image_size": 28}, 28),
    ("vgg", {"width": 8, "image_size": 32, "head_kind": "linear", "hidden": [20], "pool_size": 3}, 32),
    ("speednet", {"widths": [8, 16], "image_size": 32}, 32),
    ("lenet", {"image_size": 32, "in_channels": 3}, 32),
    ("alexnet", {"image_size": 32}, 32),
    ("resnet18", {}, 64),
]


def build(name: str, arguments: dict[str, object]) -> nn.Module:
    torch.manual_seed(3)
    model = cnnlab.create_model(name, num_classes=5, **arguments)
    with torch.no_grad():
        model.head.weight.normal_(std=0.1)
    return model.eval()


@pytest.mark.parametrize(("name", "arguments", "side"), MODELS, ids=[f"{row[0]}-{i}" for i, row in enumerate(MODELS)])
def test_logits_are_equal_at_the_training_size(name: str, arguments: dict[str, object], side: int) -> None:
    model = build(name, arguments)
    net = FullyConvolutional(model, (3, side, side))
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    answers = net(images)
    assert answers.shape == (2, 5, 1, 1)
    logits = model(images)
    torch.testing.assert_close(answers[:, :, 0, 0], logits, rtol=1e-5, atol=1e-5 * logits.abs().amax().item())
    larger = net(torch.randn(1, 3, side + net.stride, side + 2 * net.stride))
    assert larger.shape == (1, 5, 2, 3)


@pytest.mark.parametrize(
    ("name", "arguments", "side"), MODELS[:5], ids=[f"{r[0]}-{i}" for i, r in enumerate(MODELS[:5])]
)
def test_a_window_far_from_every_border_is_answered_as_if_its_surroundings_were_there(
    name: str, arguments: dict[str, object], side: int
) -> None:
    """Each answer is that of the head for the features of its window."""
    model = build(name, arguments)
    net = FullyConvolutional(model, (3, side, side))
    images = torch.randn(1, 3, side + 3 * net.stride, side + 3 * net.stride)
    answers, features = net(images), model.forward_features(images)
    step = net.stride // model.feature_info.stride
    rows, columns = net.places
    for i, j in ((0, 0), (2, 1), (3, 3)):
        window = features[:, :, i * step : i * step + rows, j * step : j * step + columns]
        expected = model.forward_head(window)
        torch.testing.assert_close(answers[:, :, i, j], expected, rtol=1e-4, atol=1e-4 * expected.abs().amax().item())


@pytest.mark.parametrize(
    ("number", "stride", "places"),
    [(0, 4, (8, 8)), (1, 16, (4, 4)), (2, 4, (7, 7)), (4, 4, (7, 7)), (5, 4, (5, 5)), (7, 32, (2, 2))],
)
def test_windows_begin_a_stride_of_the_net_apart(number: int, stride: int, places: tuple[int, int]) -> None:
    name, arguments, side = MODELS[number]
    net = FullyConvolutional(build(name, arguments), (3, side, side))
    assert (net.stride, net.places) == (stride, places)


def test_the_class_maps_of_an_averaging_head_have_the_answer_as_their_mean() -> None:
    model = build("resnet", {"depth": 8, "width": 8})
    net = FullyConvolutional(model, (3, 32, 32))
    images = torch.randn(2, 3, 32, 32)
    maps = net.class_maps(images)
    assert maps.shape == (2, 5, 8, 8)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), model(images), rtol=1e-4, atol=1e-5)
    assert (net.centre(0), net.jump(0)) == (0.0, 4.0)  # strided 3×3 convolutions see pixels 0, 4, 8, … in the middle


def test_the_dense_form_holds_the_plain_one_at_every_stride() -> None:
    model = build("resnet", {"depth": 8, "width": 8})
    net = FullyConvolutional(model, (3, 32, 32))
    assert net.stride == 4
    images = torch.randn(1, 3, 44, 48)
    dense = net.dense(images, 1)
    assert dense.shape == (1, 5, 16, 20)
    plain = net(images[:, :, :41, :45])  # what shift (0, 0) sees
    torch.testing.assert_close(dense[:, :, ::4, ::4], plain)
    shifted = net(images[:, :, 1:42, 2:47])
    torch.testing.assert_close(dense[:, :, 1::4, 2::4], shifted)
    assert net.dense(images, 4).shape == net(images).shape
    with pytest.raises(ModelError, match="must divide the net's own of 4 pixels, got 3"):
        net.dense(images, 3)


def test_an_image_below_the_training_size_is_refused() -> None:
    net = FullyConvolutional(build("resnet", {"depth": 8, "width": 8}), (3, 32, 32))
    with pytest.raises(ModelError, match="20×40 pixels is smaller than the 32×32"):
        net(torch.randn(1, 3, 20, 40))


def test_models_without_such_a_form_say_why() -> None:
    with pytest.raises(ModelError, match="MLP has no spatial features"):
        FullyConvolutional(cnnlab.create_model("mlp", image_size=28), (1, 28, 28))
    with pytest.raises(ModelError, match=r"is no cnnlab\.Classifier"):
        FullyConvolutional(nn.Conv2d(3, 4, 3), (3, 8, 8))


class Own(Classifier):
    """A user's model whose head is written with functions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.num_classes = kind, 3
        self.body = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.layer_norm = nn.LayerNorm(6)
        self.head = nn.Linear(6 * 16 if kind == "flat" else 6, 3)

    @property
    def feature_info(self) -> FeatureInfo:
        return FeatureInfo("body", 6, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward_head(self, features: Tensor) -> Tensor:
        if self.kind == "flat":
            return self.head(F.relu(F.adaptive_avg_pool2d(features, 4)).flatten(1))
        if self.kind == "gated":
            return self.head(features.sigmoid() * features)
        if self.kind == "normed":
            return self.head(self.layer_norm(features.mean((2, 3))))
        if self.kind == "sorted":
            return self.head(features.mean((2, 3)).sort(1).values)
        return self.head(self.norm(features.mean(dim=(2, 3))))


def test_a_head_of_functions_is_followed() -> None:
    torch.manual_seed(0)
    model = Own("mean").eval()
    assert [type(layer) for layer in head_layers(model)] == [GlobalAveragePool, nn.BatchNorm1d, nn.Linear]
    model.norm.running_mean.normal_()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(FullyConvolutional(model, (3, 16, 16))(images)[:, :, 0, 0], model(images))


def test_a_layer_norm_of_the_averages_normalises_each_place() -> None:
    torch.manual_seed(0)
    model = Own("normed").eval()
    nn.init.normal_(model.layer_norm.weight)
    images = torch.randn(2, 3, 16, 16)
    net = FullyConvolutional(model, (3, 16, 16))
    torch.testing.assert_close(net(images)[:, :, 0, 0], model(images))
    assert net(torch.randn(1, 3, 20, 18)).shape == (1, 3, 3, 2)


@pytest.mark.parametrize("architecture", ["convnext_tiny", "squeezenet1_1", "mobilenet_v3_small"])
def test_torchvisions_networks_have_the_form_too(architecture: str) -> None:
    torch.manual_seed(0)
    model = cnnlab.create_model("pretrained", architecture=architecture, weights=None, num_classes=5).eval()
    images = torch.randn(2, 3, 96, 96)
    logits = model(images)
    answers = FullyConvolutional(model, (3, 96, 96))(images)[:, :, 0, 0]
    torch.testing.assert_close(answers, logits, rtol=1e-5, atol=1e-5 * logits.abs().amax().item())


@pytest.mark.parametrize(("kind", "reason"), [("gated", "not known here: sigmoid"), ("sorted", "not known here: sort")])
def test_a_head_that_is_no_chain_says_so(kind: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        FullyConvolutional(Own(kind).eval(), (3, 16, 16))


def test_a_function_between_an_adaptive_pooling_and_its_linear_layer_is_not_merged_wrongly() -> None:
    """ReLU does not commute with the averaging, so the two cannot become one convolution."""
    model = Own("flat").eval()
    images = torch.randn(2, 3, 16, 16)
    try:
        answers = FullyConvolutional(model, (3, 16, 16))(images)[:, :, 0, 0]
    except ModelError as error:
        assert "no fully-convolutional form" in str(error)
    else:
        torch.testing.assert_close(answers, model(images))
