"""Learning for a domain without its labels: the gradient is reversed, the batches are the seed's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import cnnlab
from cnnlab.config import AdaptConfig, compose
from cnnlab.data.batch import Batch
from cnnlab.data.decode import Layout
from cnnlab.data.loader import Loader
from cnnlab.data.pixels import pack
from cnnlab.data.preprocess import Preprocess
from cnnlab.errors import CnnlabError, ModelError
from cnnlab.experiment import run_experiment
from cnnlab.training.adapt import (
    DomainAdversary,
    endless,
    new_adversary,
    reversal_strength,
    reverse_gradient,
)


def test_the_gradient_comes_back_reversed() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    (3 * y).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([-0.9, -0.9]))


def test_the_strength_rises_from_nothing_to_one() -> None:
    assert reversal_strength(0) == 0
    assert reversal_strength(0.5) == pytest.approx(2 / (1 + np.exp(-5)) - 1)
    assert 0.999 < reversal_strength(1) < 1


def test_the_adversary_learns_what_the_features_unlearn() -> None:
    torch.manual_seed(0)
    model = cnnlab.create_model("vgg", width=4, image_size=16)
    adversary = new_adversary(AdaptConfig(method="dann", hidden=8), model, (3, 16, 16))
    assert adversary is not None
    source, target = torch.randn(6, 3, 16, 16), torch.randn(6, 3, 16, 16) + 1

    def gradients(strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        adversary.zero_grad()
        _, domain = adversary(model, source, target, strength)
        domain.backward()
        first = next(p for p in model.parameters() if p.ndim == 4)
        assert first.grad is not None and adversary.layers[0].weight.grad is not None
        return first.grad.clone(), adversary.layers[0].weight.grad.clone()

    (still, own), (half, same), (full, again) = (gradients(strength) for strength in (0.0, 0.5, 1.0))
    assert not still.any()
    torch.testing.assert_close(full, 2 * half)
    torch.testing.assert_close(own, same)
    torch.testing.assert_close(own, again)
    assert own.any()


def test_the_logits_are_the_sources_alone() -> None:
    model = cnnlab.create_model("vgg", width=4, image_size=16).eval()
    adversary = new_adversary(AdaptConfig(method="dann", hidden=8), model, (3, 16, 16))
    assert isinstance(adversary, DomainAdversary)
    source = torch.randn(5, 3, 16, 16)
    logits, domain = adversary(model, source, torch.randn(7, 3, 16, 16), 1.0)
    torch.testing.assert_close(logits, model(source))
    assert domain.item() == pytest.approx(np.log(2), abs=0.3)  # it knows nothing yet


def loader(count: int, size: int) -> Loader:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 3).repeat(4, 1).repeat(4, 2)
    preprocess = Preprocess(Layout(4, 4, "RGB"), (0.0,) * 3, (1.0,) * 3)
    return Loader(pack(images), np.zeros(count, int), np.arange(count), preprocess, size, shuffle=True, seed=3)


def test_batch_n_of_all_gets_the_same_target_images_from_wherever_one_begins() -> None:
    source, target = loader(20, 4), loader(9, 4)
    stream = endless(target, 0)
    whole = [next(stream).images for _ in range(3 * len(source))]
    assert all(one.shape == (4, 3, 4, 4) for one in whole)
    resumed = endless(target, len(source) + 2)
    for one in whole[7:10]:
        assert torch.equal(one, next(resumed).images)


def test_each_epoch_goes_on_with_the_target_where_the_last_one_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnlab.training import trainer

    starts: list[int] = []

    def spy(target: Loader, start: int, epochs: int, shard: tuple[int, int]) -> Iterator[Batch]:
        starts.append(start)
        return endless(target, start, epochs, shard)

    monkeypatch.setattr(trainer, "endless", spy)
    words = ["adapt.method=dann", "adapt.data=digits", "model=vgg", "model.width=4", "data.limit=60", "logger=none"]
    run_experiment(compose([*words, "trainer.epochs=3", "trainer.batch_size=20", f"run.dir={tmp_path / 'run'}"]))
    assert starts == [0, 3, 6]


def test_an_endless_loader_visits_every_image_before_it_begins_again() -> None:
    target = loader(8, 4)
    stream = endless(target, 0)
    for _ in range(3):
        seen = torch.cat([next(stream).members, next(stream).members])
        assert sorted(seen.tolist()) == list(range(8))


def test_models_without_features_cannot_adapt() -> None:
    with pytest.raises(ModelError, match="MLP has no spatial features"):
        new_adversary(AdaptConfig(method="dann"), cnnlab.create_model("mlp", image_size=8), (1, 8, 8))
    with pytest.raises(CnnlabError, match=r"needs a cnnlab\.Classifier"):
        new_adversary(AdaptConfig(method="dann"), nn.Linear(3, 3), (1, 8, 8))
    assert new_adversary(AdaptConfig(), nn.Linear(3, 3), (1, 8, 8)) is None


def test_the_statistics_that_are_kept_are_the_targets() -> None:
    torch.manual_seed(0)
    model = cnnlab.create_model("vgg", width=4, image_size=16).train()
    adversary = new_adversary(AdaptConfig(method="dann", hidden=8), model, (3, 16, 16))
    assert adversary is not None and model.training
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    source, target = torch.randn(6, 3, 16, 16), torch.randn(6, 3, 16, 16) + 5
    adversary(model, source, target, 1.0)
    expected = 0.1 * first(target).mean(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-3, atol=1e-4)
    assert norm.momentum == 0.1


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_the_adversary_belongs_to_the_whole_gradient(
    clip: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipping holds its gradient too, the norm that is recorded is that of all that learns, and it does learn."""
    from cnnlab.training.trainer import Trainer

    first: dict[nn.Module, list[torch.Tensor]] = {}
    norms: list[tuple[float, float]] = []
    counted: list[float] = []
    add = Trainer._add_norm

    def look(trainer: Trainer, norm: torch.Tensor) -> None:
        assert trainer.adversary is not None
        first.setdefault(trainer.adversary, [p.detach().clone() for p in trainer.adversary.parameters()])
        parts = [[p.grad for p in module.parameters()] for module in (trainer.model, trainer.adversary)]
        norms.append(tuple(nn.utils.get_total_norm(part).item() for part in parts))  # type: ignore[arg-type]
        counted.append(norm.item())
        add(trainer, norm)

    monkeypatch.setattr(Trainer, "_add_norm", look)
    words = ["data=digits", "data.limit=60", "adapt.method=dann", "adapt.data=digits", "trainer.batch_size=20"]
    words += ["trainer.epochs=1", "logger=none", "model=resnet", "model.depth=8", "model.width=4", "optimizer=sgd"]
    words += [f"run.dir={tmp_path / 'run'}", "trainer.precision=fp32", "trainer.ema=null"]
    run_experiment(compose([*words, *([f"trainer.grad_clip={clip}"] if clip else [])]), test=False)
    assert norms
    for (of_model, of_adversary), whole in zip(norms, counted, strict=True):
        together = (of_model**2 + of_adversary**2) ** 0.5
        assert of_adversary > 0
        assert together == pytest.approx(whole if clip is None else min(clip, whole), rel=1e-3)
    ((adversary, before),) = first.items()
    assert not any(torch.equal(p, old) for p, old in zip(adversary.parameters(), before, strict=True))
