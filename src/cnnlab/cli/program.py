"""The program `cnnlab`: parse the words, run the command, and end with its exit code."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from cnnlab import streams
from cnnlab.cli.arguments import as_key
from cnnlab.cli.commands import COMMANDS
from cnnlab.errors import CnnlabError, ConfigError, Interrupted, nearest, one_line, refused
from cnnlab.signals import CtrlC


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, one_line(f"{self.prog}: {message}; see {self.prog} --help") + "\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cnnlab",
        description="From a set of images to a trained and tested convolutional network, one command per step.",
        epilog="cnnlab COMMAND --help shows the command's options and examples. Start with: cnnlab train",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        own = parsers.add_parser(
            name,
            help=command.SUMMARY,
            description=command.SUMMARY[0].upper() + command.SUMMARY[1:] + ".",
            epilog=command.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(own)
    return parser


def command_line() -> NoReturn:
    """`main` as a process of its own, which starts and ends without needless work.

    Importing torch makes a million objects that stay; looking for garbage among them took a fifth of that time. And at
    the end the system takes the memory back at once, where the interpreter would free each object of torch's first.
    """
    gc.set_threshold(50_000, 20, 50)
    # Threads that wait must not spin: beside other programs they hold the cores they wait for. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    code = main()
    if os.name == "posix":
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(code or 130))
    try:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BrokenPipeError, ValueError):  # nobody reads on; closed
                stream.flush()
    except OSError as error:
        code = code or 1
        with contextlib.suppress(OSError):
            os.write(2, f"cnnlab: the output could not be written: {error}.\n".encode())
    atexit._run_exitfuncs()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 our failure, 2 the user's input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    streams.prepare()
    with CtrlC() as ctrl_c:
        try:
            return _dispatch(words)
        except (Exception, KeyboardInterrupt) as error:
            name = next((word for word in words if not word.startswith("-")), "")
            code, line = _ended_by(error, f"cnnlab {name}".rstrip(), ctrl_c.pressed)
            if line and os.environ.get("RANK", "0") == "0":  # several processes stop together
                print(line, file=sys.stderr)
            if code == 1:
                raise
            return code


def _dispatch(words: list[str]) -> int:
    """Parse, and do what is asked for; return the exit code. Raises what went wrong."""
    parser = build_parser()
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        hint = f" Did you mean: cnnlab train {words[0]}" if "=" in words[0] else nearest(words[0], COMMANDS)
        parser.exit(2, one_line(f"cnnlab: unknown command {words[0]!r}.{hint}") + "\n")
    options, rest = parser.parse_known_args(words)
    if options.version:
        from cnnlab import __version__

        print(__version__)
        return 0
    if options.command is None and not rest:
        parser.print_help()
        return 0
    if options.command is None:
        parser.error(f"unknown argument {rest[0]!r}")
    if rest:
        overrides = getattr(options, "overrides", None)
        if overrides is None or any(word.startswith("-") for word in rest):
            hint = as_key(rest[0], words) if overrides is not None else ""
            raise ConfigError(f"unknown argument {rest[0]!r}{hint}; see cnnlab {options.command} --help")
        overrides += rest
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of a damaged image one line says what matters
    options.called = ["cnnlab", *words]
    COMMANDS[options.command].run(options)
    return 0


def _ended_by(error: BaseException, name: str, pressed: bool) -> tuple[int, str]:
    """The exit code for what ended a command, and the line to print. 1: it is a failure of ours, to be raised.

    Args:
        name: of the command.
        pressed: Ctrl-C was; whatever it was turned into on its way here, it is what ended the command.
    """
    if isinstance(error, Interrupted):
        return error.exit_code, f"\n{error}"
    if pressed or isinstance(error, KeyboardInterrupt):
        return 130, "\nstopped."
    if isinstance(error, BrokenPipeError):
        return 0, ""
    wrong = error if isinstance(error, CnnlabError) else refused(error)
    return (1, "") if wrong is None else (wrong.exit_code, one_line(f"{name}: {wrong}"))
