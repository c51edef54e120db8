"""What docs/studies.md says, done."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cnnlab.study.definition import define, names
from cnnlab.study.plan import plan

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_its_commands_are_studies() -> None:
    lines = [line for language, block in BLOCKS if not language for line in block.splitlines()]
    commands = [shlex.split(line)[2:] for line in lines if line.startswith("cnnlab study ") and "--list" not in line]
    commands += [shlex.split(line)[2:] for line in re.findall(r"`(cnnlab study \w+ [^`]+)`", PAGE)]
    assert len(commands) >= 3
    for words in commands:
        assert plan(define([word for word in words if not word.startswith("--") and not word.isdecimal()], seeds=1))


def test_it_names_every_study_that_comes_with_cnnlab() -> None:
    section = PAGE.split("## Built-in studies")[1].split("## ")[0]
    assert set(re.findall(r"`(\w+)`", section)) == set(names())


def test_its_example_is_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        next(block for language, block in BLOCKS if language == "yaml"), encoding="utf-8"
    )
    assert [run.combination.label for run in plan(define(["mine.yaml"], seeds=1))] == [
        "small, sgd",
        "small, adamw",
        "large, sgd",
        "large, adamw",
    ]


def script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text, encoding="utf-8")
    return subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=300)


def test_its_python_runs_as_a_script(tmp_path: Path) -> None:
    done = script(tmp_path, next(block for language, block in BLOCKS if language == "python"))
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["lr=0.02", "lr=0.1"]


def test_a_script_without_the_line_that_it_asks_for_is_told_so(tmp_path: Path) -> None:
    done = script(tmp_path, 'import cnnlab\ncnnlab.run_study("optimizer.lr=0.02,0.1", "trainer.epochs=1", seeds=1)\n')
    assert done.returncode == 1
    assert 'put the call under `if __name__ == "__main__":`' in done.stderr
