"""`cnnlab data`: what a data set holds."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from cnnlab.cli.arguments import add_config_dir, refuse_ignored
from cnnlab.cli.printing import print_json, print_line
from cnnlab.errors import ConfigError

if TYPE_CHECKING:
    from cnnlab.data.data import Data

SUMMARY = "print splits, class counts, sizes and statistics of a set"
EXAMPLES = """\
examples:
  cnnlab data digits
  cnnlab data folder data.root=photos --check
  cnnlab data cifar10 augment=strong --show
  cnnlab data mnist data.limit=2000 --bundle mnist.zip      the images as a zip file, for rooms without network
  cnnlab data mydata:Photos data.root=photos                a torch Dataset of your own, from mydata.py"""

KEYS_OF_A_BATCH = ("recipe=", "seed=", "trainer.batch_size=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="digits, mnist, fashion_mnist, cifar10, cifar100, caltech101 or folder; module:Class for your own",
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="data.* and augment keys, seed")
    parser.add_argument(
        "--show", nargs="?", const="", metavar="FILE", help="write a labelled image grid of one augmented batch"
    )
    parser.add_argument("--check", action="store_true", help="find corrupt files, duplicates, and leaks between splits")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    what = "write the images of each split and class as a zip file, which data=folder reads once unpacked"
    parser.add_argument("--bundle", metavar="FILE.zip", help=what)
    add_config_dir(parser)


def run(options: argparse.Namespace) -> None:
    options.name = options.name.removeprefix("data=")  # as other commands have it
    _refuse_ignored_keys(options)
    image = None if options.show is None else options.show or f"{options.name.replace(':', '.')}-batch.png"
    if image is not None:
        _check_format(image)
    if options.bundle is not None:
        _check_bundle(options)
    # Looking at a set refuses nothing: the share of unreadable images is one of the things to see.
    words = [f"data={options.name}", "data.max_corrupt=1", *options.overrides]
    from cnnlab.data.recommend import compose_for_set
    from cnnlab.tracking.console import DecodeBar

    settings = compose_for_set(words, options.config_dir, trust_code=options.trust_code)
    with DecodeBar() as bar:
        import torch

        from cnnlab.data.build import build_data
        from cnnlab.data.own import import_dataset

        import_dataset(settings.data.name)  # the user's own word names it, or --trust-code allows it
        data = build_data(settings, torch.device("cpu"), bar.update)
        findings = None
        if options.check:
            from cnnlab.data.audit import audit

            findings = audit(data)
    if options.bundle is not None:
        from cnnlab.data.bundle import write_bundle
        from cnnlab.files import given_output

        with DecodeBar("packing images") as bar:
            count = write_bundle(data, given_output(options.bundle, "--bundle"), bar.update)
        print_line(f"bundle  {options.bundle} ({count:,} images)")
        return
    from cnnlab.data.describe import as_text, facts

    described = facts(data, findings)
    if image is not None:
        _write_batch(data, image)
    print_json(described, indent=1) if options.json else print(as_text(described))
    if image is not None:
        print(f"\none augmented training batch: {image}", file=sys.stderr if options.json else sys.stdout)


def _check_bundle(options: argparse.Namespace) -> None:
    """Refuse what would be in the way before the set is decoded."""
    from cnnlab.files import given_output

    refuse_ignored(options, ("show", "check", "json"), "looks at a set, but --bundle writes it")
    file = given_output(options.bundle, "--bundle")
    if file.suffix.lower() != ".zip":
        raise ConfigError(f"--bundle={options.bundle}: a bundle is a zip file; give {file.with_suffix('.zip')}.")
    if file.exists():
        raise ConfigError(f"{file} is there already; give another file after --bundle, or delete it.")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"--bundle={options.bundle}: there is no folder {file.parent}; make it, or give another.")


def _refuse_ignored_keys(options: argparse.Namespace) -> None:
    """Raise ConfigError for the first key=value that has no part in loading a set."""
    from cnnlab import config

    for word in options.overrides:
        if not word.lstrip("+").startswith(("data.", "augment=", "augment.", *KEYS_OF_A_BATCH)):
            config.compose([word], options.config_dir, trust_code=options.trust_code)  # a mistyped key is named as that
            raise ConfigError(
                f"{word!r} changes nothing here: a set is loaded by data.* and augment keys, recipe, seed and"
                " trainer.batch_size; leave it out."
            )


def _check_format(image: str) -> None:
    """Refuse a file name before the set is decoded."""
    from cnnlab.figure import format_of

    try:
        format_of(image)
    except ValueError as error:
        raise _unwritable(image, error) from None


def _write_batch(data: Data, image: str) -> None:
    from cnnlab.data.show import show_training_batch

    try:
        show_training_batch(data, image)
    except (OSError, ValueError) as error:
        raise _unwritable(image, error) from None


def _unwritable(image: str, error: Exception) -> ConfigError:
    return ConfigError(f"cannot write the image {image}: {error}; give another file name after --show.")
