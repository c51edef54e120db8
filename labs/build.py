"""Make the notebooks of a lab from its one source: `uv run --group dev python labs/build.py [SOURCE ...]`.

labs/0-by-hand.py gives labs/0-by-hand.ipynb for students, and labs/teacher/0-by-hand.ipynb with the
solutions, which is executed and keeps its outputs. CNNLAB_LABS=full takes the full settings, CNNLAB_DATA
names a folder with data sets. The source is in the percent format:

    # %% [markdown]            text, each line behind a #
    # %% [markdown] teacher    text for the teacher's edition alone
    # %% [markdown] results    text with figures, each printed above it in the teacher's edition
    # %%                       code
    # %% TODO 0.4              the student's cell: a skeleton
    # %% solution 0.4          what the teacher's edition has in its place

Jupytext reads this format too, but knows no editions: all it would save is `read_cells`.
"""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from execute import execute, with_screenshots, without_machine
from nbformat import NotebookNode

from cnnlab.runs.environment import describe, processor_name

FOLDER = Path(__file__).parent
SOURCES = sorted(FOLDER.glob("[0-9]-*.py"))
RAN = "how-it-ran"  # id of the last cell of a teacher's edition
HEAD = re.compile(
    r"# %%(?P<text> \[markdown\])?(?: (?P<kind>TODO|solution|teacher|results))?(?: (?P<number>\d\.\d+))?$"
)


@dataclass(frozen=True)
class Cell:
    """A cell of the source: `number` is that of an exercise, `kind` the word of its head or ""."""

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
        source = re.sub(r"\]\((?=\d-|\.\./)", "](../", cell.source) if name == "teacher" else cell.source
        new = nbformat.v4.new_markdown_cell if cell.is_text else nbformat.v4.new_code_cell
        made = new(source, id=f"cell-{place}")
        if cell.number:
            made.metadata["exercise"] = cell.number
        if cell.kind == "results":
            made.metadata["results"] = True
        notebook.cells.append(made)
    return without_machine(notebook)


def how_it_ran(seconds: float) -> str:
    """The last cell of a teacher's edition."""
    facts = describe()
    machine, setting = facts["machine"], os.environ.get("CNNLAB_LABS", "small")
    return (
        f"These outputs: {setting} setting, {seconds / 60:.1f} minutes on {machine['cores']} cores of "
        f"{processor_name(machine)}, torch {facts['versions']['torch']}."
    )


def main(names: list[str]) -> None:
    for source in [Path(name) for name in names] or SOURCES:
        cells = read_cells(source.read_text(encoding="utf-8"))
        nbformat.write(edition(cells, "student"), FOLDER / f"{source.stem}.ipynb")
        began = time.perf_counter()
        solved = without_machine(with_screenshots(execute(edition(cells, "teacher"), FOLDER)))
        said = how_it_ran(time.perf_counter() - began)
        solved.cells.append(nbformat.v4.new_markdown_cell(said, id=RAN))
        nbformat.write(solved, FOLDER / "teacher" / f"{source.stem}.ipynb")
        print(f"{source.name}: {said}")


if __name__ == "__main__":
    main(sys.argv[1:])
