"""`cnnlab look`: a run's network alive in one page."""

from __future__ import annotations

import argparse

from cnnlab.cli.arguments import RUN, add_trust_code

SUMMARY = "write one HTML file in which the run's network computes and can be experimented with"
EXAMPLES = """\
examples:
  cnnlab look runs/mine                                     runs/mine/look.html, with eight test images
  cnnlab look runs/mine cat.jpg photos/                     with images of your own
  cnnlab look runs/mine --out lesson.html                   one file: no server, no other file, no request"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="image or folder (default: eight images of the test split)"
    )
    parser.add_argument("--out", metavar="FILE", help="the HTML file (default: RUN/look.html)")
    add_trust_code(parser)


def run(options: argparse.Namespace) -> None:
    from cnnlab.look.page import write_look

    print(write_look(options.run, options.images, options.out, options.trust_code))
