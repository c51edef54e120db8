"""Make the notebooks of a lab from its one source: `uv run --group dev python labs/build.py [SOURCE ...]`.

labs/0-by-hand.py gives labs/0-by-hand.ipynb for students, and labs/teacher/0-by-hand.ipynb with the
solutions, which is executed and keeps its outputs. The source is in the percent format:

    # %% [markdown]            text, each line behind a #
    # %% [markdown] teacher    text for the teacher's edition alone
    # %%                       code
    # %% TODO 0.4              the student's cell: a skeleton
    # %% solution 0.4          what the teacher's edition has in its place

Jupytext reads this format too, but knows no editions: all it would save is `read_cells`.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from execute import execute, without_machine
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
SOURCES = sorted(FOLDER.glob("[0-9]-*.py"))
HEAD = re.compile(
    r"# %%(?P<text> \[markdown\])?(?: (?P<kind>TODO|solution|teacher))?(?: (?P<number>\d\.\d+))?$"
)


@dataclass(frozen=True)
class Cell:
    """A cell of the source: `kind` is "TODO", "solution", "teacher" or "", `number` that of an exercise."""

    is_text: bool
    kind: str
    number: str
    source: str


def read_cells(text: str) -> list[Cell]:
    """The cells of a source. Raises ValueError for a head that is none."""
    cells = []
    for part in re.split(r"^(?=# %%)", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        found = HEAD.match(head)
        if found is None:
            raise ValueError(f"this is no head of a cell: {head}")
        if found["text"]:
            body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        cells.append(Cell(bool(found["text"]), found["kind"] or "", found["number"] or "", body.strip("\n")))
    return cells


def edition(cells: list[Cell], name: str) -> NotebookNode:
    """The notebook for "student" or for "teacher", without outputs. Its cells have the same ids each time."""
    left_out = {"student": ("solution", "teacher"), "teacher": ("TODO",)}[name]
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    for place, cell in enumerate(cells):
        if cell.kind in left_out:
            continue
        # The teacher's edition lies one folder deeper, and so do its links.
        source = re.sub(r"\]\((?=\d-)", "](../", cell.source) if name == "teacher" else cell.source
        new = nbformat.v4.new_markdown_cell if cell.is_text else nbformat.v4.new_code_cell
        made = new(source, id=f"cell-{place}")
        if cell.number:
            made.metadata["exercise"] = cell.number
        notebook.cells.append(made)
    return without_machine(notebook)


def main(names: list[str]) -> None:
    for source in [Path(name) for name in names] or SOURCES:
        cells = read_cells(source.read_text(encoding="utf-8"))
        nbformat.write(edition(cells, "student"), FOLDER / f"{source.stem}.ipynb")
        began = time.perf_counter()
        solved = without_machine(execute(edition(cells, "teacher"), FOLDER))
        nbformat.write(solved, FOLDER / "teacher" / f"{source.stem}.ipynb")
        print(f"{source.name}: the teacher's edition ran in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
