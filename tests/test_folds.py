"""k-fold cross-validation: each image is validated once, the test split stays apart, an interrupted one goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from cnnlab import folds
from cnnlab.cli import main
from cnnlab.config import DataConfig, compose
from cnnlab.data.split import make_split
from cnnlab.errors import ConfigError, DataError, Interrupted, RunError
from cnnlab.folds import run_folds, summary

LABELS = np.repeat(np.arange(4), [30, 20, 9, 1])
WORDS = ["data.limit=120", "data.folds=3", "trainer.epochs=2", "trainer.batch_size=20", "logger=none", "model=mlp"]


def split(**keys: object) -> object:
    config = dataclasses.replace(DataConfig(), **keys)  # type: ignore[arg-type]
    return make_split(LABELS, np.ones(len(LABELS), bool), None, config, 0)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_each_image_is_validated_once_and_the_test_split_is_the_same(folds: int) -> None:
    whole = split(folds=folds)
    parts = [split(folds=folds, fold=fold) for fold in range(folds)]
    assert not len(whole.val)
    validated = np.concatenate([part.val for part in parts])
    assert len(set(validated)) == len(validated)
    alone = [number for number in whole.train if (LABELS[whole.train] == LABELS[number]).sum() == 1]
    assert sorted([*validated, *alone]) == whole.train.tolist()
    for part in parts:
        assert (part.test == whole.test).all()
        assert sorted([*part.train, *part.val]) == whole.train.tolist()
        counts = np.bincount(LABELS[part.val], minlength=4)
        assert (np.abs(counts[:3] - np.bincount(LABELS[whole.train], minlength=4)[:3] / folds) < 1).all()


def test_more_folds_than_images_and_a_split_of_its_own_are_refused() -> None:
    with pytest.raises(DataError, match="lower it"):
        split(folds=90, fold=80)
    official = np.where(np.arange(len(LABELS)) % 2, "train", "val")
    with pytest.raises(DataError, match="validation split"):
        make_split(LABELS, np.ones(len(LABELS), bool), official, DataConfig(folds=3, fold=0), 0)
    with pytest.raises(ConfigError, match=r"one of data\.folds"):
        DataConfig(fold=1)


def test_the_command_trains_each_fold_and_a_final_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *WORDS, "run.dir=run"]) == 0
    found = json.loads((tmp_path / "run" / "folds.json").read_text())
    histories = [
        [json.loads(line) for line in (tmp_path / "run-folds" / str(fold) / "metrics.jsonl").read_text().splitlines()]
        for fold in (1, 2, 3)
    ]
    assert found == summary([history[-1]["val_accuracy"] for history in histories])
    assert "3 folds: validation accuracy" in capsys.readouterr().out
    assert not list((tmp_path / "run-folds").rglob("test.json"))  # the test split is touched once, by the final one
    assert json.loads((tmp_path / "run" / "test.json").read_text())["n"] == 120
    assert json.loads((tmp_path / "run" / "split.json").read_text())["sizes"]["val"] == 0
    assert "Cross-validation" in (tmp_path / "run" / "report.html").read_text()
    assert main(["train", *WORDS, "run.dir=run"]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_an_interrupted_one_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compose([*WORDS, f"run.dir={tmp_path / 'whole'}"])
    _, expected = run_folds(whole, list)
    config = compose([*WORDS, f"run.dir={tmp_path / 'run'}"])
    trained, real = [], folds.run_experiment

    def stopping(part: object, *rest: object, **keys: object) -> object:
        trained.append(part)
        if len(trained) == 2:
            raise Interrupted("stopped")
        return real(part, *rest, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(folds, "run_experiment", stopping)
    with pytest.raises(Interrupted, match="--resume"):
        run_folds(config, list)
    with pytest.raises(RunError, match="--resume"):
        run_folds(config, list)
    monkeypatch.setattr(folds, "run_experiment", real)
    run, found = run_folds(config, list, resume=True)
    assert found == expected
    assert run.test is not None


@pytest.mark.parametrize("words", [["trainer.devices=2"], ["trainer.early_stopping=3"], ["run.dir=gs://bucket/run"]])
def test_what_folds_cannot_do_is_one_line(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.folds"):
        run_folds(compose([*WORDS, *words]), list)
