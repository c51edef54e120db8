"""Activation maps: captum is the oracle of Grad-CAM, algebra that of CAM."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

import cnnlab
from cnnlab.errors import ModelError
from cnnlab.explain import activation_maps, cam, gradcam, layercam
from cnnlab.explain.cam import method_of, raw_maps
from cnnlab.explain.hooks import find_layer, replace_output
from cnnlab.explain.stages import stage_maps

# name, arguments, side: every kind of head in the zoo
MODELS = [
    ("resnet", {"depth": 8, "width": 8}, 32),
    ("convnet", {"width": 8, "image_size": 64}, 64),
    ("vgg", {"width": 8, "image_size": 32}, 32),
    ("speednet", {"widths": [8, 16], "image_size": 32}, 32),
    ("lenet", {"image_size": 32, "in_channels": 3}, 32),
    ("alexnet", {"width": 0.25, "image_size": 32}, 32),
    ("resnet18", {}, 64),
]


def build(name: str, arguments: dict[str, object]) -> nn.Module:
    torch.manual_seed(3)
    try:
        model = cnnlab.create_model(name, num_classes=5, **arguments)
    except ModelError:  # not every model has every argument
        model = cnnlab.create_model(name, num_classes=5, image_size=32)
    with torch.no_grad():  # the last layer begins nearly at zero
        model.head.weight.normal_()
    return model.eval()


def random_images(side: int, count: int = 3) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return build("resnet", {"depth": 8, "width": 8})


@pytest.mark.parametrize(("name", "arguments", "side"), MODELS, ids=[row[0] for row in MODELS])
def test_gradcam_is_captums(name: str, arguments: dict[str, object], side: int) -> None:
    model, images = build(name, arguments), random_images(side)
    layer = find_layer(model, model.feature_info.module)
    seen = 0.0
    for target in (0, 1, 3, torch.tensor([4, 1, 2])):
        expected = LayerGradCam(model, layer).attribute(images, target=target, relu_attributions=True)[:, 0].detach()
        ours = raw_maps(model, images, "gradcam", target)
        seen += expected.amax().item()
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * max(1e-3, expected.amax().item()))
    assert seen > 0


def test_gradcam_of_another_layer_is_captums(resnet: nn.Module) -> None:
    images = random_images(32)
    expected = LayerGradCam(resnet, resnet.stage1).attribute(images, target=2, relu_attributions=True)[:, 0].detach()
    ours = raw_maps(resnet, images, "gradcam", 2, "stage1")
    assert ours.shape == (3, 32, 32)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * expected.amax().item())


def test_cam_and_gradcam_agree_for_a_global_average_up_to_scale(resnet: nn.Module) -> None:
    images = random_images(32)
    torch.testing.assert_close(cam(resnet, images, 1), gradcam(resnet, images, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        raw_maps(resnet, images, "cam", 1), 64 * raw_maps(resnet, images, "gradcam", 1), rtol=1e-4, atol=1e-5
    )


def test_cam_adds_up_to_the_logit() -> None:
    """Zhou et al. 2016, section 2: without the cut at zero, the mean of the map is the logit, less the bias."""
    model = build("resnet", {"depth": 8, "width": 8})
    with torch.no_grad():
        model.head.weight.abs_()  # then nothing is cut off, as the features are not negative
    images = random_images(32)
    logits = model(images)[:, 3] - model.head.bias[3]
    torch.testing.assert_close(raw_maps(model, images, "cam", 3).mean(dim=(1, 2)), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["cam", "gradcam", "layercam"])
def test_maps_are_as_large_as_the_images_and_end_at_one(resnet: nn.Module, method: str) -> None:
    maps = activation_maps(resnet, random_images(36), method)
    assert maps.shape == (3, 36, 36)
    assert maps.dtype == torch.float32 and not maps.requires_grad
    assert maps.amin() >= 0
    assert all(value in (0.0, pytest.approx(1.0)) for value in maps.amax(dim=(1, 2)).tolist())


def test_layercam_weights_each_place_by_its_own_gradient(resnet: nn.Module) -> None:
    images = random_images(32)
    features = resnet.forward_features(images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(resnet.forward_head(features)[:, 2].sum(), features)
    expected = (gradient.clamp_min(0) * features.detach()).sum(1).clamp_min(0)
    torch.testing.assert_close(raw_maps(resnet, images, "layercam", 2), expected)
    assert layercam(resnet, images, 2, "stage1").shape == (3, 32, 32)


def test_without_a_target_the_predicted_class_is_explained(resnet: nn.Module) -> None:
    images = random_images(32)
    answers = resnet(images).argmax(1)
    torch.testing.assert_close(gradcam(resnet, images), gradcam(resnet, images, answers))
    torch.testing.assert_close(gradcam(resnet, images), gradcam(resnet, images, answers.tolist()))
    assert not torch.allclose(gradcam(resnet, images, 0), gradcam(resnet, images, 1))


def test_an_image_has_the_same_map_alone_and_in_a_batch(resnet: nn.Module) -> None:
    images = random_images(32)
    alone = torch.cat([gradcam(resnet, image[None], 1) for image in images])
    torch.testing.assert_close(gradcam(resnet, images, 1), alone, rtol=1e-4, atol=1e-5)


def test_a_frozen_model_in_training_mode_gives_the_same_maps_and_stays_as_it_is(resnet: nn.Module) -> None:
    images = random_images(32)
    expected = gradcam(resnet, images, 1)
    model = build("resnet", {"depth": 8, "width": 8}).train().requires_grad_(False)
    model.stage2.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        inside = images + 0
    for given in (images, inside):
        torch.testing.assert_close(gradcam(model, given, 1), expected)
    assert model.training and not model.stage2.training and model.stage3.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_hook_stays_behind_an_error(resnet: nn.Module) -> None:
    def hooks() -> int:
        return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in resnet.modules())

    assert hooks() == 0
    with pytest.raises(RuntimeError, match="channels"):
        gradcam(resnet, torch.randn(1, 5, 32, 32))
    with pytest.raises(ModelError):
        gradcam(resnet, random_images(32), 17)
    with pytest.raises(KeyError), replace_output(resnet, "stage1"):
        raise KeyError
    assert hooks() == 0


def test_other_weights_give_other_maps() -> None:
    """Adebayo et al. 2018, Sanity Checks for Saliency Maps: a map that stays the same shows edges, not the model."""
    model, images = build("resnet", {"depth": 8, "width": 8}), random_images(32, 8)
    before = gradcam(model, images, 1).flatten(1)
    torch.manual_seed(99)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    after = gradcam(model, images, 1).flatten(1)
    alike = [torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in zip(before, after, strict=True)]
    assert sum(map(abs, alike)) / len(alike) < 0.6


def test_auto_is_cam_where_the_head_allows_it(resnet: nn.Module) -> None:
    assert method_of(resnet) == "cam"
    assert method_of(build("speednet", {"widths": [8], "image_size": 32})) == "gradcam"
    assert method_of(build("lenet", {"image_size": 32})) == "gradcam"


def test_what_cannot_be_explained_says_why(resnet: nn.Module) -> None:
    images = random_images(32)
    with pytest.raises(ModelError, match="MLP has no spatial features; use a convolutional model"):
        gradcam(cnnlab.create_model("mlp", image_size=32), images)
    with pytest.raises(ModelError, match="target 5 does not exist: the model has 5 classes, 0 to 4"):
        gradcam(resnet, images, 5)
    with pytest.raises(ModelError, match="target -1 does not exist"):
        gradcam(resnet, images, -1)
    with pytest.raises(ModelError, match="2 classes for 3 images"):
        gradcam(resnet, images, [0, 1])
    with pytest.raises(ModelError, match="whole number"):
        gradcam(resnet, images, torch.tensor([0.5, 1.0, 2.0]))
    with pytest.raises(ModelError, match="Did you mean 'stage1'"):
        gradcam(resnet, images, 0, "stag1")
    with pytest.raises(ModelError, match="layer 'head' gives no map"):
        gradcam(resnet, images, 0, "head")
    with pytest.raises(ModelError, match="SpeedNet has another; use gradcam"):
        cam(build("speednet", {"widths": [8], "image_size": 32}), images)
    with pytest.raises(ModelError, match="another layer use gradcam"):
        activation_maps(resnet, images, "cam", 0, "stage1")
    with pytest.raises(ModelError, match="method must be"):
        activation_maps(resnet, images, "lime")
    with pytest.raises(ModelError, match=r"\(B, C, H, W\)"):
        gradcam(resnet, images[0])
    with pytest.raises(ModelError, match="give a layer"):
        gradcam(nn.Sequential(nn.Conv2d(3, 4, 3)), images)
    with pytest.raises(ModelError, match="every pixel"):
        gradcam(cnnlab.create_model("unet", num_classes=3, in_channels=3), images)


def test_a_plain_module_is_explained_at_the_layer_that_is_named() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    images = random_images(16)
    expected = LayerGradCam(net, net[1]).attribute(images, target=1, relu_attributions=True)[:, 0].detach()
    torch.testing.assert_close(raw_maps(net, images, "gradcam", 1, "1"), expected, rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_changed_in_place_afterwards_is_seen_as_it_was() -> None:
    torch.manual_seed(0)
    images = random_images(16)
    maps = []
    for inplace in (False, True):
        torch.manual_seed(0)
        after = [nn.ReLU(inplace=inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        maps.append(raw_maps(nn.Sequential(nn.Conv2d(3, 4, 3), *after), images, "gradcam", 1, "0"))
    assert maps[0].any()
    torch.testing.assert_close(maps[1], maps[0])


def test_stage_maps_follow_the_image_through_the_network(resnet: nn.Module) -> None:
    image = random_images(32)[0]
    maps = stage_maps(resnet, image)
    assert [(name, tuple(one.shape)) for name, one in maps] == [
        ("stem", (8, 32, 32)),
        ("stage1", (8, 32, 32)),
        ("stage2", (16, 16, 16)),
        ("stage3", (32, 8, 8)),
    ]
    torch.testing.assert_close(maps[-1][1], resnet.forward_features(image[None])[0])
    assert stage_maps(cnnlab.create_model("mlp", image_size=32, in_channels=3), image) == []
