"""`cnnlab compare`: runs side by side."""

from __future__ import annotations

import argparse
import contextlib

from cnnlab.cli.arguments import RUN

SUMMARY = "put runs side by side: a table and a plot of their curves"
EXAMPLES = """\
examples:
  cnnlab compare runs/a runs/b --out curves.png
  cnnlab compare runs                                       every run in the folder"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{RUN}; or a folder of runs")
    parser.add_argument(
        "--out", default="compare.png", metavar="FILE", help="plot of the curves (default: compare.png)"
    )


def run(options: argparse.Namespace) -> None:
    from cnnlab.evaluation.compare import compare_runs, runs_below
    from cnnlab.evaluation.tables import comparison_table, print_whole
    from cnnlab.runs.addresses import is_address
    from cnnlab.runs.opened import opened_run

    named = [run for given in options.runs for run in ([given] if is_address(given) else runs_below(given))]
    with contextlib.ExitStack() as opened:
        runs = compare_runs({run: opened.enter_context(opened_run(run)) for run in dict.fromkeys(named)}, options.out)
    print_whole(comparison_table(runs))
    print(f"\ncurves  {options.out}")
