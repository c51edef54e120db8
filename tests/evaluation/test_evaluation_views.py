"""Test-time views: which images are shown, how their answers are weighed, and where the metrics stand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cnnlab
from cnnlab.config import compose
from cnnlab.data.build import build_data
from cnnlab.errors import ConfigError
from cnnlab.evaluation.evaluate import evaluate
from cnnlab.evaluation.tables import metrics_text
from cnnlab.evaluation.views import average_views, views_of
from cnnlab.experiment import run_experiment
from cnnlab.training.forward import forward_all

KINDS = ["mirror", "shift", "mirror_shift"]


@pytest.mark.parametrize(("kind", "count", "total"), [("mirror", 1, 0.5), ("shift", 2, 0.5), ("mirror_shift", 5, 0.75)])
def test_each_kind_has_its_views_and_leaves_the_image_its_share(kind: str, count: int, total: float) -> None:
    views = views_of(torch.rand(2, 3, 6, 7), kind)
    assert len(views) == count
    assert sum(weight for weight, _ in views) == pytest.approx(total)
    assert all(view.shape == (2, 3, 6, 7) for _, view in views)


def test_a_mirrored_view_is_the_image_from_right_to_left() -> None:
    images = torch.rand(1, 1, 4, 5)
    ((weight, view),) = views_of(images, "mirror")
    assert weight == 0.5
    assert torch.equal(view, images.flip(3))


def test_shifts_go_one_pixel_either_way_and_repeat_the_border() -> None:
    images = torch.arange(20.0).view(1, 1, 4, 5)
    down, up = (view for _, view in views_of(images, "shift"))
    assert torch.equal(down[..., 1:, 1:], images[..., :-1, :-1])
    assert torch.equal(up[..., :-1, :-1], images[..., 1:, 1:])
    assert down[0, 0, 0, 0] == images[0, 0, 0, 0]
    assert torch.equal(up[0, 0, -1, 1:], torch.tensor([17.0, 18.0, 19.0, 19.0])[0:4])


class Sides(nn.Module):
    """Sees how bright the left half is: a mirrored image is answered otherwise."""

    def forward(self, images: Tensor) -> Tensor:
        left = images[..., : images.shape[3] // 2].mean((1, 2, 3))
        return torch.stack([left, -left, torch.zeros_like(left)], 1)


def digits() -> cnnlab.Data:  # type: ignore[name-defined]
    return build_data(compose(["data=digits", "data.limit=60", "augment=none"]), torch.device("cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_are_the_weighed_mean_of_log_probabilities(kind: str) -> None:
    data, model = digits(), Sides()
    loader = data.evaluation_loader("test", batch_size=7)
    logits, labels = forward_all(model, loader)
    averaged = average_views(model, loader, logits, kind)
    images = torch.cat([batch.images for batch in loader.epoch()])
    views = views_of(images, kind)
    expected = (1 - sum(weight for weight, _ in views)) * logits.log_softmax(1)
    for weight, view in views:
        expected = expected + weight * model(view).log_softmax(1)
    torch.testing.assert_close(averaged, expected)
    assert len(averaged) == len(labels)
    assert not torch.allclose(averaged, logits.log_softmax(1))


def test_only_the_least_sure_images_get_further_views() -> None:
    data, model = digits(), Sides()
    loader = data.evaluation_loader("test", batch_size=7)
    logits, _ = forward_all(model, loader)
    plain, some, every = logits.log_softmax(1), *(average_views(model, loader, logits, "mirror", s) for s in (0.25, 1))
    best = plain.topk(2).values
    order = (best[:, 0] - best[:, 1]).argsort()
    chosen = round(0.25 * len(order))
    assert chosen > 3
    assert torch.equal(some[order[:chosen]], every[order[:chosen]])
    assert torch.equal(some[order[chosen:]], plain[order[chosen:]])


def test_a_run_states_both_metrics_and_the_plain_one_comes_first(tmp_path: Path) -> None:
    words = ["data.limit=200", "trainer.epochs=2", "logger=none", "test.views=mirror_shift", "model.width=8"]
    run = run_experiment(compose([*words, f"run.dir={tmp_path / 'run'}"]))
    assert run.test is not None
    views = run.test["views"]
    assert (views["views"], views["share"]) == ("mirror_shift", 1.0)
    assert set(views) == {"views", "share", "loss", "accuracy", "accuracy_interval", "change", "validation"}
    assert views["accuracy_interval"][0] <= views["accuracy"] <= views["accuracy_interval"][1]
    assert views["loss"] != run.test["loss"]
    assert evaluate(run.dir) == run.test
    plain = evaluate(run.dir, views="none")
    assert "views" not in plain
    assert plain["accuracy"] == run.test["accuracy"]
    mirrored = evaluate(run.dir, views="mirror")
    assert mirrored["views"]["views"] == "mirror"
    assert "With test-time augmentation" in (run.dir / "report.html").read_text()


def test_views_that_do_harm_are_compared_with_none_in_one_line(tmp_path: Path) -> None:
    """A mirrored 2 or 5 is no digit."""
    words = ["data.limit=400", "trainer.epochs=6", "logger=none", "model=mlp", "optimizer=adam", "optimizer.lr=0.003"]
    run = run_experiment(compose([*words, "augment=none", "trainer.threads=1", f"run.dir={tmp_path / 'run'}"]))
    mirrored = evaluate(run.dir, views="mirror")
    change = mirrored["views"]["change"]
    assert change["accuracy"] == pytest.approx(mirrored["views"]["accuracy"] - mirrored["accuracy"])
    assert change["interval"][0] < change["accuracy"] < change["interval"][1] < 0
    assert mirrored["views"]["validation"]["accuracy"] < 0
    said = metrics_text(mirrored).splitlines()[-1]
    assert f"by −{abs(100 * change['accuracy']):.1f} points" in said
    assert "on the validation split by −" in said
    assert said.endswith("leave them out (--views none)")
    harmless = {"accuracy": 0.01, "interval": [-0.01, 0.03]}
    views = mirrored["views"] | {"change": harmless, "validation": harmless}
    assert "by +1.0 points" in metrics_text(mirrored | {"views": views})
    assert "leave them out" not in metrics_text(mirrored | {"views": views})
    assert "validation" not in evaluate(run.dir, split="val", views="mirror")["views"]


@pytest.mark.parametrize(("key", "value"), [("views", "all"), ("share", "0"), ("share", "1.5")])
def test_what_is_no_view_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"test.{key} must be"):
        compose([f"test.{key}={value}"])
