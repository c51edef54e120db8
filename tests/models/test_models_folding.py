"""Batch norm folded into convolutions answers as the model does, and leaves the model alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import cnnlab
from cnnlab.models.folding import fold_batch_norm
from cnnlab.models.registry import default_arguments


def trained(model: nn.Module, images: Tensor) -> nn.Module:
    """With running statistics and scales that are not those of the start."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(-1.5, 1.5)
                layer.bias.uniform_(-0.5, 0.5)
        for _ in range(3):
            model.train()(images)
    return model.eval()


@pytest.mark.parametrize("name", sorted(set(cnnlab.list_models()) - {"pretrained"}))
def test_every_model_answers_alike(name: str) -> None:
    torch.manual_seed(0)
    arguments = {"num_classes": 7, "in_channels": 3, "image_size": 64}
    takes = default_arguments(name)
    images = torch.randn(4, 3, 64, 64)
    model = trained(cnnlab.create_model(name, **{k: v for k, v in arguments.items() if k in takes}), images)
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        folded = fold_batch_norm(model, images[:2])
        expected = model(images)
        torch.testing.assert_close(folded(images), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def count(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


def test_no_batch_norm_is_left_in_a_residual_net() -> None:
    model = cnnlab.create_model("resnet", depth=8).eval()
    assert count(model) == 7
    assert count(fold_batch_norm(model, torch.randn(2, 3, 32, 32))) == 0


class Shared(nn.Module):
    """The result of the convolution is seen by the norm and by the sum: nothing may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (y + self.norm(y)).mean((2, 3))


class Twice(Shared):
    """One convolution at two places."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3)) + self.conv(x).mean((2, 3))


class Branching(Shared):
    """A forward pass that looks at its values cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Moody(Shared):
    """A forward pass that is another one each time."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Moody.calls += 1
        return self.norm(self.conv(x)).mean((2, 3)) * Moody.calls


@pytest.mark.parametrize("kind", [Shared, Twice, Branching, Moody])
def test_what_cannot_be_folded_stays_as_it_is(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)
    model = trained(kind(), images)
    assert fold_batch_norm(model, images) is model


def test_a_norm_that_learns_is_not_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    assert fold_batch_norm(model, torch.randn(2, 3, 8, 8)) is model
