"""What commands print: a line, JSON, a run that has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnlab import streams
from cnnlab.errors import one_line
from cnnlab.values import to_json

if TYPE_CHECKING:
    from cnnlab.experiment import Run


def print_line(line: str) -> None:
    print(one_line(line))


def print_json(facts: Any, indent: int | None = None) -> None:
    """One line without `indent`; where the stream has no Unicode, with the escapes of JSON instead of its own."""
    text = to_json(facts, indent=indent, ensure_ascii=not streams.is_unicode())
    print(one_line(text) if indent is None else text)


def print_run(run: Run) -> None:
    """The table of the best epoch and the test, and where the run lies."""
    from cnnlab.evaluation.tables import print_whole, result_table
    from cnnlab.runs.copies import address_of
    from cnnlab.runs.folder import RunFolder, read_split

    print()
    folder = RunFolder(run.dir)
    val_count = read_split(folder).get("sizes", {}).get("val") or None  # of a DataLoader it may not be known
    print_whole(result_table(run.history, folder.read_card()["epoch"], run.test, val_count))
    print()
    if address := address_of(run.dir):
        print_line(f"run         {address}")
    print_line(f"run folder  {run.dir}")
    print_line(f"report      {run.dir / 'report.html'}")
