"""`cnnlab predict`: classes of images, or of their pixels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cnnlab import streams
from cnnlab.cli.arguments import RUN, add_device, add_trust_code, refuse_ignored
from cnnlab.cli.printing import print_json, print_line
from cnnlab.errors import ConfigError, DataError, one_line
from cnnlab.files import given_output

if TYPE_CHECKING:
    from cnnlab.deploy.predictor import Prediction, Predictor

SUMMARY = "classify files, folders, or standard input"
EXAMPLES = """\
examples:
  cnnlab predict runs/mine cat.jpg photos/
  cnnlab predict runs/mine cat.jpg --topk 3 --json
  cnnlab predict runs/mine photos/ --out answers.csv
  cnnlab predict runs/mine photos/ --sort sorted            sorted/cat/…, sorted/dog/…: copies, a folder per class
  cat cat.jpg | cnnlab predict runs/mine -
  cnnlab predict runs/mine/export/model-int8.onnx cat.jpg   an export instead of the run"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=f"{RUN}; an export folder or .onnx file")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image, folder, or - for standard input")
    parser.add_argument("--topk", type=int, metavar="K", help="classes to show per image (default: 5)")
    parser.add_argument(
        "--out",
        metavar="FILE.csv",
        help="write the predictions to a CSV file: path, label, probability, the next classes; for a model that"
        " classifies pixels: the folder for its masks (default: RUN/predict)",
    )
    parser.add_argument("--sort", metavar="DIR", help="copy each image to DIR/CLASS of its predicted class")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    add_device(parser)
    add_trust_code(parser)


def run(options: argparse.Namespace) -> None:
    from cnnlab.deploy.opened import opened_export
    from cnnlab.deploy.predictor import Predictor
    from cnnlab.runs.folder import RunFolder
    from cnnlab.runs.opened import opened_run

    if options.topk is not None and options.topk < 1:
        raise ConfigError(f"--topk must be at least 1, got {options.topk}.")
    with opened_export(options.run) as export:
        if export is not None:
            _classify(options, lambda: Predictor.from_export(export, options.device))
            return
    with opened_run(options.run) as folder:
        if RunFolder(folder).task() == "segmentation":
            _segment(options, folder)
        else:
            _classify(options, lambda: Predictor.from_run(folder, options.device, options.trust_code))


def _check_files(options: argparse.Namespace) -> None:
    """Refuse what --out and --sort cannot do before the first image is read."""
    if options.out is not None and not options.out.lower().endswith(".csv"):
        raise ConfigError(f"--out {options.out} must be a .csv file, such as --out answers.csv.")
    if options.sort is not None and "-" in options.paths:
        raise ConfigError("--sort copies files, and standard input is not a file; give the image as a file.")
    if options.sort is not None:
        place = Path(options.sort).resolve()
        if around := [path for path in options.paths if Path(path).resolve() in (place, *place.parents)]:
            raise ConfigError(f"--sort {options.sort} is in {around[0]}, whose images are read; choose another folder.")
    if options.sort is not None and Path(options.sort).exists() and not Path(options.sort).is_dir():
        raise ConfigError(f"--sort {options.sort} is not a folder; name a new or an existing folder.")


def _classify(options: argparse.Namespace, load: Callable[[], Predictor]) -> None:
    _check_files(options)
    from cnnlab.data.decode import find_images
    from cnnlab.deploy.answers import answer_images

    names = ["-"] if options.paths == ["-"] else list(find_images(options.paths))
    predictor = load()
    images = ((name, sys.stdin.buffer.read() if name == "-" else name) for name in names)
    shown = 5 if options.topk is None else options.topk
    keeps = bool(options.out or options.sort)
    prints = options.json or not keeps
    kept: list[tuple[str, Prediction]] = []
    bad: list[str] = []
    for name, answer in answer_images(predictor, images):
        if isinstance(answer, DataError):
            bad.append(str(answer))
            continue
        top = answer.top(shown)
        if keeps:
            kept.append((name, top))
        if prints:
            _print_answer(name, top, predictor.rule.multi_label, options.json)
            if not streams.has_reader():
                return
    if kept:
        _keep_answers(options, kept, predictor.rule.multi_label, sys.stderr if options.json else sys.stdout)
    if bad:
        done = f" The other {len(names) - len(bad):,} are done." if len(names) > len(bad) else ""
        raise DataError(" ".join(bad) + done)


def _print_answer(name: str, answer: Prediction, multi_label: bool, as_json: bool) -> None:
    if as_json:
        facts: dict[str, object] = {"picture": name, "label": answer.label, "probability": answer.probability}
        facts |= {"labels": answer.labels} if multi_label else {}
        print_json(facts | {"probabilities": answer.probabilities})
        return
    shown = "  ".join(f"{label} {100 * p:.1f} %" for label, p in answer.probabilities.items())
    found = f"{', '.join(answer.labels) or 'none'}  ({shown})" if multi_label else shown
    print_line(f"{name}: {found}")


def _keep_answers(
    options: argparse.Namespace, answers: list[tuple[str, Prediction]], multi_label: bool, stream: TextIO
) -> None:
    from cnnlab.deploy.answers import sort_into, write_answers

    if options.out is not None:
        write_answers(given_output(options.out), answers, multi_label)
        print(one_line(f"answers  {options.out}  ({len(answers):,} images)"), file=stream)
    if options.sort is not None:
        for name, count in sort_into(given_output(options.sort, "--sort"), answers):
            print(one_line(f"sorted   {Path(options.sort) / name}  ({count:,} images)"), file=stream)


def _segment(options: argparse.Namespace, folder: Path) -> None:
    from cnnlab.deploy.segmenter import segment_images

    refuse_ignored(options, ("topk", "sort"), "is for classes of images, and this model classifies every pixel")
    for answer in segment_images(folder, options.paths, options.out, options.device, options.trust_code):
        if options.json:
            print_json(answer.facts())
            continue
        shares = sorted(answer.shares.items(), key=lambda pair: -pair[1])
        found = "  ".join(f"{label} {100 * share:.1f} %" for label, share in shares if share)
        print_line(f"{answer.image}: {found}  →  {answer.overlay}")
