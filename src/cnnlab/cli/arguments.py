"""Arguments that several commands have, and the refusal of those that are not known or would change nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cnnlab.errors import ConfigError

RUN = "run folder, gs://BUCKET/RUN, or wandb:ENTITY/PROJECT/ARTIFACT:ALIAS"


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")


def add_trust_code(parser: argparse.ArgumentParser) -> None:
    what = "run code of your own that the run names (module:Class): its model or dataset"
    parser.add_argument("--trust-code", action="store_true", help=what)


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    what = "folder of your own options, recipes and experiments (default: ./conf where there is one)"
    parser.add_argument("--config-dir", metavar="DIR", help=what)
    trust = "run code (module:Class) named in those files or in --config; code named on the command line always runs"
    parser.add_argument("--trust-code", action="store_true", help=trust)


def refuse_ignored(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise ConfigError for the first of these options that was given: it would change nothing."""
    for name in names:
        value = getattr(options, name, None)
        if value is not None and value is not False and value != []:
            positional = name in ("name", "overrides")
            given = repr(value if isinstance(value, str) else value[0]) if positional else f"--{name.replace('_', '-')}"
            raise ConfigError(f"{given} {why}; leave one of them out.")


def as_key(option: str, words: Sequence[str]) -> str:
    """How a setting that was given as an option, such as --epochs 3, is written; "" for what is no setting.

    Args:
        words: the whole command line.
    """
    if not option.startswith("--"):
        return ""
    from cnnlab.config import GROUPS, keys_like

    name, _, value = option.lstrip("-").partition("=")
    after = words[list(words).index(option) + 1 :][:1]
    value = value or next((word for word in after if not word.startswith("-")), "VALUE")
    keys = [name] if name in GROUPS else keys_like(name)
    return f"; settings are written without dashes, as {keys[0]}={value}" if keys else ""
