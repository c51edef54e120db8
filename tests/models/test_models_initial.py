"""Weights to begin with: identities, and a first layer that whitens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cnnlab.config import compose
from cnnlab.errors import ConfigError, ModelError
from cnnlab.experiment import resume_experiment, run_experiment
from cnnlab.models.initial import begin_as_identity, whiten_first_layer
from cnnlab.models.registry import create_model


def smooth(count: int = 300, channels: int = 3) -> Tensor:
    """Images whose neighbouring pixels and channels are alike."""
    images = torch.randn(count, channels, 14, 14, generator=torch.Generator().manual_seed(0))
    return 3 * nn.functional.avg_pool2d(images, 3, 1) + images.mean(1, keepdim=True)[..., 1:-1, 1:-1]


@pytest.mark.parametrize("channels", [1, 3])
def test_responses_of_a_whitened_layer_are_uncorrelated_and_of_variance_one(channels: int) -> None:
    model = create_model("speednet", in_channels=channels, image_size=12, widths=[8])
    images = smooth(channels=channels)
    whiten_first_layer(model, images)
    layer = model.whiten[0]  # type: ignore[index, union-attr]
    seen = layer(images).transpose(0, 1).flatten(1)
    covariance = torch.cov(seen[::2])  # every second filter is the negative of the one before it
    torch.testing.assert_close(covariance, torch.eye(len(covariance)), atol=0.02, rtol=0)
    torch.testing.assert_close(layer.weight[::2], -layer.weight[1::2])
    variance = nn.functional.unfold(images, 2).transpose(1, 2).flatten(0, 1).var(0).sum()
    before = torch.cov(nn.functional.unfold(images, 2).transpose(1, 2).flatten(0, 1).T)
    assert (before - torch.diag(before.diagonal())).abs().max() > 0.1 * variance / len(before)  # they were correlated


def test_filters_beyond_twice_the_patch_stay_and_fewer_take_the_directions_of_largest_variance() -> None:
    many, few = nn.Sequential(nn.Conv2d(1, 11, 2)), nn.Sequential(nn.Conv2d(1, 2, 2))
    kept = many[0].weight.detach()[8:].clone()  # type: ignore[index]
    images = smooth(channels=1)
    whiten_first_layer(many, images)
    whiten_first_layer(few, images)
    assert torch.equal(many[0].weight[8:], kept)  # type: ignore[index]
    torch.testing.assert_close(few[0].weight, many[0].weight[:2])
    assert few[0].weight[0].std() < 0.2 * few[0].weight[0].mean().abs()  # the mean of the patch varies most


def test_a_patch_of_one_number_is_only_scaled() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    images = 5 * torch.randn(30, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + 3
    whiten_first_layer(model, images)
    assert model(images)[:, 0].var().item() == pytest.approx(1, abs=0.01)


def test_images_smaller_than_the_kernel_are_refused() -> None:
    with pytest.raises(ModelError, match="kernel spans 5×5 pixels, the training images have 4×9"):
        whiten_first_layer(nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2)), torch.randn(3, 1, 4, 9))


@pytest.mark.parametrize("name", ["mlp", "speednet"])
def test_a_model_that_does_not_begin_with_a_convolution_of_the_images_is_refused(name: str) -> None:
    model = create_model(name, in_channels=3, image_size=12)
    with pytest.raises(ModelError, match="begins with a convolution"):
        whiten_first_layer(model, smooth(20, channels=1))


def test_an_identity_passes_its_inputs_on() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.Conv2d(6, 2, 1))
    before = [layer.weight.detach().clone() for layer in model]
    begin_as_identity(model)
    features = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(model[1](features)[:, :4], features)
    assert torch.equal(model[1].weight[4:], before[1][4:])  # there are no more inputs
    assert torch.equal(model[0].weight, before[0])  # it sees the image
    assert torch.equal(model[2].weight, before[2])


def test_fewer_outputs_than_inputs_pass_on_the_first_ones() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3, padding=1, bias=False))
    begin_as_identity(model)
    features = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(model[1](features), features[:, :5])


def test_a_run_begins_as_told_and_a_resume_does_not_begin_again(tmp_path: Path) -> None:
    words = ["model=speednet", "model.widths=[16,16]", "data.limit=200", "logger=none", "trainer.ema=null"]
    words += ["init.whiten=true", "init.dirac=true", "init.freeze=1", "schedule=constant"]

    class Stopper:
        def log(self, event: object) -> None:
            if type(event).__name__ == "EpochEnded" and event.row["epoch"] == 1:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

        def close(self) -> None:
            pass

    def run(name: str, *more: str) -> dict[str, Tensor]:
        run_experiment(compose([*words, f"run.dir={tmp_path / name}", "trainer.epochs=2", *more]))
        return load_file(tmp_path / name / "best" / "model.safetensors")

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run_experiment(compose([*words, f"run.dir={tmp_path / 'broken'}", "trainer.epochs=2"]), [Stopper()])  # type: ignore[list-item]
    resume_experiment(tmp_path / "broken")
    again = load_file(tmp_path / "broken" / "best" / "model.safetensors")
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    first = whole["whiten.0.weight"]
    torch.testing.assert_close(first[::2], -first[1::2])  # it was whitened, and frozen it stayed so


@pytest.mark.parametrize("key", ["whiten", "dirac"])
def test_loaded_weights_are_not_overwritten(key: str) -> None:
    with pytest.raises(ConfigError, match="would overwrite"):
        compose([f"init.{key}=true", "init.from=somewhere"])
    with pytest.raises(ConfigError, match="would overwrite the published weights"):
        compose([f"init.{key}=true", "model=pretrained"])
