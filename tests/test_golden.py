"""What a change of the code must not change: the losses of ten steps, that a seed gives the same run again, and that
every option trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import cnnlab

if TYPE_CHECKING:
    from conftest import CommandLine

# 100 digits in batches of 100, so an epoch is a step; float32, whose sums other processors take in another order.
SETTINGS = ["data=digits", "data.limit=100", "trainer.batch_size=100", "trainer.epochs=10", "trainer.precision=fp32"]
SETTINGS += ["augment=light", "logger=none"]
TOLERANCE = 1e-4  # of a loss; one and two threads differ by 8·10⁻⁶ at most
MODELS = {
    "mlp": ["model=mlp", "model.hidden=[32]", "optimizer=adamw", "optimizer.lr=0.01"],
    "resnet": ["model=resnet", "model.depth=8", "model.width=4", "optimizer=muon"],
    "vgg": ["model=vgg", "model.width=4", "optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.9"],
}
GOLDEN = {
    "mlp": [2.299891, 2.270002, 2.200973, 2.120346, 2.002141, 1.878382, 1.792577, 1.711378, 1.627066, 1.666362],
    "resnet": [2.303874, 2.2979, 2.287395, 2.280464, 2.270684, 2.258001, 2.252191, 2.245308, 2.24019, 2.239156],
    "vgg": [2.302783, 2.302895, 2.301541, 2.300627, 2.298815, 2.297135, 2.296424, 2.295407, 2.294996, 2.294526],
}


def losses(run: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_ten_steps_lose_what_they_lost(name: str, command: CommandLine, tmp_path: Path) -> None:
    command("train", *SETTINGS, *MODELS[name], "trainer.threads=1", f"run.dir={tmp_path / 'run'}")
    assert losses(tmp_path / "run") == pytest.approx(GOLDEN[name], rel=TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_seed_gives_the_same_run_again(precision: str, command: CommandLine, tmp_path: Path) -> None:
    """Byte for byte on one machine with one number of threads. With another number, sums are taken in another order:
    then the runs are alike, not equal."""
    words = [*SETTINGS, *MODELS["resnet"], f"trainer.precision={precision}"]
    for threads in (1, 2):
        for time in ("first", "second"):
            command("train", *words, f"trainer.threads={threads}", f"run.dir={tmp_path / f'{time}-{threads}'}")
        first, second = (tmp_path / f"{time}-{threads}" for time in ("first", "second"))
        weights = Path("best", "model.safetensors")
        assert (first / weights).read_bytes() == (second / weights).read_bytes()
        assert losses(first) == losses(second)
    one, two = (losses(tmp_path / f"first-{threads}") for threads in (1, 2))
    assert one == pytest.approx(two, rel=TOLERANCE if precision == "fp32" else 0.05)
    command("train", *words, "seed=1", "trainer.threads=1", f"run.dir={tmp_path / 'other'}")
    assert losses(tmp_path / "other") != one


OPTIONS = Path(cnnlab.__file__).parent / "conf"
ELSEWHERE = {
    "any",
    "adabn",
    "dann",
    "finetune",
    "source_only",
    "mnist_m_seg",
    "oxford_pets",
    "wandb",
}  # tested with their data


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen coloured images of 32 pixels in two classes."""
    root, numbers = tmp_path_factory.mktemp("images"), np.random.Generator(np.random.PCG64(0))
    for split in ("train", "test"):
        for label in ("dark", "light"):
            (root / split / label).mkdir(parents=True)
            for i in range(8):
                pixels = numbers.integers(0, 128, (32, 32, 3), dtype=np.uint8) + (label == "light") * np.uint8(100)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")
    return root


@pytest.mark.parametrize(
    "option",
    [
        f"{group}={file.stem}"
        for group in ("augment", "logger", "optimizer", "recipe", "schedule")
        for file in sorted((OPTIONS / group).glob("*.yaml"))
        if file.stem not in ELSEWHERE
    ],
)
def test_every_option_trains_for_two_steps(option: str, images: Path, command: CommandLine, tmp_path: Path) -> None:
    words = ["data=folder", f"data.root={images}", "data.val_fraction=0", "data.image_size=32", option]
    small = ["trainer.epochs=1", "trainer.batch_size=8", f"run.dir={tmp_path / 'run'}"]
    small += [] if "speedrun" in option else ["model.width=4"]  # its network has widths
    result = command("train", *words, *small)
    assert result.code == 0, result.err
    (row,) = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert row["step"] == 2 and np.isfinite(row["train_loss"])
    assert json.loads((tmp_path / "run" / "test.json").read_text())["n"] == 16
