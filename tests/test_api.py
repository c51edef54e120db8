"""From Python: the lines of the README as they stand, and what a user's own model and loop need."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cnnlab
from cnnlab.errors import CnnlabError, ConfigError, DataError, RunError
from cnnlab.models.registry import MODELS
from cnnlab.runs.weights import read_weights

if TYPE_CHECKING:
    from conftest import CommandLine

QUICK = ["logger=none", "trainer.precision=fp32"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of coloured noise, 32×32 pixels."""
    root = tmp_path_factory.mktemp("images") / "data"
    draw = np.random.default_rng(0)
    for number, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir(parents=True)
        for i in range(16):
            pixels = draw.integers(0, 80, (32, 32, 3), dtype=np.uint8)
            pixels[..., 2 - number] += 150
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def test_the_lines_of_the_design_work_as_written(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(images, tmp_path / "data")
    shutil.copy(images / "red" / "0.png", tmp_path / "a.png")
    shutil.copy(images / "blue" / "0.png", tmp_path / "b.png")
    monkeypatch.chdir(tmp_path)
    data = cnnlab.load_data("folder", root="data", val_fraction=0.25, batch_size=8)
    assert data.classes == ["blue", "green", "red"]
    assert data.num_classes == 3
    model = cnnlab.create_model("resnet", depth=8, num_classes=data.num_classes)
    assert "resnet" in cnnlab.list_models()
    run = cnnlab.fit(model, data, epochs=2, dir="runs/first")
    assert run.dir == Path("runs/first")
    assert len(run.history) == 2
    result = cnnlab.evaluate(run.dir, split="test")
    assert result == run.test == json.loads((run.dir / "test.json").read_text(encoding="utf-8"))
    model, card = cnnlab.load_run("runs/first")
    assert card == json.loads((run.dir / "best" / "model.json").read_text(encoding="utf-8"))
    assert card["classes"] == data.classes
    answers = cnnlab.Predictor.from_run("runs/first").predict(["a.png", "b.png"])
    assert {answer.label for answer in answers} <= set(data.classes)
    assert all(0 <= answer.probability <= 1 for answer in answers)
    assert set(answers[0].probabilities) == set(data.classes)
    assert cnnlab.geometry.conv_output_size(32, kernel_size=3, stride=1, padding=1, dilation=1) == 32


def test_the_command_line_and_python_give_the_same_run(command: CommandLine, tmp_path: Path) -> None:
    words = ["data.limit=60", "trainer.batch_size=20", "trainer.epochs=2", "model=mlp", "model.hidden=[8]", "seed=5"]
    result = command("train", *words, *QUICK, f"run.dir={tmp_path / 'command'}")
    assert result.code == 0, result.err
    data = cnnlab.load_data("digits", limit=60, batch_size=20, seed=5)
    model = cnnlab.create_model("mlp", hidden=[8], image_size=[8, 8], in_channels=1, num_classes=10)
    from cnnlab.config import compose
    from cnnlab.training.build import build_model

    started = build_model(compose([*words, *QUICK]), data)
    model.load_state_dict(started.state_dict())
    run = cnnlab.fit(model, data, epochs=2, dir=tmp_path / "python", overrides=QUICK)
    (ours, _), (theirs, _) = (
        read_weights(path / "best" / "model.safetensors") for path in (run.dir, tmp_path / "command")
    )
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    for name in ("test.json", "predictions.csv", "split.json"):
        assert (run.dir / name).read_bytes() == (tmp_path / "command" / name).read_bytes(), name


# ---- data


def test_loaders_give_batches_of_images_and_labels() -> None:
    data = cnnlab.load_data("digits", batch_size=50, limit=120)
    for loader, whole in ((data.train, [50, 50]), (data.val, [50, 50, 20]), (data.test, [50, 50, 20])):
        batches = list(loader)
        assert [len(labels) for _, labels in batches] == whole
        for images, labels in batches:
            assert images.shape[1:] == (1, 8, 8)
            assert images.dtype == torch.float32
            assert labels.dtype == torch.int64
            assert labels.min() >= 0
            assert labels.max() < data.num_classes
        assert len(loader) == len(whole)


def test_each_epoch_of_training_is_another_and_validation_is_always_the_same() -> None:
    data = cnnlab.load_data("digits", batch_size=100, limit=100)
    (first,), (second,) = list(data.train), list(data.train)
    assert not torch.equal(first[0], second[0])
    (first,), (second,) = list(data.val), list(data.val)
    assert torch.equal(first[0], second[0])


def test_a_wrong_key_is_answered_with_the_nearest() -> None:
    with pytest.raises(CnnlabError, match="'limit'"):
        cnnlab.load_data("digits", limt=3)
    with pytest.raises(ConfigError, match="'digits'"):
        cnnlab.load_data("digts")
    with pytest.raises(ConfigError, match="'light'"):
        cnnlab.load_data("digits", augment="ligth")
    with pytest.raises(ConfigError, match="batch_size"):
        cnnlab.load_data("digits", batch_size=0)
    with pytest.raises(CnnlabError):
        cnnlab.load_data("digits", val_fraction="half")
    with pytest.raises(CnnlabError):
        cnnlab.load_data("folder", root=Path("no where/it's=ü"))


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99"])
def test_a_device_that_is_none_is_refused(device: str) -> None:
    with pytest.raises(CnnlabError):
        cnnlab.load_data("digits", device=device)


@pytest.mark.parametrize("name", ["my photos", "it's, [a]=b", "日本 ü\\"])
def test_a_root_may_have_any_name(name: str, images: Path, tmp_path: Path) -> None:
    root = shutil.copytree(images, tmp_path / name)
    data = cnnlab.load_data("folder", root=root, batch_size=8)
    model = cnnlab.create_model("mlp", hidden=[2], image_size=32, in_channels=3, num_classes=3)
    run = cnnlab.fit(model, data, epochs=1, dir=tmp_path / f"run {name}", overrides=QUICK)
    assert cnnlab.evaluate(run.dir) == run.test


def test_a_set_is_audited_from_python() -> None:
    data = cnnlab.load_data("digits", limit=60)
    findings = cnnlab.audit(data)
    assert findings.leaks == []
    assert sum(row["train"] for row in findings.class_counts.values()) == 60


# ---- models


def test_a_model_is_summarised_from_python() -> None:
    summary = cnnlab.summarise(cnnlab.create_model("resnet", depth=20), (3, 32, 32))
    assert summary.parameters == 269_722
    assert summary.layers[0].arithmetic == ("32+2·1−3+1 = 32",)


@pytest.fixture
def own_model() -> Iterator[type[nn.Module]]:
    @cnnlab.register_model("own")
    class Own(cnnlab.Classifier):
        def __init__(self, filters: int = 4, in_channels: int = 1, num_classes: int = 10) -> None:
            super().__init__()
            self.num_classes = num_classes
            self.body = nn.Conv2d(in_channels, filters, 3, padding=1)
            self.head = nn.Linear(filters, num_classes)

        def forward_features(self, x: Tensor) -> Tensor:
            return self.body(x).relu()

        def forward_head(self, features: Tensor) -> Tensor:
            return self.head(features.mean((2, 3)))

    yield Own
    del MODELS["own"]


def test_a_users_own_model_is_trained_saved_and_rebuilt(own_model: type[nn.Module], tmp_path: Path) -> None:
    data = cnnlab.load_data("digits", limit=60, batch_size=20)
    run = cnnlab.fit(cnnlab.create_model("own", filters=6), data, epochs=1, dir=tmp_path / "run", overrides=QUICK)
    model, card = cnnlab.load_run(run.dir)
    assert isinstance(model, own_model)
    assert card["model"] == {"name": "own", "arguments": {"filters": 6, "in_channels": 1, "num_classes": 10}}
    assert cnnlab.evaluate(run.dir) == run.test


def test_a_users_own_model_that_nobody_registered_is_refused_by_name(
    own_model: type[nn.Module], tmp_path: Path
) -> None:
    data = cnnlab.load_data("digits", limit=60, batch_size=20)
    run = cnnlab.fit(cnnlab.create_model("own"), data, epochs=1, dir=tmp_path / "run", overrides=QUICK)
    registered = MODELS.pop("own")
    with pytest.raises(RunError, match="own"):
        cnnlab.load_run(run.dir)
    MODELS["own"] = registered


def test_a_module_of_ones_own_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = cnnlab.load_data("digits", limit=60, batch_size=20)
    with pytest.raises(ConfigError, match="cannot take images of 8×8 pixels"):
        cnnlab.fit(nn.Linear(3, 3), data, epochs=1, dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mlp", {"image_size": 9, "in_channels": 1}),
        ("mlp", {"image_size": 8, "in_channels": 3}),
        ("mlp", {"image_size": 8, "in_channels": 1, "num_classes": 3}),
        ("vgg", {"in_channels": 3}),
        ("vgg", {"in_channels": 1, "num_classes": 11}),
        ("vgg", {"in_channels": 1, "blocks": 5, "image_size": 32}),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused_before_anything_is_written(
    name: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    data = cnnlab.load_data("digits", limit=60, batch_size=20)
    with pytest.raises(CnnlabError) as caught:
        cnnlab.fit(cnnlab.create_model(name, **arguments), data, epochs=1, dir=tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_model_with_a_new_classifier_can_be_trained_and_rebuilt(tmp_path: Path) -> None:
    data = cnnlab.load_data("digits", limit=60, batch_size=20)
    model = cnnlab.create_model("mlp", hidden=[4], image_size=8, num_classes=3)
    model.reset_classifier(10)  # type: ignore[operator]
    run = cnnlab.fit(model, data, epochs=1, dir=tmp_path / "run", overrides=QUICK)
    assert cnnlab.evaluate(run.dir) == run.test


# ---- fit


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("++seed=7", "load_data"),
        ("+trainer.batch_size=4", "load_data"),
        ("augment=none", "load_data"),
        ("model.hidden=[9]", "create_model"),
        ("++model.hidden=[9]", "create_model"),
    ],
)
def test_what_data_and_model_have_settled_cannot_be_overridden_in_fit(tmp_path: Path, override: str, fix: str) -> None:
    data = cnnlab.load_data("digits", limit=60, batch_size=20)
    model = cnnlab.create_model("mlp", hidden=[8], image_size=8)
    with pytest.raises(ConfigError, match=f"give it to cnnlab.{fix} instead"):
        cnnlab.fit(model, data, epochs=1, dir=tmp_path / "run", overrides=[override])
    assert not (tmp_path / "run").exists()


def small(epochs: int, folder: Path, *overrides: str, seed: int = 0) -> cnnlab.Run:
    torch.manual_seed(seed)
    data = cnnlab.load_data("digits", limit=60, batch_size=20, augment="none")
    model = cnnlab.create_model("mlp", hidden=[4], image_size=8)
    return cnnlab.fit(model, data, epochs=epochs, dir=folder, overrides=[*QUICK, *overrides])


def test_fit_without_a_folder_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = cnnlab.load_data("digits", limit=60, batch_size=20)
    model = cnnlab.create_model("mlp", hidden=[4], image_size=8)
    first, second = (cnnlab.fit(model, data, epochs=1, overrides=QUICK) for _ in range(2))
    assert first.dir != second.dir
    assert first.dir.parent == Path("runs")


def test_fit_refuses_the_folder_of_another_run(tmp_path: Path) -> None:
    small(1, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="already holds a run"):
        small(1, tmp_path / "run")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_fit_takes_the_epochs_of_the_recipe_unless_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.epochs"):
        small(0, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fit_trains_the_model_it_was_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = cnnlab.load_data("digits", limit=60, batch_size=20, augment="none")
    model = cnnlab.create_model("mlp", hidden=[4], image_size=8)
    before = model.state_dict()["head.weight"].clone()
    cnnlab.fit(model, data, epochs=1, dir=tmp_path / "run", overrides=[*QUICK, "trainer.ema=null"])
    assert not torch.equal(model.state_dict()["head.weight"], before)


def test_a_run_of_fit_that_was_killed_before_its_first_epoch_goes_on_from_its_own_weights(
    command: CommandLine, tmp_path: Path
) -> None:
    """Its weights may come from anywhere, so the seed alone cannot bring them back."""
    unbroken = small(2, tmp_path / "unbroken", seed=1234)
    killed = tmp_path / "killed"

    class Stop(BaseException):
        pass

    class Killer:
        def log(self, event: object) -> None:
            raise Stop

        def close(self) -> None:
            pass

    torch.manual_seed(1234)
    data = cnnlab.load_data("digits", limit=60, batch_size=20, augment="none")
    model = cnnlab.create_model("mlp", hidden=[4], image_size=8)
    with pytest.raises(Stop):
        cnnlab.fit(model, data, epochs=2, dir=killed, overrides=QUICK, trackers=[Killer()])
    result = command("resume", killed)
    assert result.code == 0, result.err
    (ours, _), (theirs, _) = (read_weights(path / "best" / "model.safetensors") for path in (killed, unbroken.dir))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_data_error_is_a_cnnlab_error_for_except() -> None:
    assert issubclass(DataError, cnnlab.CnnlabError)
