"""Every command and every Python block of the README works, in a folder that holds what it names."""

from __future__ import annotations

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
from cnnlab.models.registry import MODELS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if line.startswith("cnnlab ")
]
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
    steps = "data train resume test predict explain localize export demo compare study model"
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
    assert main([*words[1:], *(SHORT if words[1] == "train" else [])]) == 0


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
    assert "uv run pytest\n" in README


def test_every_file_the_readme_points_to_is_there() -> None:
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (root / target).exists(), target
