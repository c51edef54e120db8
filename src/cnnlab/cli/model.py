"""`cnnlab model`: the layer table of a model."""

from __future__ import annotations

import argparse

from cnnlab.cli.arguments import refuse_ignored
from cnnlab.cli.printing import print_json
from cnnlab.errors import ModelError

SUMMARY = "print a layer table: sizes with their arithmetic, parameters, multiply-adds, receptive field"
EXAMPLES = """\
examples:
  cnnlab model resnet depth=20
  cnnlab model vgg16 num_classes=10 image_size=[96,128] in_channels=1
  cnnlab model resnet depth=56 shortcut=B --json
  cnnlab model mymodels:Tiny width=8                        a class of your own, from mymodels.py
  cnnlab model --list"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="see --list, or package.module:Class for your own")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="the constructor's arguments; image_size and in_channels",
    )
    parser.add_argument("--list", action="store_true", help="list the models, one per line, and exit")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(options: argparse.Namespace) -> None:
    if options.name is None and not options.list:
        raise ModelError("give the NAME of a model, such as resnet; cnnlab model --list names them all.")
    from cnnlab.models.arguments import describe_models, model_from_words

    if options.list:
        refuse_ignored(options, ("name", "overrides", "json"), "is for one model, but --list lists them all")
        print(describe_models())
        return
    from cnnlab.models.summary import summarise
    from cnnlab.models.table import as_table, facts

    summary = summarise(*model_from_words(options.name, options.overrides))
    if options.json:
        print_json(facts(summary), indent=1)
        return
    from cnnlab.tracking.console import plain_console

    console = plain_console()
    console.width = max(80, console.width)  # narrower, the terminal breaks the lines and no number is lost
    console.print(as_table(summary), crop=False)
