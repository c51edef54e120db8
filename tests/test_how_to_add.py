"""CONTRIBUTING.md's guide: its file adds one of each outside of the package, and its commands run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cnnlab.cli import main

GUIDE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## How to add")[1]


def test_the_guide_adds_one_of_each_outside_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, commands = re.findall(r"```(?:python)?\n(.*?)```", GUIDE, flags=re.DOTALL)[:2]
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    printed = []
    for line in commands.splitlines():
        words = line.split()
        assert main([*words[1:], *["trainer.threads=1"] * (words[1] == "train")]) == 0, capsys.readouterr().err
        printed.append(capsys.readouterr().out)
    labels = json.loads(Path("runs/labels/test.json").read_text())
    margin = labels["metrics"]["mine:margin"]
    assert margin["interval"][0] < margin["value"] < margin["interval"][1]
    assert re.search(r"margin +-?[\d.]+ +-?[\d.]+–", printed[1])
    assert "margin" in Path("runs/labels/report.html").read_text(encoding="utf-8")
    steps = json.loads(Path("runs/steps/test.json").read_text())
    assert steps["task"] == "ordinal" and 0 < steps["distance"] < 1
    assert "distance" in printed[3]
    card = json.loads(Path("runs/steps/best/model.json").read_text())
    history = [json.loads(line) for line in Path("runs/steps/metrics.jsonl").read_text().splitlines()]
    assert card["val_distance"] == min(row["val_distance"] for row in history)  # the smaller, the better


def test_code_that_a_run_names_is_run_only_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ownloss.py").write_text(
        "import torch.nn.functional as F\ndef loss(logits, labels):\n    return F.cross_entropy(logits, labels)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["data.limit=60", "trainer.epochs=1", "model=mlp", "logger=none"]
    assert main(["train", *words, "trainer.loss=ownloss:loss", "run.dir=run"]) == 0
    from cnnlab.tasks.losses import LOSSES

    del LOSSES.known["ownloss:loss"]
    capsys.readouterr()
    assert main(["train", "--config", "run/config.yaml", "run.dir=other"]) == 2
    assert "trainer.loss=ownloss:loss is code that config run/config.yaml names" in capsys.readouterr().err
    assert main(["test", "run"]) == 2
    assert "is code of your own and is not imported; add --trust-code" in capsys.readouterr().err
    assert main(["test", "run", "--trust-code"]) == 0


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("trainer.loss=focla", "must be cross_entropy, focal, mse, or module:name, got 'focla'"),
        ("task=clasification", "Did you mean 'classification'?"),
        ("task=segmentation", "is for a class of every pixel; here each image has one label"),
        ("test.metrics=[nope]", "test.metrics must be module:name, got 'nope'"),
        ("test.metrics=math:sqrt", "math:sqrt"),
    ],
)
def test_wrong_names_are_one_line(word: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data.limit=60", "trainer.epochs=1", "model=mlp", "logger=none", f"run.dir={tmp_path / 'run'}"]
    assert main(["train", *words, word]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
