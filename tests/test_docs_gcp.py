"""Every cnnlab command of docs/gcp.md works, on a bucket of the emulator."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from PIL import Image

if TYPE_CHECKING:
    from buckets import Bucket
    from conftest import CommandLine

TEXT = (Path(__file__).parents[1] / "docs" / "gcp.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines()]
COMMANDS = list(dict.fromkeys(line for line in LINES if line.startswith("cnnlab ")))
SHORT = ["trainer.epochs=1", "data.image_size=16", "trainer.batch_size=8", "model=vgg", "model.width=4", "augment=none"]
VALUES = {
    "IMAGE": "europe-west4-docker.pkg.dev/p/cnnlab/cnnlab:0.1",
    "ACCOUNT": "cnnlab@p.iam.gserviceaccount.com",
}


def words_of(line: str, bucket: str) -> tuple[list[str], str | None]:
    """The words after `cnnlab`, and the file that the output goes to."""
    for name, value in {**VALUES, "BUCKET": bucket}.items():
        line = line.replace(f"${name}", value)
    assert "$" not in line
    words = shlex.split(line, comments=True)[1:]
    return (words[: words.index(">")], words[-1]) if ">" in words else (words, None)


@pytest.fixture(scope="module")
def place(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cat; the bucket has photographs of three classes."""
    root = tmp_path_factory.mktemp("gcp")
    numbers = np.random.Generator(np.random.PCG64(0))
    for i in range(45):
        pixels = numbers.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "cat.jpg")
        bucket.write(f"photos/{('cats', 'dogs', 'fish')[i % 3]}/{i}.jpg", (root / "cat.jpg").read_bytes())
    return root


def test_the_page_has_a_command_for_each_step() -> None:
    steps = "data train resume test predict explain export compare demo"
    assert {line.split()[1] for line in COMMANDS} == set(steps.split())


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_works(line: str, command: CommandLine, bucket: Bucket, place: Path) -> None:
    pytest.importorskip("onnxruntime")
    words, file = words_of(line, bucket.name)
    if words[0] == "train" and "--spec" not in words:
        words += SHORT
    environment = {**bucket.environment, "CNNLAB_CACHE": str(place / "cache")}
    result = command(*words, cwd=place, environment=environment)
    assert result.code == 0, result.err
    if file is not None:
        document = yaml.safe_load(result.out)
        assert ("workerPoolSpecs" in document) != (document.get("kind") == "Service")


@pytest.mark.skipif(os.name == "nt", reason="for a Unix shell")
def test_the_page_says_what_the_documents_hold() -> None:
    assert "cnnlab-mine" in TEXT  # the name that the service of runs/mine gets
    assert "restartJobOnWorkerRestart" in TEXT
