"""Paths that a user gives, and files that are the old ones or the new ones: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path

from cnnlab.errors import ConfigError

LONGEST = 200  # bytes of a name that its temporary file keeps: with what is put around them no system has too many


def is_path(path: Path) -> bool:
    """Whether the system could have a file of this name: not too long, no forbidden character."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return True
    except (OSError, ValueError):
        return False
    return True


def without_scheme(address: str | Path) -> str:
    """file:///folder → /folder, file:///C:/folder → C:/folder; a plain path stays as it is."""
    return re.sub(r"^(file|local)://(/(?=[A-Za-z]:/))?", "", str(address))


def is_remote(address: object) -> bool:
    """Whether an address has a scheme, such as gs://; file:// is this machine."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", str(address)) if isinstance(address, str) else None
    return match is not None and match[1].lower() not in ("file", "local")


def local_path(address: str | Path) -> Path:
    """The path of an address on this machine: no scheme, and `~` the user's home."""
    return Path(os.path.expanduser(without_scheme(address)))


def whole_address(address: str) -> str:
    """The same from any folder: an absolute path, links followed; a full address and what is no name of a file stay."""
    if is_remote(address):
        return address
    try:
        return os.path.realpath(local_path(address))
    except (OSError, ValueError):
        return address


def folder_name(address: str) -> tuple[str, str]:
    """A hash that belongs to an address alone, and its last word for people: names for folders of what is there."""
    address = address.rstrip("/")
    own = hashlib.sha256(address.encode(errors="surrogateescape")).hexdigest()[:12]
    return own, re.sub(r"[^\w.-]+", "-", address.rpartition("/")[2]).strip(".-")[:60] or "root"


def given_path(text: str | Path, what: str) -> Path:
    """A path as a user writes it: file:// is this machine, and ~ a home folder.

    Args:
        what: the key or the option that it was given to, for the message.

    Raises:
        ConfigError: no file can have this name, or there is no such home folder.
    """
    try:
        path = Path(without_scheme(text)).expanduser()
    except RuntimeError:
        raise ConfigError(f"{what}={str(text)[:80]!r} names a home folder that is not known; write it out.") from None
    if not is_path(path):
        raise ConfigError(f"{what}={str(text)[:80]!r} cannot be the name of a file or folder; give another.")
    return path


def given_output(text: str | Path, what: str = "--out") -> Path:
    """A file or folder of this machine to write to, as `given_path`. Raises ConfigError for an address, and for ""."""
    if is_remote(text) or not str(text):
        raise ConfigError(f"{what}={str(text)!r} is no file or folder of this machine; results are written to one.")
    return given_path(text, what)


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one and nothing between.

    A device or a pipe that is there takes the data itself. A link of this name, symbolic or hard, is replaced and not
    written through.

    Raises:
        OSError: no room, or no permission; then nothing is left of it.
    """
    # File names of another encoding come from the system with surrogates; they leave as they came.
    payload = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    if path.exists() and not path.is_file():
        path.write_bytes(payload)
        return
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST])
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a killed process of this number, or a link that was put there
        with open(temporary, "xb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sweep(path.parent, name)
    _sync_folder(path.parent)


def replace(source: Path, target: Path, patience: float = 2.0) -> None:
    """`os.replace`, which Windows refuses as long as another process (TensorBoard, a virus scanner) has the target
    open: there it is tried again for a while.

    Args:
        patience: seconds.

    Raises:
        OSError: as `os.replace`.
    """
    limit = time.monotonic() + patience
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > limit:
                raise
        time.sleep(0.05)


def _sweep(folder: Path, name: str) -> None:
    """Remove what writers of this file left that were killed; one that is alive keeps its own."""
    if os.name != "posix":
        return
    prefix = f".{name}."
    with contextlib.suppress(OSError):
        for stale in os.listdir(folder):  # by hand: a pattern takes twice as long, where a folder fills with images
            writer = stale.removeprefix(prefix).removesuffix(".tmp")
            if stale == f"{prefix}{writer}.tmp" and writer.isdecimal() and not _alive(int(writer)):
                (folder / stale).unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a loss of power, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
