"""What feeds an accelerator and what is taken from it: few launches, few copies, and nothing that makes it wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cnnlab.config import resolve
from cnnlab.data.batches import BatchLoader
from cnnlab.data.build import build_data
from cnnlab.data.data import Data
from cnnlab.device import choose_device
from cnnlab.errors import DataError, RunError
from cnnlab.evaluation.evaluate import evaluate_split
from cnnlab.experiment import run_experiment
from cnnlab.host_device import CHUNK, fetch, separate
from cnnlab.runs import state as states
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.state import load_state
from cnnlab.training.build import build_model
from cnnlab.training.trainer import Trainer
from pretend_device import NAME, WHY_NOT, Device, pretended
from small_sets import write_pets

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

SMALL = ["data=digits", "data.limit=40", "trainer.batch_size=6", "trainer.precision=fp32", "logger=none"]
COLOUR = ["data.channels=3", "data.image_size=32"]
PETS = ["data=oxford_pets", "data.image_size=32", "data.limit=null", "trainer.batch_size=2", "augment.mixup=0"]


@pytest.fixture
def device() -> Iterator[Device]:
    with pretended() as made:
        yield made


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.root={write_pets(tmp_path_factory.mktemp('pets'), 24)}"


def build(*words: str, device: str = "auto") -> Data:
    config = resolve([*SMALL, "trainer.epochs=1", *words]).config
    return build_data(config, choose_device(device), lambda done, total: None)


# ---- launches


@pytest.mark.parametrize(
    ("words", "most"),
    [
        ([*COLOUR, "augment=none"], 5),
        ([*COLOUR, "augment=light"], 10),
        ([*COLOUR, "recipe=speedrun"], 8),
        ([*COLOUR, "augment=strong", "augment.mixup=0"], 24),
        ([*COLOUR, "augment=strong"], 25),
        ([*COLOUR, "augment=strong", "augment.mixup=0", "augment.cutmix=1"], 26),
        ([*COLOUR, "augment.crop=resized"], 34),
        ([*PETS, "augment=light"], 12),
        ([*PETS, "augment=strong", "augment.cutmix=1"], 30),
    ],
    ids=["none", "light", "speedrun", "strong", "mixup", "cutmix", "resized", "masks", "masks, cutmix"],
)
def test_a_batch_takes_few_launches_and_one_copy(words: list[str], most: int, pets: str, device: Device) -> None:
    words = [*words, pets] if words[: len(PETS)] == PETS else words
    batches = build(*words).train.epoch()
    next(batches)
    device.clear()
    next(batches)
    assert not device.synchronisations
    assert device.launches.total() <= most, device.lines
    copies = {name: count for name, count in device.lines.items() if "_to_copy host_device.py" in name}
    assert sum(copies.values()) == 1


@pytest.mark.parametrize("augment", ["none", "light", "strong"])
def test_the_device_shows_the_same_images(augment: str, device: Device) -> None:
    words = [*COLOUR, f"augment={augment}"]
    for here, there in zip(build(*words, device="cpu").train.epoch(3), build(*words).train.epoch(3), strict=True):
        torch.testing.assert_close(here.images, there.images.cpu(), rtol=0, atol=1e-6)  # rounded once there
        assert torch.equal(here.targets, there.targets.cpu())


# ---- images that do not lie on the device


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of six images of 40 pixels."""
    root = tmp_path_factory.mktemp("folder")
    random = np.random.default_rng(0)
    for number in range(24):
        (root / f"class{number % 4}").mkdir(exist_ok=True)
        image = Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        image.save(root / f"class{number % 4}" / f"{number}.png")
    return root


def of_folder(folder: Path, storage: str, crop: str, device: str = "auto") -> Data:
    words = ["data=folder", f"data.root={folder}", "data.image_size=32", "data.limit=null", f"data.storage={storage}"]
    words += ["data.workers=0", "augment=strong", f"augment.crop={crop}", "trainer.batch_size=5"]
    return build(*words, device=device)


@pytest.mark.parametrize("crop", ["pad", "resized"])
@pytest.mark.parametrize("storage", ["mmap", "stream"])
def test_what_does_not_lie_on_the_device_comes_in_one_copy_without_waiting(
    storage: str, crop: str, folder: Path, device: Device
) -> None:
    """In the order, and with the pixels, of a processor; to a level where the device resizes."""
    expected = list(of_folder(folder, storage, crop, "cpu").train.epoch(2))
    train = of_folder(folder, storage, crop).train
    list(train.epoch(1))
    device.clear()
    found = list(train.epoch(2))
    assert not device.synchronisations
    assert sum(count for name, count in device.lines.items() if "_to_copy host_device.py" in name) == len(found) == 3
    for here, there in zip(expected, found, strict=True):
        assert torch.equal(here.targets, there.targets.cpu()) and torch.equal(here.members, there.members)
        held = there.targets.inner.untyped_storage().nbytes()  # type: ignore[attr-defined]
        assert held <= 2 * there.targets.nbytes  # no pixels stay alive with them
        difference = (here.images - there.images.cpu()).abs()
        assert difference.max() < (0.05 if (storage, crop) == ("stream", "resized") else 1e-6)


def test_an_image_that_disappears_while_it_is_streamed_is_one_line(folder: Path, device: Device) -> None:
    data = of_folder(folder, "stream", "pad")
    victim = folder / data.images.names[data.split.train[0]]
    content = victim.read_bytes()
    victim.unlink()
    try:
        with pytest.raises(DataError, match=victim.name):
            list(data.train.epoch(0))
    finally:
        victim.write_bytes(content)
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_batches_of_the_users_own_come_without_waiting(device: Device) -> None:
    images, labels = torch.rand(8, 3, 6, 6), torch.arange(8) % 2
    source = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    for own in (source, DataLoader(source, batch_size=4)):  # type: ignore[arg-type]
        loader = BatchLoader(own, 4, device=torch.device(NAME))  # type: ignore[arg-type]
        device.clear()
        batches = list(loader.epoch())
        assert not device.synchronisations
        assert torch.equal(torch.cat([batch.images.cpu() for batch in batches]), images)
        assert torch.equal(torch.cat([batch.targets.cpu() for batch in batches]), labels)


# ---- what is fetched


def test_a_fetched_state_is_the_same_in_the_same_layout(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {
        "filters": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "turned": torch.randn(3, 5).t(),
        "half": torch.randn(6, dtype=torch.bfloat16),
        "double": [torch.randn(2, dtype=torch.float64), {"flag": torch.tensor([True, False])}],
        "steps": (torch.tensor(7), torch.zeros(0, 3)),
        "repeated": torch.randn(3, 1).expand(3, 4),
    }
    moved = torch.utils._pytree.tree_map(lambda value: value.to(NAME), values)
    for chunk, copies in ((CHUNK, 5), (20, 9)):
        monkeypatch.setattr("cnnlab.host_device.CHUNK", chunk)
        device.clear()
        found = separate(fetch({**moved, "rate": 0.1, "name": "x", "none": None, "here": torch.ones(2)}))
        assert device.synchronisations.total() == 1
        assert device.launches["aten::copy_"] <= copies
        assert (found["rate"], found["name"], found["none"]) == (0.1, "x", None)
        flat, expected = (torch.utils._pytree.tree_leaves({key: of[key] for key in values}) for of in (found, values))
        for one, other in zip(flat, expected, strict=True):
            assert one.device.type == "cpu" and one.dtype == other.dtype and torch.equal(one, other)
            assert one.untyped_storage().nbytes() == one.nbytes
        assert found["filters"].stride() == values["filters"].stride()
        assert found["turned"].stride() == values["turned"].stride()


def trainer_of(run: Path, *words: str) -> Trainer:
    model = [] if any(word.startswith("model=") for word in words) else ["model=vgg", "model.width=2"]
    config = resolve([*SMALL, "trainer.epochs=1", *model, *words, f"run.dir={run}"]).config
    data = build_data(config, choose_device("auto"), lambda done, total: None)
    return Trainer(build_model(config, data), data, config, RunFolder(run))


@pytest.mark.parametrize("words", [["optimizer=adamw", "trainer.ema=0.9"], ["optimizer=muon"], ["optimizer=sgd"]])
def test_a_save_waits_for_the_device_three_times_at_most(words: list[str], device: Device, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, *words)
    next(trainer.train_epoch())
    device.clear()
    trainer.save()
    assert device.synchronisations.total() <= 3, device.synchronisations
    trainer.writer.wait()
    saved, state = load_state(tmp_path / "last" / "state.pt"), fetch(trainer._state())
    assert saved.keys() == state.keys()
    for name, value in state["model"].items():
        assert torch.equal(saved["model"][name], value)


def test_training_goes_on_while_a_state_is_written(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is written is the state as it was when it was saved; the old file stays until then."""
    trainer = trainer_of(tmp_path, "optimizer=sgd", "optimizer.lr=0.1")
    trainer.save()
    trainer.writer.wait()
    old = (tmp_path / "last" / "state.pt").read_bytes()
    steps = trainer.train_epoch()
    next(steps)
    expected = fetch(trainer.model.state_dict())
    write, go_on = states.write_whole, threading.Event()
    monkeypatch.setattr(states, "write_whole", lambda *what: (go_on.wait(20), write(*what)))
    trainer.save()
    next(steps)
    assert (tmp_path / "last" / "state.pt").read_bytes() == old
    go_on.set()
    trainer.writer.wait()
    saved = load_state(tmp_path / "last" / "state.pt")
    assert saved["counters"]["step"] == 1 and trainer.state.step == 2
    for name, value in expected.items():
        assert torch.equal(saved["model"][name], value)


def test_where_a_state_could_not_be_written_the_next_one_is_written_at_once(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tmp_path, "optimizer=sgd")
    write = states.write_whole

    def full(*_: Any) -> None:
        raise RunError("no space left to write it; free some.")

    monkeypatch.setattr(states, "write_whole", full)
    trainer.save()
    with pytest.raises(RunError, match="no space left"):
        trainer.save()
    trainer.save()
    trainer.writer._thread.join()  # type: ignore[union-attr]
    monkeypatch.setattr(states, "write_whole", write)
    trainer.save()  # there is room again
    assert load_state(tmp_path / "last" / "state.pt")["counters"]["step"] == 0
    trainer.writer.wait()


def test_a_run_whose_last_state_cannot_be_written_ends_with_that_line(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = states.write_whole
    calls = []

    def full_at_last(*what: Any) -> None:
        calls.append(what)
        if len(calls) == 2:  # of a run of one epoch: before its first step, and after its last
            raise RunError("no space left to write it; free some.")
        write(*what)

    monkeypatch.setattr(states, "write_whole", full_at_last)
    words = [*SMALL, "trainer.epochs=1", "model=mlp", "model.hidden=[4]", f"run.dir={tmp_path / 'run'}"]
    with pytest.raises(RunError, match="no space left"):
        run_experiment(resolve(words).config, test=False)
    assert len(calls) == 2


# ---- evaluation

EVALUATED = {
    "classification": ["model=vgg", "test.views=mirror_shift"],
    "multilabel": ["data=multi_digits", "model=vgg"],
    "segmentation": [*PETS, "data.val_fraction=0.4", "model=unet", "model.depth=2", "trainer.dice=1", "augment=none"],
}


@pytest.mark.parametrize("task", EVALUATED)
def test_no_batch_of_an_evaluation_waits_for_the_device(
    task: str, pets: str, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often for one batch as for many."""
    words = [*EVALUATED[task], *([pets] if task == "segmentation" else [])]
    trainer = trainer_of(tmp_path, *words, "model.width=4")
    data, loader_of = trainer.data, Data.evaluation_loader

    def in_batches(count: int) -> Any:
        def loader(self: Data, images: Any) -> Any:
            numbers = self.split[images] if isinstance(images, str) else images
            return loader_of(self, images, -(-len(numbers) // count))

        return loader

    folded = []
    monkeypatch.setattr("cnnlab.training.forward.fold_batch_norm", lambda model, _: folded.append(model) or model)
    waits, metrics = [], []
    for count in (1, 1, 3):  # the first makes the constants
        monkeypatch.setattr(Data, "evaluation_loader", in_batches(count))
        folded.clear()
        device.clear()
        metrics.append(trainer.validate())
        assert len(folded) == 1
        evaluate_split(trainer.model, data, "test", data.config.test)
        waits.append(device.synchronisations.total())
    assert waits[1] == waits[2]
    assert metrics[1] == pytest.approx(metrics[2], rel=1e-5)


def test_pixels_are_counted_alike_on_the_device(device: Device) -> None:
    from cnnlab.tasks.segmentation import confusion

    answers, masks = torch.randint(3, (4, 6, 5)), torch.randint(3, (4, 6, 5))
    assert torch.equal(confusion(answers.to(NAME), masks.to(NAME), 3).cpu(), confusion(answers, masks, 3))
