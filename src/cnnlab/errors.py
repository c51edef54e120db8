"""What a user can do wrong. Every error here ends a command with exit code 2 and one line.

A message names the thing, says why it is refused, and how to fix it.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from unicodedata import category

SHOWN = 24  # names to list where none is near


class CnnlabError(Exception):
    """Something the user gave, or the machine they gave it on, is wrong; `str(error)` is the one line they read."""

    exit_code = 2


class ConfigError(CnnlabError):
    """A key, a value or an option of the configuration."""


class DataError(CnnlabError):
    """The images, their folders or their labels."""


class ModelError(CnnlabError):
    """A model's name, its arguments, or an image that does not fit it."""


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


FIXES = {  # of what the system refuses
    errno.ENOSPC: "no space left on the disk; free some and try again",
    errno.EDQUOT: "no space left in your share of the disk; free some and try again",
    errno.ENOMEM: "not enough memory; close other programs, or work on less",
    errno.EMFILE: "too many files are open; allow more with `ulimit -n`",
    errno.ENAMETOOLONG: "this name is too long; give a shorter one",
    errno.EACCES: "no permission; change it, or choose another place",
    errno.EPERM: "no permission; change it, or choose another place",
    errno.EROFS: "this disk can only be read; choose another place",
    errno.EIO: "the disk reports an error; try again, or choose another place",
}
NO_MEMORY = ("failed to map segment", "annot allocate memory", "can't allocate memory", "can't start new thread")


def refused(error: BaseException) -> CnnlabError | None:
    """What the system refused while a command ran, as one line; None where the failure is ours.

    An OSError that is neither in FIXES nor about a file, such as a bad descriptor, is a mistake in the code.
    """
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return CnnlabError(f"{FIXES[errno.ENOMEM]} (`ulimit -v` may be what limits it).")
    if not isinstance(error, OSError) or error.errno is None:
        return None
    place = f"{error.filename}: " if isinstance(error.filename, str) else ""
    if error.errno in FIXES:
        return CnnlabError(f"{place}{FIXES[error.errno]}.")
    return CnnlabError(f"{place}{error.strerror}; fix that and try again.") if place else None


def one_line(text: str) -> str:
    """The same to be printed: what is no valid text, or would move the cursor, as an escape; any space stays."""
    shown = "".join(c if c.isprintable() or category(c) == "Zs" else repr(c)[1:-1] for c in text)
    return shown.encode(errors="backslashreplace").decode()


def nearest(name: str, options: Iterable[str], prefix: str = "") -> str:
    """Return " Did you mean 'resnet'?" for the option closest to `name`, else the first options in order.

    Each option is shown behind `prefix`, as the folder that paths compared by their last names lie in.
    """
    options = sorted(options)
    folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {prefix + folded[close[0]]!r}?"
    shown = ", ".join(prefix + option for option in options[:SHOWN]) + (", …" if len(options) > SHOWN else "")
    return f" Known: {shown}." if options else ""
