"""`cnnlab model`: the layer table of a model, and its drawing."""

from __future__ import annotations

import argparse

from cnnlab.cli.arguments import refuse_ignored
from cnnlab.cli.printing import print_json, print_line
from cnnlab.errors import ModelError

SUMMARY = "print a layer table: sizes with their arithmetic, parameters, receptive field; or draw the network"
EXAMPLES = """\
examples:
  cnnlab model resnet depth=20
  cnnlab model vgg16 num_classes=10 image_size=[96,128] in_channels=1
  cnnlab model resnet depth=56 shortcut=B --json
  cnnlab model resnet depth=20 --svg                        a drawing: resnet.svg
  cnnlab model unet image_size=64 --svg pages/unet.svg
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
    parser.add_argument(
        "--svg", nargs="?", const="", metavar="FILE", help="draw the network into an SVG file instead (NAME.svg)"
    )


def run(options: argparse.Namespace) -> None:
    if options.name is None and not options.list:
        raise ModelError("give the NAME of a model, such as resnet; cnnlab model --list names them all.")
    from cnnlab.models.arguments import describe_models, model_from_words

    if options.list:
        refuse_ignored(options, ("name", "overrides", "json", "svg"), "is for one model, but --list lists them all")
        print(describe_models())
        return
    if options.svg is not None:
        refuse_ignored(options, ("json",), "prints a table, but --svg writes a drawing")
        _draw(options)
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


def _draw(options: argparse.Namespace) -> None:
    from cnnlab.models.arguments import model_from_words
    from cnnlab.report.network import draw_network, svg_file

    file, overrides = options.svg, options.overrides
    if "=" in file and not file.lower().endswith(".svg"):  # a setting that stands behind --svg
        file, overrides = "", [*overrides, file]
    target = svg_file(file or f"{options.name.rpartition(':')[2]}.svg")
    print_line(str(draw_network(*model_from_words(options.name, overrides)).save(target)))
