"""`cnnlab explain`: class activation maps over images."""

from __future__ import annotations

import argparse

from cnnlab.cli.arguments import RUN, add_device, add_trust_code
from cnnlab.cli.printing import print_line

SUMMARY = "show where a run's model looks: activation maps over images"
EXAMPLES = """\
examples:
  cnnlab explain runs/mine cat.jpg photos/
  cnnlab explain runs/mine cat.jpg --target dog             evidence for another class
  cnnlab explain runs/mine cat.jpg --method layercam --layer stage2 --out maps"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image or folder")
    parser.add_argument(
        "--method", choices=["cam", "gradcam", "layercam"], help="default: cam where the head allows it, else gradcam"
    )
    parser.add_argument("--target", metavar="CLASS", help="class to explain (default: the one that is predicted)")
    parser.add_argument("--layer", metavar="NAME", help="layer whose map is weighted (default: the last feature map)")
    parser.add_argument("--out", metavar="DIR", help="folder for the output images (default: RUN/explain)")
    add_device(parser)
    add_trust_code(parser)


def run(options: argparse.Namespace) -> None:
    from cnnlab.explain.images import explain_images

    for answer in explain_images(
        options.run,
        options.paths,
        options.method or "auto",
        options.target,
        options.layer,
        options.out,
        options.device,
        options.trust_code,
    ):
        line = f"{answer.image}: {answer.label} {100 * answer.probability:.1f} %"
        if answer.target != answer.label:
            line += f"  {answer.target} {100 * answer.target_probability:.1f} %"
        print_line(f"{line}  →  {answer.file}")
