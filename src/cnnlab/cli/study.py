"""`cnnlab study`: a grid of runs, a search, or a learning rate range test."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from cnnlab.cli.arguments import add_config_dir, refuse_ignored
from cnnlab.cli.printing import print_line

if TYPE_CHECKING:
    from cnnlab.study.definition import Definition

SUMMARY = "run a grid of settings and seeds: a table with error bars, curves, pairwise comparisons"
EXAMPLES = """\
examples:
  cnnlab study --list                                       the studies that come with cnnlab
  cnnlab study residual_depth --dry-run                     the runs it needs, and which of them are done
  cnnlab study model=resnet model.depth=8,14 model.residual=true,false --seeds 3
  cnnlab study optimizers data=mnist data.root=data study.jobs=2
  cnnlab study optimizer.lr=0.001..1:log augment=none,light study.trials=20     a search for the best settings
  cnnlab study learning_rate_range data=mnist               which learning rates work, in a minute
  cnnlab study mine.yaml                                    a study of your own"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="NAME|key=value",
        help="a study or a YAML file of your own; key=a,b makes an axis, key=low..high a search; study.dir, study.jobs",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="runs per combination (default: as the study defines)")
    parser.add_argument("--list", action="store_true", help="list the studies that come with cnnlab")
    parser.add_argument("--dry-run", action="store_true", help="list the runs without training")
    add_config_dir(parser)


def run(options: argparse.Namespace) -> None:
    from cnnlab.study.definition import define

    if options.list:
        refuse_ignored(options, ("overrides", "seeds", "dry_run"), "is for one study, and --list names them all")
        _list()
        return
    definition = define(options.overrides, options.seeds, options.config_dir, options.trust_code)
    if definition.search:
        _search(options)
    elif definition.rates:
        _rate_range(options)
    elif options.dry_run:
        _show_runs(definition)
    else:
        _grid(options)


def _list() -> None:
    from cnnlab.study.definition import define, names

    for name in names():
        definition = define([name])
        what = " × ".join(definition.axes or definition.search) or "one short run"
        print(f"{name:<20} {definition.title}: {what}")


def _show_runs(definition: Definition) -> None:
    from cnnlab.study.execute import is_done
    from cnnlab.study.plan import plan

    for planned in plan(definition):
        state = "done" if is_done(planned, definition.test_on) else "to do"
        print_line(f"{state:<6} {planned.combination.label}, seed {planned.seed}  {planned.folder}")


def _grid(options: argparse.Namespace) -> None:
    from cnnlab.evaluation.tables import print_whole
    from cnnlab.study.progress import StudyProgress
    from cnnlab.study.study import run_study
    from cnnlab.study.table import sentence, terminal_table

    done = run_study(
        *options.overrides,
        seeds=options.seeds,
        progress=StudyProgress(),
        command=options.called,
        config_dir=options.config_dir,
        trust_code=options.trust_code,
    )
    print()
    print_whole(terminal_table(done.definition, done.cells), fold=False)
    for one in done.differences:
        print_line(f"  {sentence(one)}")
    print(f"\ntable   {done.dir / 'table.md'}\nreport  {done.dir / 'report.html'}")
    done.raise_failures()


def _search(options: argparse.Namespace) -> None:
    from cnnlab.study import search
    from cnnlab.study.progress import StudyProgress
    from cnnlab.study.search_results import conclusions, summary, terminal_table

    if options.dry_run:
        for line in search.outline(options.overrides, options.config_dir, options.trust_code):
            print_line(line)
        return
    from cnnlab.evaluation.tables import print_whole

    done = search.run_search(
        *options.overrides,
        progress=StudyProgress(),
        command=options.called,
        config_dir=options.config_dir,
        trust_code=options.trust_code,
    )
    print(f"\n{summary(done)}")
    print_whole(terminal_table(done), fold=False)
    print()
    for sentence in conclusions(done):
        print_line(f"  {sentence}")
    print(f"\nagain   {shlex.join(done.command)}")
    print(f"table   {done.dir / 'table.md'}\nreport  {done.dir / 'report.html'}")
    done.raise_failures()


def _rate_range(options: argparse.Namespace) -> None:
    from cnnlab.tracking.console import DecodeBar, StepBar

    if options.dry_run:
        print("one short training that is not kept")
        return
    with DecodeBar() as bar, StepBar() as steps:
        from cnnlab.study.rate_range import find_learning_rate

        found = find_learning_rate(
            *options.overrides,
            progress=steps.update,
            decoding=bar.update,
            command=options.called,
            config_dir=options.config_dir,
            trust_code=options.trust_code,
        )
    for sentence in found.sentences():
        print_line(sentence)
    again = f"\ntrain    {shlex.join(found.command)}" if found.command else ""
    print(f"{again}\nplot     {found.dir / 'rate_range.png'}\nreport   {found.dir / 'report.html'}")
