"""What a training step asks of an accelerator: it never waits for it, and launches few kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnlab.config import resolve
from cnnlab.data.build import build_data
from cnnlab.device import choose_device
from cnnlab.models.registry import create_model
from cnnlab.runs.folder import RunFolder
from cnnlab.training import graph, muon, trainer
from cnnlab.training.build import build_model
from cnnlab.training.precision import prepare_process
from cnnlab.training.trainer import Trainer
from pretend_device import WHY_NOT, Device, pretended
from small_sets import write_pets

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

SMALL = ["data=digits", "data.limit=40", "trainer.batch_size=6", "trainer.precision=fp32", "logger=none"]
PETS = ["data=oxford_pets", "data.image_size=32", "data.limit=null", "trainer.batch_size=2"]
PETS += ["model.width=4", "model.depth=2", "augment.mixup=0"]
SPEEDRUN = ["recipe=speedrun", "data=digits", "data.image_size=32", "data.channels=3", "trainer.batch_size=6"]
SPEEDRUN += ["model.widths=[8,32,32]"]  # as many kernels as with 64, 256, 256
RESNET = ["model=resnet", "model.depth=20", "model.width=4", "optimizer=muon", "augment=light"]
FIRST_STEPS = 3  # steps before the one that is counted: optimizers begin in the first, norms are taken in some


def counts_of_a_step(words: list[str], folder: Path) -> Device:
    """Of a whole step, its batch included."""
    with pretended() as device:
        config = resolve([*SMALL, "trainer.epochs=1", *words, f"run.dir={folder}"]).config
        prepare_process(config.trainer)
        data = build_data(config, choose_device("auto"), lambda done, total: None)
        run = Trainer(build_model(config, data), data, config, RunFolder(folder))
        steps = run.train_epoch()
        for _ in range(FIRST_STEPS):
            next(steps)
        device.clear()
        next(steps)
        return device


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.root={write_pets(tmp_path_factory.mktemp('pets'), 24)}"


@pytest.fixture(autouse=True)
def no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown while a run trains is fetched a few times a second, between two steps."""
    monkeypatch.setattr(trainer, "STEP_EVENTS_A_SECOND", 1e-9)


@pytest.mark.parametrize(
    "words",
    [
        ["model=vgg", "model.width=4", "augment=strong", "data.channels=3", "trainer.grad_clip=1"],
        ["model=lenet", "augment.crop=resized", "trainer.class_weights=balanced", "trainer.ema=0.9"],
        ["model=vgg", "model.width=4", "adapt.method=dann", "adapt.data=digits", "adapt.hidden=8"],
        ["data=multi_digits", "model=lenet", "trainer.accumulate=2", "trainer.batch_size=3"],
        ["model=mlp", "model.hidden=[8]", "trainer.precision=fp16", "augment.cutmix=1"],
        [*PETS, "augment=light", "trainer.dice=1"],
        [*PETS, "augment=strong", "trainer.class_weights=[1,2,1]"],
    ],
)
def test_a_step_never_waits_for_the_device(words: list[str], pets: str, tmp_path: Path) -> None:
    words = [*words, pets] if words[: len(PETS)] == PETS else words
    assert counts_of_a_step(words, tmp_path / "run").synchronisations == {}


@pytest.mark.parametrize(("words", "most"), [(SPEEDRUN, 106), (RESNET, 200)], ids=["speedrun", "resnet20"])
def test_a_step_launches_few_kernels_and_waits_for_none(words: list[str], most: int, tmp_path: Path) -> None:
    """Of speedrun at most 120, of ResNet-20 with Muon at most 200."""
    device = counts_of_a_step(words, tmp_path / "run")
    assert device.synchronisations == {}
    assert device.launches.total() <= most


def test_filters_of_unlike_sizes_take_a_batch_each_and_wait_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "PADDING", 0)
    device = counts_of_a_step(SPEEDRUN, tmp_path / "run")
    assert device.synchronisations == {}
    assert device.launches["aten::bmm"] == 3 * 4  # steps, and sizes: 8×216, 8×72, 32×72, 32×288


def test_filters_as_wide_as_those_of_a_speedrun_share_a_batch_like_the_narrow_ones_here() -> None:
    filters = [p for p in create_model("speednet").parameters() if p.ndim == 4][1:]  # the first is frozen
    assert sorted({(len(p), p[0].numel()) for p in filters}) == [(64, 216), (64, 576), (256, 576), (256, 2304)]
    assert len(muon._near_sizes([(len(p), p[0].numel()) for p in filters])) == 1


@pytest.mark.parametrize("words", [SPEEDRUN, RESNET], ids=["speedrun", "resnet20"])
def test_what_a_graph_records_neither_waits_nor_copies_from_the_processor(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the recorded step runs as it is: CUDA refuses to capture what waits."""
    recorded = []
    monkeypatch.setattr(trainer, "pays_as_graph", lambda *_: True)
    monkeypatch.setattr(trainer, "recorder", lambda device: lambda step: recorded.append(step) or step)
    monkeypatch.setattr(graph, "EAGER_STEPS", 1)
    assert counts_of_a_step(words, tmp_path / "run").synchronisations == {}
    assert recorded
