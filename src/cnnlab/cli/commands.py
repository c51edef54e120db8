"""The commands, in the order of `cnnlab --help`. A new one is a module of this folder and a line here."""

from __future__ import annotations

import argparse
from typing import Protocol

from cnnlab.cli import compare, data, demo, explain, export, localize, look, model, predict, resume, study, test, train


class Command(Protocol):
    """What the module of a command holds.

    SUMMARY is its line in `cnnlab --help`, EXAMPLES the end of its own help. `run` raises what goes wrong, and
    `program.main` makes a line and an exit code of it. Beside its arguments, `options.called` holds the words of the
    command line, "cnnlab" first, which a run folder keeps.
    """

    SUMMARY: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> None: ...


COMMANDS: dict[str, Command] = {
    "train": train,
    "resume": resume,
    "test": test,
    "predict": predict,
    "explain": explain,
    "localize": localize,
    "look": look,
    "model": model,
    "data": data,
    "study": study,
    "compare": compare,
    "export": export,
    "demo": demo,
}
