"""What docs/options.md says, done: its files, its commands, its Python."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from cnnlab.cli import main
from cnnlab.config import load_yaml, resolve
from cnnlab.study.definition import define
from cnnlab.study.plan import plan

PAGE = (Path(__file__).parents[1] / "docs" / "options.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^(conf/\S+\.yaml):\n```yaml\n(.*?)```", PAGE, flags=re.MULTILINE | re.DOTALL))
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, flags=re.DOTALL)
LINES = [line for language, block in BLOCKS if not language for line in block.splitlines()]
COMMANDS = [shlex.split(line)[1:] for line in LINES if line.startswith("cnnlab ")]
SHORT = ["data.limit=40", "trainer.threads=1", "trainer.batch_size=16", "trainer.epochs=10"]


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root, before = tmp_path_factory.mktemp("options"), Path.cwd()
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    numbers = np.random.default_rng(0)
    for folder in ("scans/a", "scans/b"):
        (root / folder).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(numbers.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / folder / f"{i}.png")
    os.chdir(root)
    try:
        assert main(["train", "run.dir=runs/mine", "model=mlp", "trainer.epochs=1", *SHORT[:3]]) == 0
        yield root
    finally:
        os.chdir(before)


def test_the_page_names_the_files_that_it_shows() -> None:
    shown = {f"conf/{name}" for name in re.findall(r"^  (\w+/\w+\.yaml) ", PAGE, flags=re.MULTILINE)}
    assert shown == set(FILES)
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_works(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if words[0] == "study":
        seeds = int(words[words.index("--seeds") + 1])
        given = [word for word in words[1:] if "=" in word]
        assert len(plan(define(given, seeds))) == 2 * seeds
    elif words[0] == "train" and not {"--options", "--explain"} & set(words):
        epochs = [] if "trainer.epochs=12" in words else SHORT[3:] if "experiment=first" in words else []
        assert main([*words, *SHORT[:3], *epochs]) == 0
    else:
        assert main(words) == 0
        assert capsys.readouterr().out


def test_its_python_works() -> None:
    scope: dict[str, Any] = {}
    exec(next(block for language, block in BLOCKS if language == "python"), scope)
    assert scope["config"].seed == 3
    written = load_yaml(scope["run"].dir / "config.yaml")
    assert (written.optimizer["name"], written.trainer.label_smoothing) == ("AdamW", 0.1)


def test_its_experiment_is_what_it_says() -> None:
    found = resolve(["experiment=first"])
    assert found.config.model == yaml.safe_load(FILES["conf/model/wide.yaml"])
    assert (found.config.optimizer["lr"], found.config.schedule.milestones) == (0.003, [6, 9])
    assert (found.config.trainer.epochs, found.config.trainer.label_smoothing) == (10, 0.1)
    assert resolve(["experiment=first", "optimizer=sgd"]).config.optimizer["lr"] == 0.1
    assert {"given", "recipe patient (conf/recipe/patient.yaml)"} >= {
        resolve(["experiment=first", "seed=1"]).sources[key] for key in ("seed", "trainer.epochs")
    }


def test_its_order_of_strength_is_that_of_the_code() -> None:
    from cnnlab.config import compose

    order = re.search(r"\*\*(key given.*?)\*\*", PAGE)
    assert order is not None
    code = " ".join((Path(compose.__code__.co_filename)).read_text(encoding="utf-8").split())
    weakest_first = " < ".join(reversed(order[1].replace("defaults", "default").split(" > ")))
    assert weakest_first in code
