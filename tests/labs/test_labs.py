"""Labs 2 to 4, from top to bottom in their small setting, with the solutions of their exercises."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

import cnnlab

FOLDER = Path(__file__).parents[2] / "labs"
sys.path.insert(0, str(FOLDER))
from execute import execute  # noqa: E402

LABS = sorted(FOLDER.glob("[4-9]*.ipynb"))  # the others: test_lab_0.py to test_lab_3.py
SOLUTION = re.compile(r"<details><summary>Solution</summary>(.*?)</details>", re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
LESS = {  # what a lab takes in its small setting → enough to go through all of it, in a fraction of the time
    "30 if FULL else 12": "3",
    "[:70]": "[:24]",
}
LARGEST = 1_000_000  # bytes of a notebook with its images


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """A data root with the first images of each set, more than the labs take: all of them, 130,000 files to decode,
    are longer than the labs themselves."""
    given = os.environ.get("CNNLAB_DATA")
    if given is None:
        return None
    root, small = Path(given), tmp_path_factory.mktemp("data")
    for name in ("caltech101", "bsds500"):
        (small / name).symlink_to((root / name).resolve())
    for part, count in (("train", 300), ("test", 40)):
        for folder in (root / "cifar10-jpeg" / part).glob("*/"):
            (small / "cifar10-jpeg" / part / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                shutil.copy(file, small / "cifar10-jpeg" / part / folder.name)
    for part, count in (("train", 8000), ("t10k", 1000)):
        for name, header, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
            file = root / "MNIST" / "raw" / f"{part}-{name}-ubyte"
            if file.exists():
                content = file.read_bytes()[: header + count * size]
                (small / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
                (small / "MNIST" / "raw" / file.name).write_bytes(content[:4] + count.to_bytes(4, "big") + content[8:])
    return str(small)


def test_the_labs_have_the_settings_that_the_test_makes_smaller() -> None:
    together = "".join(cell.source for path in LABS for cell in read(path).cells)
    assert [together.count(setting) for setting in LESS] == [1] * len(LESS)


def test_they_are_in_order() -> None:
    assert [path.name[0] for path in LABS] == ["4"]


@pytest.mark.slow
@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_a_lab_and_its_solutions_run_from_top_to_bottom(
    path: Path, data: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The solutions follow the cell that asks for them, in the same kernel. A reader has more images and epochs."""
    monkeypatch.delenv("CNNLAB_LABS", raising=False)
    if data is not None:
        monkeypatch.setenv("CNNLAB_DATA", data)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    notebook = read(path)
    cells = []
    for cell in notebook.cells:
        for setting, less in LESS.items():
            cell.source = cell.source.replace(setting, less)
        cells.append(cell)
        if cell.cell_type == "markdown":
            for solution in SOLUTION.findall(cell.source):
                cells += [nbformat.v4.new_code_cell(text) for text in CODE.findall(solution)]  # type: ignore[no-untyped-call]
    assert len(cells) > len(notebook.cells)
    notebook.cells = cells
    execute(notebook, tmp_path, seconds_a_cell=240)


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_a_lab_is_kept_as_a_reader_should_see_it(path: Path) -> None:
    """With its outputs in order, small, and without a word of the machine that made them."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    for word in ("/home/", "/root/", "/tmp/", str(Path(__file__).parents[2]) + os.sep, "Traceback", "Warning"):
        assert word not in json.dumps(json.loads(text), ensure_ascii=False), word
    codes = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
    assert any("image/png" in output.get("data", {}) for cell in codes for output in cell.outputs)


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_a_lab_uses_what_is_public_alone(path: Path) -> None:
    notebook = read(path)
    source = "\n".join(cell.source for cell in notebook.cells)
    for name in re.findall(r"\bcnnlab\.(\w+)", re.sub(r"`[^`]*`", "", source)):
        assert name in cnnlab.__all__, name
    for module in re.findall(r"from cnnlab([\w.]*) import", source):
        assert module == ""


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_every_exercise_has_a_solution(path: Path) -> None:
    texts = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    exercises = sum(len(re.findall(r"\*\*Exercise \d", text)) for text in texts)
    solutions = sum(len(SOLUTION.findall(text)) for text in texts)
    assert exercises == solutions >= 3
