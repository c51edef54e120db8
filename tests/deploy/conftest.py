"""Shared by the tests of what a run becomes elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from conftest import CommandLine


def digit(number: int) -> np.ndarray:
    """(8, 8) uint8, the pixels that the run was trained on."""
    return np.rint(load_digits().images[number] * (255 / 16)).astype(np.uint8)


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """torch.onnx reads what it can translate from the sources of 500 functions, anew for each export: a second."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):  # a name of torch's own
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(read)))
        yield


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("digits")
    paths = [folder / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        Image.fromarray(digit(number)).save(path)
    return paths


@pytest.fixture(scope="session")
def good_run(command: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of digits that is right on about 98 % of them; do not write into it, copy it."""
    folder = tmp_path_factory.mktemp("good") / "run"
    words = ["trainer.epochs=5", "model.width=8", "trainer.batch_size=32", "augment=none", "trainer.precision=fp32"]
    result = command("train", *words, f"run.dir={folder}")
    assert result.code == 0, result.err
    return folder
