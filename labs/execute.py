"""Execute labs and keep their outputs: `uv run --group dev python labs/execute.py [NOTEBOOK ...]`.

CNNLAB_LABS=full takes the full settings, CNNLAB_DATA names a folder with data sets (labs/README.md).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
LABS = sorted(FOLDER.glob("[1-9]*.ipynb"))  # lab 0 is made by build.py


def execute(notebook: NotebookNode, folder: Path, seconds_a_cell: int | None = None) -> NotebookNode:
    """Run all cells in a fresh kernel in `folder`. Raises CellExecutionError at the first that fails."""
    settings = {"timeout": seconds_a_cell, "kernel_name": "python3", "record_timing": False}
    NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **settings).execute()
    return notebook


def without_machine(notebook: NotebookNode) -> NotebookNode:
    """Only what belongs to a reader stays: no versions of the machine's Python in the metadata."""
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main(names: list[str]) -> None:
    for path in [Path(name) for name in names] or LABS:
        began = time.perf_counter()
        notebook = execute(nbformat.read(path, as_version=4), FOLDER)
        nbformat.write(without_machine(notebook), path)
        print(f"{path.name}: {time.perf_counter() - began:.0f} s, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
