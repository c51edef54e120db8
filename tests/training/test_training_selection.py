"""Which epoch is kept: the best on validation, and where few images tell that, the latest that is as good."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cnnlab
from cnnlab.config import compose
from cnnlab.experiment import run_experiment
from cnnlab.tasks import Metric
from cnnlab.training.selection import improves, is_kept

ACCURACY = Metric("accuracy")


def rows(accuracies: list[float | None], losses: list[float] | None = None) -> list[dict[str, Any]]:
    losses = losses or [1.0] * len(accuracies)
    return [
        {"val_accuracy": accuracy, "val_loss": None if accuracy is None else loss}
        for accuracy, loss in zip(accuracies, losses, strict=True)
    ]


def kept(history: list[dict[str, Any]], images: int, metric: Metric = ACCURACY) -> int:
    """Number of the epoch that is kept at the end, from 1."""
    return max(i for i, row in enumerate(history, 1) if is_kept(row, history[: i - 1], metric, images))


def test_with_many_images_the_best_epoch_is_kept_and_the_loss_breaks_ties() -> None:
    assert kept(rows([0.5, 0.9, 0.899]), 100) == 2
    assert kept(rows([0.9, 0.9, 0.9], [0.5, 0.4, 0.6]), 100) == 2


def test_with_few_images_the_latest_that_chance_does_not_tell_apart_is_kept() -> None:
    assert kept(rows([0.5, 0.9, 0.75, 0.75]), 20) == 4
    assert kept(rows([0.5, 0.9, 0.75, 0.65]), 20) == 3
    assert kept(rows([0.5, 1.0, 21 / 24]), 24) == 3  # all right by luck says little against three wrong
    assert kept(rows([0.5, 1.0, 20 / 24]), 24) == 2
    assert kept(rows([0.5, 0.9, 0.5], [0.6, 0.3, 9.0]), 99) == 2


def test_with_hardly_any_images_the_latest_is_kept_that_has_a_loss() -> None:
    assert kept(rows([1.0, 0.5, 0.5], [0.1, 0.9, 5.0]), 2) == 3
    assert kept(rows([1.0, 0.5, 0.5], [0.1, 0.9, math.nan]), 2) == 2


def test_without_validation_the_latest_is_kept() -> None:
    assert kept(rows([None, None, None]), 0) == 3


def test_a_metric_of_which_less_is_better_is_kept_at_its_best() -> None:
    history = [{"val_accuracy": 0.5, "val_loss": 1.0, "val_distance": d} for d in (3.0, 1.0, 1.1)]
    assert kept(history, 50, Metric("distance", higher=False)) == 2


def test_improving_is_what_early_stopping_counts() -> None:
    history = rows([0.5, 0.9, 0.85, 0.9])
    assert [improves(row, history[:i], ACCURACY) for i, row in enumerate(history)] == [True, True, False, False]


def test_thirty_images_are_not_tested_with_the_weights_of_the_first_epochs(tmp_path: Path) -> None:
    """Two validation images chose an epoch before anything was learned."""
    random = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 5)):
        for name, colour in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
            folder = tmp_path / "set" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.normal(0, 60, (16, 16, 3)) + colour
                Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    words = ["data=folder", f"data.root={tmp_path / 'set'}", "model=vgg", "model.width=4", "trainer.epochs=12"]
    run = run_experiment(compose([*words, "trainer.threads=1", "logger=none", f"run.dir={tmp_path / 'run'}"]))
    card = json.loads((tmp_path / "run" / "best" / "model.json").read_text())
    assert card["epoch"] == 12
    assert card["val_loss"] == run.history[-1]["val_loss"]
    assert cnnlab.evaluate(run.dir)["accuracy"] == run.test["accuracy"]  # type: ignore[index]
