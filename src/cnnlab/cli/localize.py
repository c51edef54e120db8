"""`cnnlab localize`: objects on images of any size."""

from __future__ import annotations

import argparse

from cnnlab.cli.arguments import RUN, add_trust_code
from cnnlab.cli.printing import print_json, print_line

SUMMARY = "find objects on images of any size: heat map, boxes and classes"
EXAMPLES = """\
examples:
  cnnlab localize runs/digits page.png
  cnnlab localize runs/digits scans/ --out boxes --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image or folder")
    parser.add_argument("--out", metavar="DIR", help="folder for images and JSON (default: RUN/localize)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    add_trust_code(parser)


def run(options: argparse.Namespace) -> None:
    from cnnlab.explain.images import localize_images

    for answer in localize_images(options.run, options.paths, options.out, options.trust_code):
        if options.json:
            print_json(answer.facts())
            continue
        found = "  ".join(f"{one['label']} {100 * one['probability']:.1f} %" for one in answer.objects)
        shrunk = f"  (processed at {100 * answer.shrunk:.0f} % of its size)" if answer.shrunk < 1 else ""
        print_line(f"{answer.image}: {found or 'nothing'}{shrunk}  →  {answer.file}")
