"""Files that are whole or not there: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from cnnlab import files
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, payload)
    except OSError as error:
        raise write_error(path, error) from None


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
