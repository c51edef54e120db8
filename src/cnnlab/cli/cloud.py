"""`--spec` of train, resume and demo: print what runs the command on Google Cloud, instead of running it here."""

from __future__ import annotations

import argparse

from cnnlab.cli.arguments import refuse_ignored

ONLY_SPEC = ("image", "service_account", "machine", "accelerator", "spot", "disk", "secret")  # what only --spec reads


def add_spec(parser: argparse.ArgumentParser, kind: str, what: str) -> None:
    """Add --spec KIND (vertex or cloudrun), which prints `what`, and the options that only it reads."""
    group = parser.add_argument_group("on Google Cloud (docs/gcp.md)")
    group.add_argument("--spec", choices=[kind], help=f"print {what} that runs this command there; run nothing here")
    group.add_argument("--image", help="address of the container image")
    group.add_argument("--service-account", metavar="EMAIL", help="service account to run as")
    if kind == "vertex":
        group.add_argument("--machine", metavar="TYPE", help="type of machine (default: one that fits)")
        group.add_argument("--accelerator", metavar="TYPE", help="such as NVIDIA_L4 (default: none)")
        group.add_argument("--spot", action="store_true", help="a cheaper machine that can be preempted")
        group.add_argument("--disk", type=int, metavar="GB", help="default: 100")


def refuse_without_spec(options: argparse.Namespace, kind: str) -> None:
    """Raise ConfigError where an option of --spec is given and --spec is not."""
    refuse_ignored(options, ONLY_SPEC, f"is only for --spec {kind}, which is not given")


def print_job(options: argparse.Namespace, command: list[str]) -> None:
    """Print the custom job of Vertex AI that runs `command`."""
    from cnnlab.deploy.spec import as_yaml, vertex_job

    disk = 100 if options.disk is None else options.disk
    machine = options.machine, options.accelerator, options.spot, options.service_account, disk
    use = "gcloud ai custom-jobs create --region REGION --display-name NAME --config THIS_FILE"
    print(as_yaml(vertex_job(command, options.image, *machine), use), end="")
