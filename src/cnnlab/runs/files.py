"""Files that are whole or not there: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
from pathlib import Path
from typing import Any

from cnnlab.errors import RunError
from cnnlab.runs.form import misfit
from cnnlab.values import overgrown, to_json


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one and nothing between.

    Raises:
        RunError: no room, or no permission.
    """
    # File names of another encoding come from the system with surrogates; they leave as they came.
    payload = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sweep(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise write_error(path, error) from None


def _sweep(path: Path) -> None:
    """Remove what writers of this file left that were killed; one that is alive keeps its own."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        writer = stale.name.split(".")[-2]
        if os.name == "posix" and writer.isdecimal() and not _alive(int(writer)):
            with contextlib.suppress(OSError):
                stale.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    write_whole(path, to_json(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises RunError for a missing or damaged file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; is {path.parent} a run folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}); restore it from a copy.") from None
    if overgrown(value):
        raise RunError(f"{path} is damaged: its values are nested too deep, or too many; restore it from a copy.")
    return value


def read_record(path: Path, form: Any) -> dict[str, Any]:
    """An object of this form (runs/form.py). Raises RunError for anything else."""
    record: dict[str, Any] = read_json(path)
    if wrong := misfit(record, form):
        raise RunError(f"{path} is damaged: {wrong}; restore it from a copy.")
    return record


def write_error(path: Path, error: OSError) -> RunError:
    """One line for what kept us from writing."""
    if error.errno == errno.ENOSPC:
        return RunError(f"no space left to write {path}; free some and run `cnnlab resume {path.parent}`.")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return RunError(f"no permission to write {path}; choose another run.dir.")
    if isinstance(error, FileExistsError | NotADirectoryError):
        return RunError(f"cannot write {path}: a file stands where a folder is needed; choose another run.dir.")
    return RunError(f"cannot write {path}: {error.strerror or error}; choose another run.dir.")


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
