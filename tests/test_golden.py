"""What a change of the code must not change: the losses of ten steps, and that a seed gives the same run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import CommandLine

# 100 digits in batches of 100, so an epoch is a step; float32, whose sums other processors take in another order.
SETTINGS = ["data=digits", "data.limit=100", "trainer.batch_size=100", "trainer.epochs=10", "trainer.precision=fp32"]
SETTINGS += ["augment=light", "logger=none"]
TOLERANCE = 1e-3  # of a loss; two versions of one library on one processor differ by less than 1e-5
MODELS = {
    "mlp": ["model=mlp", "model.hidden=[32]", "optimizer=adamw", "optimizer.lr=0.01"],
    "resnet": ["model=resnet", "model.depth=8", "model.width=4", "optimizer=muon"],
    "vgg": ["model=vgg", "model.width=4", "optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.9"],
}
GOLDEN: dict[str, list[float]] = {"mlp": [], "resnet": [], "vgg": []}


def losses(run: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_ten_steps_lose_what_they_lost(name: str, cnnlab: CommandLine, tmp_path: Path) -> None:
    cnnlab("train", *SETTINGS, *MODELS[name], "trainer.threads=1", f"run.dir={tmp_path / 'run'}")
    assert losses(tmp_path / "run") == pytest.approx(GOLDEN[name], rel=TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_seed_gives_the_same_run_again(precision: str, cnnlab: CommandLine, tmp_path: Path) -> None:
    """Byte for byte on one machine with one number of threads. With another number, sums are taken in another order:
    then the runs are alike, not equal."""
    words = [*SETTINGS, *MODELS["resnet"], f"trainer.precision={precision}"]
    for threads in (1, 2):
        for time in ("first", "second"):
            cnnlab("train", *words, f"trainer.threads={threads}", f"run.dir={tmp_path / f'{time}-{threads}'}")
        first, second = (tmp_path / f"{time}-{threads}" for time in ("first", "second"))
        weights = Path("best", "model.safetensors")
        assert (first / weights).read_bytes() == (second / weights).read_bytes()
        assert losses(first) == losses(second)
    one, two = (losses(tmp_path / f"first-{threads}") for threads in (1, 2))
    assert one == pytest.approx(two, rel=TOLERANCE if precision == "fp32" else 0.05)
    cnnlab("train", *words, "seed=1", "trainer.threads=1", f"run.dir={tmp_path / 'other'}")
    assert losses(tmp_path / "other") != one
