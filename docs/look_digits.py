"""Make docs/look-digits.html again, in a minute: `uv run --group dev python docs/look_digits.py`. A test says when."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from cnnlab.cli import main

PAGE = Path(__file__).with_name("look-digits.html")
TRAIN = ["train", "model=vgg", "model.width=6", "trainer.epochs=30"]


def make(target: Path) -> int:
    """Train a small VGG on the digits that come with cnnlab and write its page. Returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/digits"
        quiet = ["logger=none", "trainer.threads=1"]  # one thread: the same numbers every time
        return main([*TRAIN, *quiet, f"run.dir={run}"]) or main(["look", run, "--out", str(target)])


if __name__ == "__main__":
    sys.exit(make(PAGE))
