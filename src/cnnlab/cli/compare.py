"""`cnnlab compare`: runs side by side."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path

from cnnlab.cli.arguments import RUN

SUMMARY = "put runs side by side: a table and a plot of their curves, or a page for a class"
EXAMPLES = """\
examples:
  cnnlab compare runs/a runs/b --out curves.png
  cnnlab compare runs                                       every run in the folder
  cnnlab compare submissions --out class.html               a class table: a folder for each student"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{RUN}; or a folder of runs")
    parser.add_argument(
        "--out",
        default="compare.png",
        metavar="FILE",
        help="plot of the curves (default: compare.png); FILE.html: a table that sorts, also with unreadable folders",
    )


def run(options: argparse.Namespace) -> None:
    from cnnlab.evaluation.compare import compare_runs, runs_below
    from cnnlab.evaluation.tables import comparison_table, print_whole
    from cnnlab.runs.addresses import is_address
    from cnnlab.runs.opened import opened_run

    if options.out.lower().endswith((".html", ".htm")):
        with contextlib.ExitStack() as opened:
            _write_class_table(options, lambda run: opened.enter_context(opened_run(run)))
        return
    named = [run for given in options.runs for run in ([given] if is_address(given) else runs_below(given))]
    with contextlib.ExitStack() as opened:
        runs = compare_runs({run: opened.enter_context(opened_run(run)) for run in dict.fromkeys(named)}, options.out)
    print_whole(comparison_table(runs))
    print(f"\ncurves  {options.out}")


def _write_class_table(options: argparse.Namespace, open_run: Callable[[str], Path]) -> None:
    from cnnlab.cli.printing import print_line
    from cnnlab.errors import CnnlabError, RunError
    from cnnlab.look.output import html_file, write_page
    from cnnlab.report.class_table import read_rows, render_class_table, run_folders
    from cnnlab.runs.addresses import is_address

    target = html_file(options.out, "class.html")
    folders: dict[str, str | Path] = {}
    unread: dict[str, str] = {}
    for given in dict.fromkeys(options.runs):
        found, without = ({given: given}, {}) if is_address(given) else run_folders(given)
        unread |= without
        for name, run in found.items():
            shown = run if name in folders else name  # two students with a run of one name
            try:
                folders[shown] = open_run(run) if is_address(given) else run
            except CnnlabError as error:
                unread[shown] = str(error)
    rows, damaged = read_rows(folders)
    unread |= damaged
    if not rows:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(unread.items())[:3])
        raise RunError(f"none of these folders holds a run that can be shown ({why}).")
    write_page(target, render_class_table(rows, unread))
    for name, why in sorted(unread.items()):
        print_line(f"not read  {name}: {why}")
    print_line(f"table     {target} ({len(rows)} runs)")
