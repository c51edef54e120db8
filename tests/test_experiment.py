"""One run from one config: what is checked before anything is written, and what is written."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

import cnnlab
from cnnlab.config import Config, compose
from cnnlab.data.data import Data
from cnnlab.errors import ConfigError, RunError
from cnnlab.evaluation.evaluate import run_test
from cnnlab.experiment import resume_experiment, run_experiment
from cnnlab.models.registry import create_model, model_spec
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.space import check_space
from cnnlab.runs.state import load_state
from cnnlab.tasks import task_of
from cnnlab.training.build import build_model, check_fit
from cnnlab.training.describe import describe_run

SMALL = ["data.limit=60", "trainer.epochs=2", "trainer.batch_size=20", "model=mlp", "model.hidden=[8]", "logger=none"]


@pytest.fixture(scope="module")
def data() -> Data:
    return cnnlab.load_data("digits", limit=60, batch_size=20)


def config(folder: Path | None = None, *overrides: str) -> Config:
    return compose([*SMALL, *([f"run.dir={folder}"] if folder else []), *overrides])


# ---- the model of a config


def test_the_model_fits_the_data_without_being_told(data: Data) -> None:
    name, arguments = model_spec(build_model(config(), data))
    assert name == "mlp"
    assert arguments["in_channels"] == 1
    assert arguments["num_classes"] == 10
    assert arguments["image_size"] == [8, 8]
    assert arguments["hidden"] == [8]


def test_first_weights_come_from_the_seed_alone(data: Data) -> None:
    first = build_model(config(), data).state_dict()
    torch.rand(17)
    again = build_model(config(), data).state_dict()
    other = build_model(config(None, "seed=1"), data).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mlp", {"image_size": 9}),
        ("mlp", {"image_size": 8, "num_classes": 9}),
        ("vgg", {"in_channels": 3}),
        ("vgg", {"in_channels": 1, "image_size": 64, "blocks": 5}),
        ("resnet", {"in_channels": 1, "num_classes": 2}),
    ],
)
def test_a_model_that_does_not_fit_is_told_how(name: str, arguments: dict[str, Any], data: Data) -> None:
    with pytest.raises(cnnlab.CnnlabError) as caught:
        check_fit(create_model(name, **arguments), data, task_of(data.config, data))
    assert len(str(caught.value).splitlines()) == 1
    assert any(word in str(caught.value) for word in ("image_size", "num_classes", "model."))


def test_checking_the_fit_changes_nothing(data: Data) -> None:
    model = create_model("resnet", depth=8, in_channels=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_fit(model, data, task_of(data.config, data))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_description_says_what_a_person_wants_to_know(data: Data) -> None:
    facts = describe_run(create_model("mlp", hidden=[8], image_size=8), data)
    assert facts["data"] == "digits: 10 classes, 8×8×1, 60 / 60 / 60 train / val / test"
    assert "mlp" in facts["model"]
    assert f"{65 * 8 + 9 * 10:,} parameters" in facts["model"]


# ---- a whole run


def test_a_run_gives_its_folder_history_and_test(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    run = run_experiment(config(tmp_path / "run"), progress=lambda done, total: steps.append((done, total)))
    assert run.dir == tmp_path / "run"
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert run.history == RunFolder(run.dir).history()
    assert run.test is not None
    assert steps == []  # digits need no decoding


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    run = run_experiment(config(tmp_path / "run"))
    again, anything = resume_experiment(run.dir)
    assert again == run
    assert anything is False


def test_the_test_is_done_once_and_after_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnlab import experiment

    tests: list[Path] = []

    def spy(folder: RunFolder, *given: Any) -> Any:
        tests.append(folder.path)
        assert len(folder.history()) == 2
        return run_test(folder, *given)

    monkeypatch.setattr(experiment, "run_test", spy)
    run_experiment(config(tmp_path / "run"))
    assert tests == [tmp_path / "run"]


# ---- room on the disk


usage = namedtuple("usage", ["total", "used", "free"])


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(RunError, match="no space left"):
        run_experiment(config(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_room_is_asked_for_where_the_folder_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Data
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(Path(path)) or usage(1, 1, 10**12))
    model = create_model("mlp", hidden=[8], image_size=8)
    monkeypatch.chdir(tmp_path)
    check_space(RunFolder(Path("a/b/c")), model)
    check_space(RunFolder(tmp_path / "x"), model)
    assert asked == [tmp_path, tmp_path]


def test_a_disk_that_fills_up_while_training_leaves_the_last_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        name = os.readlink(f"/proc/self/fd/{handle}") if os.path.exists("/proc/self/fd") else ""
        calls += "state.pt" in name
        if calls >= 2 and "state.pt" in name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc to know which file is written")
    monkeypatch.setattr(os, "fsync", full)
    folder = tmp_path / "run"
    with pytest.raises(RunError, match="no space left"):
        run_experiment(config(folder, "trainer.epochs=4"))
    assert not list(folder.rglob("*.tmp"))
    assert load_state(folder / "last" / "state.pt")["counters"]["epoch"] < 4
    monkeypatch.setattr(os, "fsync", real)
    run, anything = resume_experiment(folder)
    assert anything
    assert len(run.history) == 4


def test_a_model_of_one_size_and_images_that_grow_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["model=mlp", "data.image_size=16", "augment.start_size=0.5", f"run.dir={folder}"]
    words = [*(word for word in SMALL if not word.startswith("model")), *words]
    with pytest.raises(ConfigError, match=r"one size only.*augment\.start_size=1 augment\.end_size=1"):
        run_experiment(compose(words))
    assert not folder.exists()
    run_experiment(compose([*words, "augment.start_size=1", "augment.end_size=1"]))


@pytest.mark.parametrize("key", ["start_size", "end_size"])
def test_every_size_that_images_grow_through_is_checked_before_anything_is_written(tmp_path: Path, key: str) -> None:
    words = ["model=vgg", "model.blocks=4", "model.width=4", f"augment.{key}=0.25", f"run.dir={tmp_path / 'run'}"]
    with pytest.raises(ConfigError, match=r"augment\.start_size, augment\.end_size"):
        run_experiment(compose([*(word for word in SMALL if not word.startswith("model")), *words]))
    assert not (tmp_path / "run").exists()
