"""Whole runs on a GPU: every command, steps that never wait, bit-exact resume, too little memory, the compiler."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnnlab.cli import main
from cnnlab.config import resolve
from cnnlab.data.build import build_data
from cnnlab.device import exact_float32
from cnnlab.errors import Interrupted, OutOfMemory
from cnnlab.experiment import Run, resume_experiment, run_experiment
from cnnlab.runs.folder import RunFolder
from cnnlab.training import graph
from cnnlab.training import trainer as training
from cnnlab.training.build import build_model
from cnnlab.training.precision import prepare_process
from cnnlab.training.trainer import Trainer
from small_sets import write_pets

pytestmark = pytest.mark.gpu

Context = Callable[..., AbstractContextManager[None]]
SMALL = ["data=digits", "data.limit=200", "trainer.epochs=2", "trainer.batch_size=20", "logger=none"]


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of a run on them."""
    root = write_pets(tmp_path_factory.mktemp("pets"), 28)
    words = ["data=oxford_pets", f"data.root={root}", "data.image_size=32", "data.val_fraction=0.2", "data.limit=null"]
    return [*words, "model.width=4", "model.depth=2", "trainer.batch_size=2"]


def train(folder: Path, *words: str, **how: Any) -> Run:
    return run_experiment(resolve([*SMALL, *words, f"run.dir={folder}"]).config, **how)


# ---- every command

WHOLE = {
    "default": [],
    "resnet, muon, strong": ["model=resnet", "model.depth=8", "optimizer=muon", "augment=strong"],
    "speedrun": ["recipe=speedrun", "data=digits", "data.image_size=32", "model.widths=[8,16,16]"],
    "fp16": ["model=vgg", "model.width=8", "trainer.precision=fp16"],
    "streamed": ["model=lenet", "data.image_size=28", "data.storage=stream", "data.workers=1"],
    "several labels": ["data=multi_digits", "model.width=8"],
    "domain adaptation": ["model=vgg", "model.width=8", "adapt.method=dann", "adapt.data=digits"],
    "segmentation": ["pets"],
}
EXPORTED = ("default", "speedrun", "segmentation")  # it takes the longest


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_run(name: str, pets: list[str], device: torch.device, tmp_path: Path) -> None:
    """Train, validate, test, report, then every command that takes a run."""
    words = pets if WHOLE[name] == ["pets"] else WHOLE[name]
    if name == "fp16" and device.type == "cpu":
        pytest.skip("the processor has no fp16")
    run, image = str(tmp_path / "run"), str(tmp_path / "image.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(image)
    assert main(["train", *SMALL, *words, "trainer.compile=false", f"run.dir={run}"]) == 0
    assert (tmp_path / "run" / "report.html").exists() and (tmp_path / "run" / "test.json").exists()
    assert main(["test", run]) == 0
    assert main(["predict", run, image]) == 0
    if name != "segmentation":
        assert main(["explain", run, image]) == 0
    if name in EXPORTED:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        assert main(["export", run]) == 0  # it compares the exported answers with the run's own


# ---- steps

PETS = ["augment=strong", "augment.mixup=0", "trainer.dice=1"]
STEPS = {
    "speedrun": ["recipe=speedrun", "data=digits", "data.image_size=32", "data.channels=3"],
    "resnet, muon": ["model=resnet", "model.depth=20", "optimizer=muon", "augment=strong", "data.channels=3"],
    "vgg, clipped": ["model=vgg", "augment=light", "trainer.grad_clip=1", "trainer.accumulate=2"],
    "lenet, crops": ["model=lenet", "augment.crop=resized", "trainer.class_weights=balanced", "trainer.ema=0.9"],
    "fp16": ["model=vgg", "trainer.precision=fp16", "augment.cutmix=1"],
    "domain adaptation": ["model=vgg", "adapt.method=dann", "adapt.data=digits"],
    "several labels": ["data=multi_digits", "model=vgg"],
    "segmentation": PETS,
}
FIRST = 3  # steps in which optimizers and libraries begin


@pytest.mark.parametrize("name", STEPS)
def test_no_step_waits_for_the_device(
    name: str, pets: list[str], no_waiting: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "fp16" and not torch.cuda.is_available():
        pytest.skip("fp16 is for CUDA alone")
    monkeypatch.setattr(training, "STEP_EVENTS_A_SECOND", 1e-9)  # what is shown is fetched between two steps
    trainer = new_trainer(tmp_path, *(pets if name == "segmentation" else ["trainer.batch_size=10"]), *STEPS[name])
    steps = trainer.train_epoch()
    for _ in range(FIRST):
        next(steps)
    with no_waiting():
        for _ in range(4):
            next(steps)


def new_trainer(folder: Path, *words: str) -> Trainer:
    config = resolve([*SMALL, "trainer.compile=false", *words, f"run.dir={folder}"]).config
    prepare_process(config.trainer)
    data = build_data(config, training_device())
    return Trainer(build_model(config, data), data, config, RunFolder(folder))


def training_device() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


# ---- resume

RESUMED = {
    "sgd": ["model=vgg", "model.width=8", "optimizer=sgd", "augment=strong"],
    "adamw": ["model=convnet", "model.width=8", "optimizer=adamw", "augment=light", "trainer.ema=0.9"],
    "muon": ["model=resnet", "model.depth=8", "optimizer=muon", "augment=standard", "augment.crop=resized"],
    "speedrun": ["recipe=speedrun", "data=digits", "data.image_size=32", "model.widths=[8,16,16]"],
    "segmentation": ["pets", "augment=light"],
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_has_the_same_bits_under_deterministic(
    name: str, pets: list[str], device: torch.device, tmp_path: Path
) -> None:
    """Stopped after its third step, in the middle of an epoch, it comes to the weights of the run that went on."""
    words = [*pets, *RESUMED[name][1:]] if name == "segmentation" else ["trainer.batch_size=40", *RESUMED[name]]
    words = [*words, "trainer.deterministic=true", "trainer.epochs=2", "trainer.compile=false"]
    train(tmp_path / "whole", *words, test=False)
    asked = itertools.chain([False, False, True], itertools.repeat(False))
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", *words, test=False, should_stop=lambda: next(asked))
    resume_experiment(tmp_path / "cut", test=False)
    files = [(tmp_path / run / "best" / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert files[0] == files[1]


# ---- memory


def test_too_little_memory_is_one_line_and_the_process_goes_on(
    device: torch.device, little_memory: Context, tmp_path: Path
) -> None:
    words = ["model=vgg", "data.image_size=64", "trainer.precision=fp32", "augment=none", "trainer.compile=false"]
    words += ["model.width=32" if device.type == "cuda" else "model.width=4", "trainer.epochs=1"]
    with little_memory(8), pytest.raises(OutOfMemory) as error:
        train(tmp_path / "run", *words, "data.limit=1200", "trainer.batch_size=800", test=False)
    assert "\n" not in str(error.value) and "trainer.batch_size=" in str(error.value)
    train(tmp_path / "again", *words, "data.limit=40", "trainer.batch_size=8", test=False)


# ---- the compiler


@pytest.mark.parametrize("setting", ["true", "auto"])
def test_compiled_training_learns_what_eager_training_does(
    setting: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over images of two sizes, each of which is compiled, or recorded as a CUDA graph."""
    recordings: list[bool] = []
    if device.type == "cuda" and setting == "auto":
        monkeypatch.setattr(graph, "LEAST_STEPS", 1)
        record = graph.StepGraphs._recorded

        def watched(*given: Any) -> bool:
            recordings.append(record(*given))
            return recordings[-1]

        monkeypatch.setattr(graph.StepGraphs, "_recorded", watched)
    if setting == "true" and device.type == "pretend":
        pytest.skip("a compiled graph cannot run on the pretended device")
    words = ["model=vgg", "model.width=8", "trainer.precision=fp32", "augment=standard", "trainer.epochs=2"]
    words += ["augment.start_size=0.5", "data.image_size=16", "optimizer.lr=0.02"]
    with exact_float32():
        monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: None)
        losses = [
            [row["train_loss"] for row in train(tmp_path / name, *words, f"trainer.compile={name}", test=False).history]
            for name in ("false", setting)
        ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    if device.type == "cuda" and setting == "auto":
        assert recordings and all(recordings)
