"""`load_data` and `fit` take what the user's own recipes and experiments say, as the command line does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import cnnlab
from cnnlab.cli import main
from cnnlab.config import compose, load_yaml
from cnnlab.data import own
from cnnlab.data.recommend import compose_for_set
from cnnlab.errors import ConfigError

QUIET = ["logger=none", "trainer.precision=fp32"]
SETS = """
import torch
from torch.utils.data import TensorDataset

def make():
    return TensorDataset(torch.rand(24, 1, 8, 8), torch.arange(24) % 2)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 40 images of two classes in `photos`; the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(own, "DATASETS", {})
    draw = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(0, 256, (24, 24 + number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path


def write(name: str, text: str) -> None:
    file = Path("conf") / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def net(channels: int = 1) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 2))


def own_set() -> TensorDataset:
    return TensorDataset(torch.rand(24, 1, 8, 8), torch.arange(24) % 2)


# ---- load_data


def test_load_data_takes_what_the_users_own_recipe_says(here: Path) -> None:
    write("recipe/folder", "defaults: [folder]\ndata: {image_size: 40}\ntrainer: {batch_size: 20}\n")
    data = cnnlab.load_data("folder", root="photos")
    assert (data.image_size, data.config.trainer.batch_size) == ((40, 40), 20)
    config = compose_for_set(["data=folder", "data.root=photos"])
    assert (config.data.image_size, config.trainer.batch_size) == ([40, 40], 20)


def test_load_data_recommends_what_no_recipe_of_the_user_says(here: Path) -> None:
    data = cnnlab.load_data("folder", root="photos")
    assert (data.image_size, data.config.trainer.batch_size) == ((32, 32), 8)
    assert cnnlab.load_data("digits").config.trainer.batch_size == 128


def test_load_data_runs_no_code_that_a_file_names(here: Path) -> None:
    Path("sets_of_mine.py").write_text(SETS)
    write("data/mine", "name: sets_of_mine:make\n")
    with pytest.raises(ConfigError, match="trust_code=True"):
        cnnlab.load_data("mine")
    assert cnnlab.load_data("mine", augment="none", trust_code=True).num_classes == 2


# ---- fit


def test_fit_takes_the_recipe_of_the_option_by_which_the_set_was_loaded(here: Path) -> None:
    write("data/scans", "name: folder\nroot: photos\nimage_size: 8\n")
    write("recipe/scans", "defaults:\n  - folder\n  - override /optimizer: sgd\ntrainer: {epochs: 2}\n")
    run = cnnlab.fit(net(3), cnnlab.load_data("scans"), dir="run", overrides=QUIET, progress=False)
    config = load_yaml(run.dir / "config.yaml")
    assert (len(run.history), config.optimizer["name"]) == (2, "SGD")


def test_fit_on_a_dataset_takes_what_an_experiment_says(here: Path) -> None:
    write("experiment/e", "defaults: [override /optimizer: sgd]\ntrainer: {epochs: 1, batch_size: 6}\n")
    run = cnnlab.fit(net(), own_set(), dir="run", overrides=[*QUIET, "experiment=e"], progress=False)
    config = load_yaml(run.dir / "config.yaml")
    assert (config.optimizer["name"], config.trainer.epochs, config.trainer.batch_size) == ("SGD", 1, 6)
    run = cnnlab.fit(net(), own_set(), dir="other", epochs=1, overrides=QUIET, progress=False)
    config = load_yaml(run.dir / "config.yaml")
    assert (config.optimizer["name"], config.trainer.batch_size) == ("AdamW", 8)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("seed: 3", "seed=3"),
        ("trainer: {batch_size: 7}", "trainer.batch_size=7"),
        ("augment: {rotation: 5}", "augment.rotation=5.0"),
        ("defaults: [override /data: mnist]", "data.name=mnist"),
        ("data: {limit: 50}", "data.limit=50"),
    ],
)
def test_fit_refuses_what_an_experiment_says_of_settled_data(text: str, what: str, here: Path) -> None:
    write("experiment/e", f"{text}\n")
    data = cnnlab.load_data("digits", limit=60)
    with pytest.raises(ConfigError, match=rf"{what} of experiment e .*give it to cnnlab.load_data"):
        cnnlab.fit(net(), data, epochs=1, dir="run", overrides=[*QUIET, "experiment=e"], progress=False)
    assert not Path("run").exists()


def test_fit_takes_an_experiment_that_says_what_the_data_has(here: Path) -> None:
    write("experiment/e", "seed: 3\ntrainer: {batch_size: 16, epochs: 1}\n")
    data = cnnlab.load_data("digits", limit=60, seed=3, batch_size=16)
    model = cnnlab.create_model("mlp", in_channels=1, num_classes=10, image_size=8)
    assert len(cnnlab.fit(model, data, dir="run", overrides=[*QUIET, "experiment=e"], progress=False).history) == 1


# ---- code that files name, from the command line


def test_commands_run_code_that_a_file_names_only_where_it_is_trusted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("ran.py").write_text("from pathlib import Path\nPath('ran').touch()\ndef make():\n    raise OSError('made')\n")
    write("data/digits", "name: ran:make\n")
    Path("evil.yaml").write_text("data: {name: 'ran:make'}\n")
    Path("grid.yaml").write_text("overrides: ['data=ran:make']\naxes: {seed: [0, 1]}\n")
    write("data/scans", "name: folder\n")
    for words in (
        ["data", "digits"],
        ["train", "data=digits"],
        ["train", "--config", "evil.yaml"],
        ["study", "data=digits", "trainer.epochs=1,2"],
        ["study", "grid.yaml", "--dry-run"],
        ["study", "learning_rate_range", "data=digits"],
    ):
        assert main(words) == 2, words
        assert "--trust-code" in capsys.readouterr().err
    assert not Path("ran").exists()
    assert main(["data", "digits", "--trust-code"]) == 2
    assert "made" in capsys.readouterr().err and Path("ran").exists()


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "here:unrelated"])
def test_what_gives_no_set_is_never_called(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("here.py").write_text("from shutil import rmtree as unrelated\n")
    assert main(["data", name]) == 2
    assert "must name a torch Dataset or DataLoader" in capsys.readouterr().err


# ---- what is shown needs no images


@pytest.mark.parametrize("how", ["--explain", "--options"])
def test_what_is_shown_is_what_would_be_used(how: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "data=folder", "data.root=photos", how]) == 0
    shown = capsys.readouterr().out
    assert "batch_size: 8 " in shown or "batch_size=8\n" in shown
    assert "set: " in shown and "cannot be read" not in shown


@pytest.mark.parametrize("how", ["--explain", "--options"])
@pytest.mark.parametrize("words", [["data=folder", "data.root=nowhere"], ["data=mnist", "data.limit=500"]])
def test_showing_settings_needs_no_images_and_fetches_none(
    how: str, words: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words, how]) == 0
    shown = capsys.readouterr().out
    assert "which cannot be read" in shown and "trainer" in shown
    assert not Path("data").exists()


# ---- tuned values of the user's own


def test_tuned_values_of_the_users_own_recipe_are_not_overruled(here: Path) -> None:
    write("recipe/folder", "tuned:\n  model.convnet: {width: 24}\n")
    words = ["data=folder", "data.root=photos", "data.image_size=64"]
    assert compose(words).model["width"] == 24
    assert compose_for_set(words).model["width"] == 24
