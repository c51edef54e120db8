"""Every command and every Python block of the README works, in a folder that holds what it names."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights, resnet18

from cnnlab.cli import main
from cnnlab.config import Config
from cnnlab.models.registry import MODELS

ROOT = Path(__file__).parents[1]
README, PHOTOGRAPHS = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/photographs.md"))


def blocks_of(page: str) -> list[tuple[str, str]]:
    """(language, text) of each code block."""
    return re.findall(r"```(\w*)\n(.*?)```", page, flags=re.DOTALL)


def commands_of(page: str) -> list[list[str]]:
    """Words of each command that its blocks without a language hold."""
    lines = [line for language, block in blocks_of(page) if not language for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("cnnlab ")]


BLOCKS, COMMANDS = blocks_of(README), commands_of(README)
OWN = """
import cnnlab
from torch import nn

class Tiny(cnnlab.Classifier):
    def __init__(self, in_channels=1, num_classes=10):
        super().__init__()
        self.body, self.head = nn.Conv2d(in_channels, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.body(x).relu().mean((2, 3)))
"""
SHORT = ["trainer.epochs=1", "data.limit=40", "trainer.batch_size=16"]


def shortened(words: list[str]) -> list[str]:
    """The words of a command; a training is short, and of a narrow network where it is one of ours."""
    if words[1] != "train":
        return words[1:]
    ours = all(word == "model=convnet" for word in words if word.startswith("model="))
    return [*words[1:], *SHORT, *(["model.width=4"] if ours else [])]


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    path.write_bytes(header + values.tobytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a small MNIST, two sets of photographs, a cat, a module, published weights, and three runs."""
    root = tmp_path_factory.mktemp("readme")
    numbers = np.random.Generator(np.random.PCG64(0))
    raw = root / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", numbers.integers(0, 256, (100, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(100, dtype=np.uint8) % 10)
    for folder in ("photos/cats", "photos/dogs", "birds/wren", "birds/robin", "birds/crow"):
        (root / folder).mkdir(parents=True)
        for i in range(20):
            pixels = numbers.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    (root / "mymodels.py").write_text(OWN, encoding="utf-8")
    weights = root / "torch" / "hub" / "checkpoints" / Path(ResNet18_Weights.DEFAULT.url).name
    weights.parent.mkdir(parents=True)
    torch.save(resnet18().state_dict(), weights)  # what a download would have left
    Image.fromarray(numbers.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / "cat.jpg")
    before, path = Path.cwd(), list(sys.path)
    os.chdir(root)
    try:
        for name in ("mine", "a", "b"):
            assert main(["train", *SHORT, f"run.dir=runs/{name}"]) == 0
    finally:
        os.chdir(before)
    yield root
    sys.path[:] = path
    sys.modules.pop("mymodels", None)
    for name in ("mymodels:Tiny", "tiny"):
        MODELS.pop(name, None)


def test_the_readme_has_a_command_for_each_step() -> None:
    steps = "data train resume test predict explain localize look export demo compare study model"
    assert {words[1] for words in COMMANDS} == set(steps.split())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_works(words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(place / "torch" / "hub"))
    if words[1] == "demo":
        serves(words)
        return
    if words[1] == "study":
        words = [*words, *SHORT, "--seeds", "1", "model.width=4"]
    assert main(shortened(words)) == 0


def test_the_page_about_photographs_works_from_the_folder_to_the_answers(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place / "photos", tmp_path / "photos")
    shutil.copytree(place / "photos" / "cats", tmp_path / "new")
    shutil.copytree(place / "photos", tmp_path / "other" / "test")
    shutil.copy(place / "photos" / "dogs" / "0.png", tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    assert [words[1] for words in commands_of(PHOTOGRAPHS)][:4] == ["data", "train", "train", "predict"]
    for words in commands_of(PHOTOGRAPHS):
        if words[1] == "demo":
            serves(words)
        else:
            assert main(shortened(words)) == 0
    assert len((tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()) == 21
    assert sum(1 for _ in (tmp_path / "sorted").rglob("*.png")) == 20
    assert (tmp_path / "folder-batch.png").exists()


def test_the_settings_that_the_pages_name_are_there() -> None:
    known = dataclasses.asdict(Config())
    for page in ("photographs", "glossary"):
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        for group, key in re.findall(r"`(trainer|augment|data|test)\.(\w+)", text):
            assert key in known[group], f"{group}.{key}"


def serves(words: list[str]) -> None:
    """`cnnlab demo` goes on until it is stopped."""
    command = [sys.executable, "-m", *words, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            assert b"<html" in urllib.request.urlopen(address, timeout=30).read()
        finally:
            server.terminate()


def test_the_python_of_the_readme_works(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    shutil.rmtree("runs/first", ignore_errors=True)
    scope: dict[str, object] = {}
    for language, block in BLOCKS:
        if language == "python":
            exec(block, scope)
    assert (place / "batch.png").stat().st_size > 1000
    assert 0 <= scope["result"]["accuracy"] <= 1  # type: ignore[index]


def test_the_first_command_of_the_readme_is_the_default_training() -> None:
    assert "pip install uv && uv run cnnlab train\n" in README
    assert "uv run --group dev pytest\n" in README


def test_every_file_the_pages_point_to_is_there() -> None:
    for page in ("README.md", "docs/photographs.md", "docs/glossary.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert ((ROOT / page).parent / target).exists(), target
