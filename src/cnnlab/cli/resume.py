"""`cnnlab resume`: the rest of an interrupted run."""

from __future__ import annotations

import argparse

from cnnlab.cli.arguments import RUN, add_trust_code
from cnnlab.cli.cloud import add_spec, print_job, refuse_without_spec
from cnnlab.cli.printing import print_run
from cnnlab.errors import ConfigError

SUMMARY = "resume an interrupted run as if it had never stopped"
EXAMPLES = """\
examples:
  cnnlab resume runs/mine
  cnnlab resume runs/mine optimizer.lr=0.01                 at a lower learning rate, where the loss was not finite
  cnnlab resume runs/mine --devices 1                       with another number of processes
  cnnlab resume gs://bucket/runs/mine                       on any machine
  cnnlab resume gs://bucket/runs/mine --spec vertex --image IMAGE > job.yaml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="optimizer.lr or trainer.grad_clip, from here on"
    )
    parser.add_argument("--devices", type=int, metavar="N", help="processes (default: as many as before)")
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder of the images, if they were moved; stored in the run"
    )
    add_trust_code(parser)
    add_spec(parser, "vertex", "a Vertex AI custom job")


def run(options: argparse.Namespace) -> None:
    if options.devices is not None and options.devices < 1:
        raise ConfigError(f"--devices must be at least 1, got {options.devices}.")
    if options.spec:
        _print_spec(options)
    else:
        refuse_without_spec(options, "vertex")
        _resume(options)


def _resume(options: argparse.Namespace) -> None:
    """Go on in this process, or in several."""
    from cnnlab.tracking.console import ConsoleTracker, DecodeBar

    with DecodeBar() as bar:
        from cnnlab.experiment import resume_experiment
        from cnnlab.runs.addresses import is_address
        from cnnlab.runs.folder import RunFolder, read_config
        from cnnlab.runs.opened import opened_run
        from cnnlab.training.distributed import is_main_process, wants_several

        how = {
            "trust_code": options.trust_code,
            "data_root": options.data_root,
            "fetch": is_address(options.run),
            "overrides": options.overrides,
        }
        with opened_run(options.run, whole=True) as folder:
            devices = options.devices or read_config(RunFolder(folder)).trainer.devices
            if wants_several(devices):
                from cnnlab.processes import resume_together

                done, anything = resume_together(folder, devices, **how)
            else:
                done, anything = resume_experiment(folder, [ConsoleTracker()], bar.update, **how)
    if not is_main_process():
        return
    if not anything:
        print("this run is already finished; there is nothing to do.")
    print_run(done)


def _print_spec(options: argparse.Namespace) -> None:
    """The job that resumes there what these words would resume here."""
    from cnnlab.files import is_remote

    if options.data_root is not None and not is_remote(options.data_root):
        raise ConfigError(f"the job cannot read {options.data_root}; copy the images to a bucket and give its address.")
    if not is_remote(options.run):
        raise ConfigError(f"the job cannot read {options.run}; give the run's address in a bucket.")
    more = [*options.overrides, *(["--trust-code"] if options.trust_code else [])]
    more += [] if options.devices is None else ["--devices", str(options.devices)]
    more += [] if options.data_root is None else ["--data-root", options.data_root]
    print_job(options, ["cnnlab", "resume", options.run, *more])
