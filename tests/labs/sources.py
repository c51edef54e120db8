"""A lab as its tests see it: exercises, skeletons and solutions of its source, and what each check is given."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import nbformat

from cnnlab.labs import CheckResult, check

FOLDER = Path(__file__).parents[2] / "labs"
sys.path.insert(0, str(FOLDER))
from build import RAN, SOURCES, edition, read_cells  # noqa: E402
from execute import execute  # noqa: E402

Notebook = Any
# of the solution of an exercise: a part, what is there instead, what the hint says
WrongAnswer = tuple[str, str, str, str]


class Lab:
    """Attributes: number, name, cells; solutions, skeletons, checked: number of an exercise → source."""

    def __init__(self, source: Path) -> None:
        self.number, self.name = source.stem[0], source.stem
        self.cells = read_cells(source.read_text(encoding="utf-8"))
        self.solutions = {cell.number: cell.source for cell in self.cells if cell.kind == "solution"}
        self.skeletons = {cell.number: cell.source for cell in self.cells if cell.kind == "TODO"}
        self.checked = {
            number: answer
            for cell in self.cells
            if not cell.is_text
            for number, answer in re.findall(r'^check\("([\d.]+)", (.+)\)$', cell.source, flags=re.MULTILINE)
        }

    def __repr__(self) -> str:
        return f"lab {self.number}"

    def kept(self, name: str) -> Notebook:
        """The committed notebook of the "student" or "teacher"."""
        folder = {"student": FOLDER, "teacher": FOLDER / "teacher"}[name]
        return nbformat.read(folder / f"{self.name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]

    def solved(self, without: Collection[str] = (), **given: Any) -> dict[str, Any]:
        """Imports and solutions executed in one scope, without what the lab runs on data.

        Args:
            without: exercises whose solution needs data or a trained network.
            given: names that solutions need from other cells, or in place of those left out.
        """
        scope: dict[str, Any] = {}
        imports = next(cell.source for cell in self.cells if not cell.is_text)
        exec(imports.split("FULL =")[0], scope)
        scope |= given
        for number, source in self.solutions.items():
            if number not in without:
                exec(source, scope)
        return scope

    def try_answer(self, number: str, source: str, scope: Mapping[str, Any]) -> CheckResult:
        """What the check of an exercise says after `source` ran in place of the solution."""
        changed = dict(scope)
        exec(source, changed)
        return check(number, eval(self.checked[number], changed))

    def try_wrong(self, wrong: WrongAnswer, scope: Mapping[str, Any]) -> None:
        """Assert that a solution with a part replaced fails with the hint of one line."""
        number, part, instead, hint = wrong
        source = self.solutions[number]
        assert part in source
        found = self.try_answer(number, source.replace(part, instead), scope)
        assert not found.passed
        assert hint in found.hint
        assert "Traceback" not in found.hint
        assert "\n" not in found.hint

    def try_untouched(self, number: str, scope: Mapping[str, Any]) -> None:
        """Assert that the skeleton of an exercise is not answered."""
        found = self.try_answer(number, self.skeletons[number], scope)
        assert not found.passed
        assert found.hint.startswith("not answered yet")

    def execute_solved(self, folder: Path, less: Mapping[str, str]) -> str:
        """Run the teacher's edition in `folder` with some settings replaced; all outputs as one text."""
        notebook = edition(self.cells, "teacher")
        for setting, smaller in less.items():
            assert sum(cell.source.count(setting) for cell in notebook.cells) == 1, setting
            for cell in notebook.cells:
                cell.source = cell.source.replace(setting, smaller)
        execute(notebook, folder, seconds_a_cell=240)
        return "".join(str(cell.get("outputs")) for cell in notebook.cells)


LABS = [Lab(source) for source in SOURCES]


def lab(number: str) -> Lab:
    return next(one for one in LABS if one.number == number)


__all__ = ["FOLDER", "LABS", "RAN", "Lab", "WrongAnswer", "edition", "lab", "read_cells"]
