"""What a user can do wrong. Every error here ends a command with exit code 2 and one line.

A message names the thing, says why it is refused, and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from unicodedata import category

SHOWN = 24  # names to list where none is near


class CnnlabError(Exception):
    """Something the user gave, or the machine they gave it on, is wrong; `str(error)` is the one line they read."""

    exit_code = 2


class ConfigError(CnnlabError):
    """A key, a value or an option of the configuration."""


class DataError(CnnlabError):
    """The pictures, their folders or their labels."""


class ModelError(CnnlabError):
    """A model's name, its arguments, or a picture that does not fit it."""


class RunError(CnnlabError):
    """A run folder: missing, damaged, taken, or not writable."""


class RemoteError(CnnlabError):
    """A bucket or another place outside this machine: not there, no access, no network, or no package for it."""


class ExportError(CnnlabError):
    """An export that does not answer as its run does, a file that is none, or an extra that is not installed."""


class DeviceError(CnnlabError):
    """A device or a precision that this machine does not have."""


class NonFiniteLoss(CnnlabError):
    """The training loss became infinite or not a number."""


class OutOfMemory(CnnlabError):
    """A batch that is too large for the memory of the device, or of the machine."""


class Interrupted(CnnlabError):
    """The user stopped the command; what was done is saved."""

    exit_code = 130


def one_line(text: str) -> str:
    """The same to be printed: what is no valid text, or would move the cursor, as an escape; any space stays."""
    shown = "".join(c if c.isprintable() or category(c) == "Zs" else repr(c)[1:-1] for c in text)
    return shown.encode(errors="backslashreplace").decode()


def nearest(name: str, options: Iterable[str]) -> str:
    """Return " Did you mean 'resnet'?" for the option closest to `name`, else the first options in order."""
    options = sorted(options)
    folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {folded[close[0]]!r}?"
    shown = ", ".join(options[:SHOWN]) + (", …" if len(options) > SHOWN else "")
    return f" Known: {shown}." if options else ""
