"""`cnnlab look`: a run's network alive in one page."""

from __future__ import annotations

import argparse

from cnnlab.cli.arguments import RUN, add_trust_code, refuse_ignored
from cnnlab.errors import ConfigError

SUMMARY = "write one HTML file in which the run's network computes and can be experimented with"
EXAMPLES = """\
examples:
  cnnlab look runs/mine                                     runs/mine/look.html, with eight test images
  cnnlab look runs/mine cat.jpg photos/                     with images of your own
  cnnlab look runs/mine --out lesson.html                   one file: no server, no other file, no request
  cnnlab look runs/plain --beside runs/residual             two networks on the same images
  cnnlab look runs/mine --beside untrained                  what the training has changed
  cnnlab look --layer                                       layer.html, a convolution to play with"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", nargs="?", help=RUN)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="image or folder (default: eight images of the test split)"
    )
    parser.add_argument(
        "--layer", action="store_true", help="a convolution to play with instead: sizes, strides, padding"
    )
    parser.add_argument(
        "--beside",
        metavar="RUN2",
        help="another run, whose network answers beside it; `untrained`: the same with the random weights of its seed",
    )
    parser.add_argument("--out", metavar="FILE", help="the HTML file (default: RUN/look.html, or layer.html)")
    add_trust_code(parser)


def run(options: argparse.Namespace) -> None:
    if options.layer and options.run is not None:
        raise ConfigError(f"--layer shows no run; leave out {options.run!r} or --layer.")
    if options.layer:
        refuse_ignored(options, ("trust_code", "beside"), "changes nothing with --layer")
    elif options.run is None:
        raise ConfigError("give the RUN to look into, or --layer for a convolution to play with.")
    from cnnlab.look.page import write_layer, write_look

    if options.layer:
        print(write_layer(options.out or "layer.html"))
        return
    print(write_look(options.run, options.images, options.out, options.trust_code, options.beside))
