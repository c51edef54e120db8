"""Whole runs on a pretended accelerator: nothing mixes tensors of the processor with tensors of the device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cnnlab
from cnnlab.config import optimizer_names, resolve
from cnnlab.deploy.segmenter import Segmenter
from cnnlab.device import choose_device
from cnnlab.errors import Interrupted
from cnnlab.experiment import Run, resume_experiment, run_experiment
from cnnlab.explain.localize import Localizer
from cnnlab.runs.weights import load_run
from pretend_device import NAME, WHY_NOT, Device, pretended
from small_sets import write_pets

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

SMALL = ["data.limit=40", "trainer.epochs=1", "trainer.batch_size=12", "trainer.precision=fp32", "logger=none"]
FAMILIES = {
    "mlp": ["model=mlp", "model.hidden=[8]"],
    "lenet": ["model=lenet", "data.image_size=28", "optimizer=adam"],
    "convnet": ["model=convnet", "model.width=4", "optimizer=adamw"],
    "alexnet": ["model=alexnet", "model.width=4", "model.hidden=[8]"],
    "vgg": ["model=vgg", "model.width=4", "trainer.ema=0.9", "trainer.accumulate=2"],
    "resnet": ["model=resnet", "model.depth=8", "model.width=4", "optimizer=muon", "augment=strong"],
    "speednet": ["recipe=speedrun", "data=digits", "model.widths=[4,4]"],
    "resnet18": ["model=resnet18", "model.width=16", "trainer.class_weights=balanced"],
}


@pytest.fixture
def device() -> Iterator[Device]:
    with pretended() as made:
        yield made


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pets(tmp_path_factory.mktemp("pets"), 16)


def train(folder: Path, *words: str, **how: Any) -> Run:
    return run_experiment(resolve(["data=digits", *SMALL, *words, f"run.dir={folder}"]).config, **how)


def test_auto_finds_the_accelerator_that_torch_has(device: Device) -> None:
    assert choose_device("auto") == torch.device(NAME)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_answers_on_a_device(family: str, device: Device, tmp_path: Path) -> None:
    run = train(tmp_path / "run", *FAMILIES[family], test=False)
    assert np.isfinite(run.history[-1]["val_loss"])
    assert device.launches["aten::native_batch_norm" if family == "vgg" else "aten::mm"]  # it was the device's work
    assert cnnlab.evaluate(run.dir)["n"] > 0
    image = np.full((8, 8), 128, np.uint8)
    assert cnnlab.Predictor.from_run(run.dir).predict(image)[0].probability > 0


@pytest.mark.parametrize("family", ["resnet", "speednet", "alexnet", "lenet"])
def test_explanations_are_made_on_the_device_of_the_model(family: str, device: Device, tmp_path: Path) -> None:
    model, card = load_run(train(tmp_path / "run", *FAMILIES[family], test=False).dir, torch.device(NAME))
    layout = card["preprocess"]["layout"]
    images = torch.rand(2, 1, layout["height"], layout["width"], device=NAME)
    for method in ("auto", "gradcam", "layercam"):
        assert cnnlab.explain.activation_maps(model, images, method).device.type == NAME
    found = Localizer(model, (1, layout["height"], layout["width"]))(torch.rand(1, 40, 44, device=NAME))
    assert found.heat.shape == (40, 44)


def test_a_run_reports_what_it_did_on_the_device(device: Device, tmp_path: Path) -> None:
    run = train(tmp_path / "run", *FAMILIES["resnet"], "trainer.epochs=2", "logger.gradients=true")
    assert run.test is not None and (run.dir / "report.html").exists()


def test_several_labels_per_image(device: Device, tmp_path: Path) -> None:
    words = ["data=multi_digits", "model=vgg", "model.width=4", "trainer.class_weights=balanced"]
    run = train(tmp_path / "run", *words, test=False)
    assert cnnlab.evaluate(run.dir)["mean_ap"] is not None


STRONG = ["augment=strong", "augment.mixup=0", "augment.cutmix=1", "trainer.dice=1"]


@pytest.mark.parametrize("words", [["augment=none"], STRONG])
def test_a_class_for_every_pixel(words: list[str], pets: Path, device: Device, tmp_path: Path) -> None:
    sizes = ["data.image_size=32", "model.width=4", "model.depth=2", "trainer.batch_size=4", "data.val_fraction=0.3"]
    run = train(tmp_path / "run", "data=oxford_pets", f"data.root={pets}", *sizes, *words, test=False)
    assert cnnlab.evaluate(run.dir)["task"] == "segmentation"
    assert Segmenter(run.dir).segment(next((pets / "oxford-iiit-pet" / "images").iterdir())).ndim == 2


@pytest.mark.parametrize("method", ["dann", "batch_norm"])
def test_another_domain_beside_the_first(method: str, device: Device, tmp_path: Path) -> None:
    words = ["model=vgg", "model.width=4"]
    if method == "batch_norm":  # of a trained network
        words.append(f"init.from={train(tmp_path / 'source', *words, test=False).dir}")
    words += [f"adapt.method={method}", "adapt.data=digits", "adapt.hidden=8"]
    assert np.isfinite(train(tmp_path / "run", *words, test=False).history[-1]["train_loss"])


DENSE = [name for name in optimizer_names() if name != "SparseAdam"]


@pytest.mark.parametrize(("optimizer", "ema"), [*((name, "0.9") for name in DENSE), ("Muon", "null"), ("SGD", "null")])
def test_every_optimizer_resumes_on_the_device(optimizer: str, ema: str, device: Device, tmp_path: Path) -> None:
    """Stopped after the second of six steps, it comes to the weights of the run that was not stopped."""
    words = ["model=vgg", "model.width=2", "augment=none", f"optimizer={optimizer}", f"trainer.ema={ema}"]
    whole = train(tmp_path / "whole", *words, "trainer.epochs=2", test=False)
    asked = itertools.chain([False, True], itertools.repeat(False))
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", *words, "trainer.epochs=2", test=False, should_stop=lambda: next(asked))
    resume_experiment(tmp_path / "cut", test=False)
    weights = [(folder / "best" / "model.safetensors").read_bytes() for folder in (whole.dir, tmp_path / "cut")]
    assert weights[0] == weights[1]
