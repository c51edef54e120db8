"""`cnnlab export`: a run's model as a file for other programs."""

from __future__ import annotations

import argparse

from cnnlab.cli.arguments import RUN, add_trust_code

SUMMARY = "export a run's model to a file for other programs, after verifying its outputs"
EXAMPLES = """\
examples:
  cnnlab export runs/mine                                   runs/mine/export/model.onnx
  cnnlab export runs/mine --int8                            a quarter of the size, calibrated on validation images
  cnnlab export runs/mine --format pt2 --out served         for torch.export.load
  cnnlab export runs/mine --format web                      a page that runs the network in a browser
  cnnlab predict runs/mine/export cat.jpg                   an export predicts as its run does"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--format", default="onnx", choices=["onnx", "pt2", "web"], help="default: onnx")
    parser.add_argument("--int8", action="store_true", help="quantize to 8 bits (onnx)")
    parser.add_argument(
        "--fully-convolutional", action="store_true", help="predict at every position, images of any size"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the file and export.json (default: RUN/export)")
    parser.add_argument("--data-root", metavar="DIR", help="where the images to test on are now")
    add_trust_code(parser)


def run(options: argparse.Namespace) -> None:
    from cnnlab.deploy.export import as_text, export_run

    done = export_run(
        options.run,
        options.format,
        options.int8,
        options.fully_convolutional,
        options.out,
        options.data_root,
        options.trust_code,
    )
    print(as_text(done))
