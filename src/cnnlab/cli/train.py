"""`cnnlab train`: one run from the words of the command line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnnlab.cli.arguments import add_config_dir, refuse_ignored
from cnnlab.cli.cloud import ONLY_SPEC, add_spec, print_job, refuse_without_spec
from cnnlab.cli.printing import print_run
from cnnlab.errors import ConfigError, DataError, one_line

if TYPE_CHECKING:
    from cnnlab.config import Composed
    from cnnlab.data.recommend import Recommended

SUMMARY = "train, validate every epoch, test once at the end"
EXAMPLES = """\
examples:
  cnnlab train                                              digits, in seconds
  cnnlab train data=mnist data.root=data                    downloads MNIST if it is not there
  cnnlab train data=folder data.root=photos                 your own photographs, a folder per class
  cnnlab train data=cifar10 optimizer=adamw optimizer.lr=0.003 augment=strong run.dir=runs/mine
  cnnlab train data=folder data.root=photos init.from=runs/mine init.freeze=backbone
  cnnlab train data=mnist model=mymodels:Tiny               a class of your own, from mymodels.py
  cnnlab train experiment=first                             settings of your own, from conf/experiment/first.yaml
  cnnlab train --config runs/mine/config.yaml seed=1        those of a run, with another seed
  cnnlab train data=cifar10 --explain                       where each value comes from; --options: what each key means
  cnnlab train data=mydata:Photos data.root=photos          a torch Dataset of your own, from mydata.py
  cnnlab train data=folder data.root=photos data.folds=5    cross-validation, then one network on all
  cnnlab train data=cifar10 trainer.devices=4               four processes, or GPUs, share every batch
  cnnlab train data=folder data.root=gs://bucket/photos run.dir=gs://bucket/runs/mine
  cnnlab train run.dir=gs://bucket/runs/mine --spec vertex --image IMAGE --accelerator NVIDIA_L4 > job.yaml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="group=option or key=value")
    parser.add_argument("--options", action="store_true", help="list every group and key with its meaning, and exit")
    parser.add_argument("--explain", action="store_true", help="print the configuration and where each value is from")
    add_config_dir(parser)
    parser.add_argument("--config", metavar="FILE", help="start from these settings, such as a run's config.yaml")
    parser.add_argument("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)  # of Hydra; see study
    parser.add_argument("--resume", action="store_true", help="resume if run.dir already holds this run")
    add_spec(parser, "vertex", "a Vertex AI custom job")


def run(options: argparse.Namespace) -> None:
    _refuse_contradictions(options)
    if options.options:
        print(_options_text(options))
    elif options.explain:
        from cnnlab.config.describe import explain_text

        print(explain_text(_resolve_to_show(options)))
    elif options.spec:
        _print_spec(options)
    else:
        _train(options)


def _refuse_contradictions(options: argparse.Namespace) -> None:
    if options.multirun:
        again = shlex.join(["cnnlab", "study", *options.overrides])
        raise ConfigError(f"several runs, with a table of their differences, are a study; use: {again}")
    for shows in ("options", "explain"):
        if getattr(options, shows):
            refuse_ignored(options, ("resume", "spec", *ONLY_SPEC), f"starts a training, but --{shows} only prints")
    if not options.spec:
        refuse_without_spec(options, "vertex")


def _train(options: argparse.Namespace) -> None:
    """Train in this process, in several, or a run per fold."""
    from cnnlab.data.recommend import resolve_for_set
    from cnnlab.runs.source import network_of

    given = options.overrides, options.config_dir, options.config, options.trust_code
    composed, recommended = resolve_for_set(*given, network_of=network_of)
    settings = composed.config
    from cnnlab.tracking.console import ConsoleTracker, DecodeBar

    with DecodeBar() as bar:
        from cnnlab.experiment import run_experiment
        from cnnlab.training.distributed import is_main_process, wants_several

        if recommended and is_main_process():
            _print_recommended(recommended)
        how = bar.update, options.called, options.resume
        if wants_several(settings.trainer.devices):
            from cnnlab.processes import train_together

            done = train_together(settings, *how)
        elif settings.data.folds:
            from cnnlab.folds import run_folds, text

            done, found = run_folds(settings, lambda: [ConsoleTracker()], *how)
            print(f"\n{text(found)}")
        else:
            done = run_experiment(settings, [ConsoleTracker()], *how)
    if is_main_process():
        print_run(done)


def _print_recommended(recommended: Sequence[Recommended]) -> None:
    """What follows from the set, and why."""
    from cnnlab.tracking.console import plain_console

    console = plain_console()
    console.print("settings chosen from the dataset; override any of them with key=value:")
    width = max(len(one.word) for one in recommended)
    for one in recommended:
        console.print(f"  {one.word:<{width}}  {one.reason}")


def _print_spec(options: argparse.Namespace) -> None:
    """The job that trains there what these words would train here."""
    from cnnlab import config
    from cnnlab.deploy.spec import check_train

    composed = config.resolve(options.overrides, options.config_dir, options.config, trust_code=options.trust_code)
    if composed.paths:
        raise ConfigError(f"the job cannot read {composed.paths[0]}; give its options and keys on the command line.")
    check_train(composed.config)
    print_job(options, ["cnnlab", "train", *options.overrides, "--resume"])


def _resolve_to_show(options: argparse.Namespace) -> Composed:
    """What the words lead to; nothing is downloaded, and a set that is not there is left out, with a line about it."""
    from cnnlab import config
    from cnnlab.data.recommend import resolve_for_set

    where = options.overrides, options.config_dir, options.config
    try:
        return resolve_for_set(*where, trust_code=options.trust_code, download=False)[0]
    except DataError as error:
        print(f"# without the settings chosen from the images, which cannot be read: {one_line(str(error))}")
        return config.resolve(*where, trust_code=options.trust_code)


def _options_text(options: argparse.Namespace) -> str:
    """Every group with its options, and every key with its meaning, for the words that were given."""
    from cnnlab import config
    from cnnlab.config.describe import OPTIMIZER_KEYS, Argument, options_text
    from cnnlab.models.arguments import argument_rows
    from cnnlab.training.optim import argument_defaults

    composed = _resolve_to_show(options)
    settings = composed.config
    optimizer = argument_defaults(str(settings.optimizer["name"]))
    arguments = {
        "model": [Argument(*row) for row in argument_rows(str(settings.model["name"]))],
        "optimizer": [Argument(key, value, OPTIMIZER_KEYS.get(key, "")) for key, value in optimizer.items()],
    }
    return options_text(composed, config.own_folder(options.config_dir), arguments)
