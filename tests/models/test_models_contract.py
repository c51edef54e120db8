"""The one contract, over the whole zoo."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from cnnlab.config import options
from cnnlab.errors import CnnlabError, ModelError
from cnnlab.models.registry import MODELS, create_model, default_arguments, list_models, model_arguments, model_spec

ZOO = list_models()
PAPER_VGG = {"width": 4, "hidden": [16, 16], "dropout": 0.0}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "alexnet": {"width": 4, "hidden": [16, 16], "dropout": 0.0},
    "convnet": {"width": 8},
    "mlp": {"hidden": [32, 16]},
    "pretrained": {"architecture": "shufflenet_v2_x0_5", "weights": None},
    "resnet": {"depth": 8},
    "speednet": {"widths": [8, 16, 16]},
    "resnet18": {"width": 8},
    "resnet34": {"width": 4},
    "resnet50": {"width": 4},
    "unet": {"depth": 2, "width": 8},
    "vgg": {"width": 8},
    "vgg11": PAPER_VGG,
    "vgg13": PAPER_VGG | {"batch_norm": True},
    "vgg16": PAPER_VGG | {"batch_norm": True},
    "vgg19": PAPER_VGG | {"batch_norm": True},
}
SIZES = [(8, 8), (32, 32), (9, 14), (33, 20)]
LARGER = [(32, 32), (64, 64), (33, 46), (65, 52)]  # for those that refuse the first
TAKES_32_PIXELS = {"vgg11", "vgg13", "vgg16", "vgg19"}
OF_PIXELS = {"unet"}  # (B, K, H, W) logits
BORDER_LOST = {"lenet": 3, "speednet": 1}  # places that convolutions without padding take from a side of the map


def sizes(name: str) -> list[tuple[int, int]]:
    """A small size, a usual one, an odd and uneven one, and a large uneven one."""
    return LARGER if name in TAKES_32_PIXELS else SIZES


EVERY_SIZE = [pytest.param(name, size, id=f"{name}-{size}") for name in ZOO for size in sizes(name)]


def build(name: str, size: tuple[int, int] | None = None, channels: int = 3, classes: int = 10, **given: Any) -> Any:
    torch.manual_seed(0)
    facts = {"in_channels": channels, "num_classes": classes, "image_size": list(size or sizes(name)[0])}
    return create_model(name, **model_arguments(name, ARGUMENTS.get(name, {}) | given, **facts))


def random_images(name: str, count: int = 4, size: tuple[int, int] | None = None, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, *(size or sizes(name)[0]), generator=torch.Generator().manual_seed(1))


def logits_shape(name: str, images: Tensor, classes: int) -> tuple[int, ...]:
    return (len(images), classes, *(images.shape[2:] if name in OF_PIXELS else ()))


def labels_like(name: str, images: Tensor, classes: int) -> Tensor:
    """Labels 0, 1, …, 0, 1, …: (B,), or (B, H, W) where every pixel of an image is of its class."""
    labels = torch.arange(len(images)) % classes
    return labels[:, None, None].expand(-1, *images.shape[2:]) if name in OF_PIXELS else labels


def has_features(model: Any) -> bool:
    try:
        model.feature_info  # noqa: B018
    except ModelError:
        return False
    return True


def test_the_zoo_holds_the_models_of_the_command_line() -> None:
    assert set(ZOO) == set(options("model")) - {"any"}
    assert sorted(ZOO) == ZOO


@pytest.mark.parametrize(("name", "size"), EVERY_SIZE)
def test_logits_are_one_number_an_image_and_class(name: str, size: tuple[int, int]) -> None:
    for count, channels, classes in ((1, 1, 2), (3, 3, 101), (2, 4, 1)):
        model, images = build(name, size, channels, classes).eval(), random_images(name, count, size, channels)
        assert model(images).shape == logits_shape(name, images, classes)
        assert model.num_classes == classes


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model, images = build(name, classes=4), random_images(name, 8)
    F.cross_entropy(model(images), labels_like(name, images, 4)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ZOO)
def test_stages_and_head_hold_every_parameter_once_from_the_input_on(name: str) -> None:
    model = build(name)
    held = [
        key for stage in (*model.stages, "head") for key, _ in model.get_submodule(stage).named_parameters(prefix=stage)
    ]
    assert held == [key for key, _ in model.named_parameters()]
    assert all(any(True for _ in model.get_submodule(stage).parameters()) for stage in model.stages)


@pytest.mark.parametrize("name", ZOO)
def test_first_logits_are_nearly_even(name: str) -> None:
    model = build(name, sizes(name)[1]).train()
    probabilities = model(random_images(name, 16, sizes(name)[1])).softmax(1)
    assert (probabilities - 0.1).abs().max() < 0.1


@pytest.mark.parametrize("name", ZOO)
def test_a_model_saved_and_rebuilt_from_name_and_arguments_gives_equal_logits(name: str) -> None:
    size = sizes(name)[2]
    model = build(name, size, 1, 5)
    model(random_images(name, 8, size, 1))  # moves the running statistics
    model.eval()
    spec = json.loads(json.dumps(model_spec(model)))
    torch.manual_seed(99)
    other = create_model(spec[0], **spec[1]).eval()
    images = random_images(name, 3, size, 1)
    assert not torch.equal(model(images), other(images))
    other.load_state_dict(load(save(model.state_dict())))
    assert torch.equal(model(images), other(images))


@pytest.mark.parametrize("name", ZOO)
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ZOO)
def test_a_new_classifier_keeps_what_lies_before_it(name: str) -> None:
    model, images = build(name, classes=4).eval(), random_images(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.reset_classifier(7)
    assert model(images).shape == logits_shape(name, images, 7)
    assert model.num_classes == 7
    changed = [key for key, value in model.state_dict().items() if not torch.equal(before[key], value)]
    assert {key.rpartition(".")[0] for key in changed} == {"head"}
    with pytest.raises(ModelError, match="num_classes"):
        model.reset_classifier(0)


@pytest.mark.parametrize("name", ZOO)
def test_a_model_with_a_new_classifier_can_be_rebuilt_too(name: str) -> None:
    model = build(name, classes=4).eval()
    model.reset_classifier(7)
    builder, arguments = model_spec(model)
    other = create_model(builder, **arguments).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(random_images(name)), other(random_images(name)))


@pytest.mark.parametrize("name", ZOO)
def test_channels_last_gives_the_same_logits(name: str) -> None:
    size = sizes(name)[3]
    model, images = build(name, size).eval(), random_images(name, 4, size)
    expected = model(images)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("name", ZOO)
def test_bfloat16_gives_nearly_the_same_probabilities(name: str) -> None:
    model, images = build(name, (32, 32)), random_images(name, 8, (32, 32))
    model(images)
    model.eval()
    with torch.no_grad():
        model.head.weight *= 1 / model(images).std()  # logits of size one: there is something to tell apart
        expected = model(images).softmax(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images)
    assert logits.dtype == torch.bfloat16
    assert expected.std() > 0.05
    assert (logits.float().softmax(1) - expected).abs().max() < 0.05


@pytest.mark.parametrize("name", ZOO)
def test_in_evaluation_an_image_does_not_depend_on_its_neighbours(name: str) -> None:
    model, images = build(name), random_images(name, 6)
    model(images)
    model.eval()
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone)


@pytest.mark.parametrize("name", ZOO)
def test_sixteen_images_are_learned_by_heart(name: str) -> None:
    model, images = build(name, classes=4), random_images(name, 16)
    labels = labels_like(name, images, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01 if name in OF_PIXELS else 0.003)
    for _ in range(300):
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        if loss < 0.05:
            break
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(logits.argmax(1), labels)


@pytest.mark.parametrize(("name", "size"), EVERY_SIZE)
def test_feature_info_tells_the_truth(name: str, size: tuple[int, int]) -> None:
    model, images = build(name, size).eval(), random_images(name, 2, size)
    if not has_features(model):
        for call in (lambda: model.forward_features(images), lambda: model.forward_head(images)):
            with pytest.raises(ModelError, match="no spatial features"):
                call()
        return
    info = model.feature_info
    seen: list[Tensor] = []
    handle = model.get_submodule(info.module).register_forward_hook(lambda *event: seen.append(event[2]))
    features = model.forward_features(images)
    handle.remove()
    assert torch.equal(seen[0], features)
    assert features.shape[:2] == (2, info.channels)
    for pixels, places in zip(size, features.shape[2:], strict=True):
        assert pixels // info.stride - BORDER_LOST.get(name, 0) <= places <= -(-pixels // info.stride)


@pytest.mark.parametrize("name", ZOO)
def test_the_forward_pass_is_features_then_head(name: str) -> None:
    model, images = build(name).eval(), random_images(name)
    if has_features(model):
        assert torch.equal(model(images), model.forward_head(model.forward_features(images)))


@pytest.mark.parametrize("name", ZOO)
def test_the_head_takes_features_of_any_size(name: str) -> None:
    model, images = build(name, (32, 32)).eval(), random_images(name, 2, (64, 48))
    if has_features(model):
        assert model(images).shape == logits_shape(name, images, 10)


def test_a_model_without_features_says_what_it_takes() -> None:
    with pytest.raises(ModelError, match=r"\(3, 8, 8\).*\(3, 9, 9\)"):
        build("mlp", (8, 8))(random_images("mlp", 1, (9, 9)))


STRANGE: list[Any] = [None, True, -1, 0, 1, 2, 2.5, -0.5, "x", "", [], [0], [1, 2, 3], ["a"], {}, {"a": 1}]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name in ZOO for key in default_arguments(name)],  # every argument, by its name
)
def test_a_strange_argument_gives_one_line_or_a_model_that_works(name: str, key: str) -> None:
    for value in STRANGE:
        try:
            model = build(name, **{key: value}).eval()
        except CnnlabError as error:
            assert str(error)
            assert len(str(error).splitlines()) == 1
            continue
        channels = model_spec(model)[1]["in_channels"]
        try:
            logits = model(random_images(name, 2, channels=channels))
        except ModelError:  # another image_size than that of the images
            assert key == "image_size"
            continue
        assert logits.isfinite().all(), (key, value)


def test_arguments_of_the_zoo_do_not_depend_on_each_other_across_calls() -> None:
    models = [build(name, classes=classes) for name, classes in itertools.product(ZOO, (2, 3))]
    assert [model_spec(model)[1]["num_classes"] for model in models] == [2, 3] * len(ZOO)
    assert all(isinstance(model, nn.Module) for model in models)
    assert set(ZOO) <= set(MODELS)
