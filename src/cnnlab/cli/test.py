"""`cnnlab test`: the metrics of a run on a split, or on another set."""

from __future__ import annotations

import argparse
import contextlib
import sys

from cnnlab.cli.arguments import RUN, add_device, add_trust_code
from cnnlab.errors import CnnlabError

SUMMARY = "test the best weights of a run; writes test.json and predictions.csv"
EXAMPLES = """\
examples:
  cnnlab test runs/mine
  cnnlab test runs/mine --split val
  cnnlab test runs/mine --data-root other-photos            another set with the same classes
  cnnlab test runs/mnist --data mnist_m data.backgrounds=photos"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="data.* keys of the set that --data names"
    )
    parser.add_argument("--data", metavar="NAME", help="another set with the same classes, by name")
    parser.add_argument("--split", default="test", choices=["test", "val", "train"], help="default: test")
    parser.add_argument(
        "--data-root", metavar="DIR", help="where the images are now, or another set with the same classes"
    )
    add_device(parser)
    parser.add_argument(
        "--views", metavar="KIND", help="test-time augmentation: average over views (mirror, shift or mirror_shift)"
    )
    add_trust_code(parser)


def run(options: argparse.Namespace) -> None:
    from cnnlab import config
    from cnnlab.evaluation.evaluate import evaluate
    from cnnlab.evaluation.tables import metrics_text
    from cnnlab.runs.folder import RunFolder, epochs_left
    from cnnlab.runs.opened import opened_run

    keys = config.data_keys(options.overrides)
    how = options.split, options.data_root, options.device, options.trust_code, options.views, options.data
    with opened_run(options.run) as folder:
        print(metrics_text(evaluate(folder, *how, **keys)))
        with contextlib.suppress(CnnlabError):  # the metrics stand, whatever is wrong with the history
            if left := epochs_left(RunFolder(folder)):
                print(
                    f"\n{options.run} has {left} epochs to go: these are the metrics of its best epoch so far.",
                    file=sys.stderr,
                )
