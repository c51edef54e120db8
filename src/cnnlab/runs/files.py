"""Files of a run folder: written atomically, in a folder that nothing leads out of, and checked when they are read."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

from cnnlab import files
from cnnlab.errors import RunError
from cnnlab.runs.schema import validate
from cnnlab.values import overgrown, to_json

# W&B links a log of its own from there into its cache; nothing here reads or writes in that folder.
WANDB_LOGS = re.compile(r"wandb/[^/]+/logs/debug[\w-]*\.log")


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one and nothing between.

    Raises:
        RunError: no room, or no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, data)
    except OSError as error:
        raise write_error(path, error) from None


def refuse_links(folder: Path) -> None:
    """Refuse a folder that reading or writing could leave: a copy from elsewhere may hold anything.

    The folder itself and those above it may be links: the user chose them.

    Raises:
        RunError: something in it is a link that leads out, is neither a file nor a folder (a pipe is waited for
            forever), or is a lock that is another file, too.
    """
    root = os.path.realpath(folder)
    left = [root]
    while left:
        try:
            entries = list(os.scandir(left.pop()))
        except OSError:  # who reads or writes there says why
            continue
        for entry in entries:
            if WANDB_LOGS.fullmatch(os.path.relpath(entry.path, root)):
                continue
            if wrong := _leads_elsewhere(entry, root):
                raise RunError(f"{folder / os.path.relpath(entry.path, root)} {wrong}.")
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.path)


def _leads_elsewhere(entry: os.DirEntry[str], root: str) -> str:
    """Why an entry is refused, and what to do about it; "" for one that is not."""
    if entry.is_symlink():
        inside = Path(os.path.realpath(entry.path)).is_relative_to(root)
        return "" if inside else "is a link that leads out of its folder; delete it, or put a copy in its place"
    if entry.is_dir(follow_symlinks=False):
        return ""
    if not entry.is_file(follow_symlinks=False):
        return "is neither a file nor a folder; delete it"
    if entry.name.endswith(".lock") and has_second_name(Path(entry.path)) and entry.stat().st_size:
        return "is a lock with a second hard link, and a lock may be emptied; delete it"
    return ""


def has_second_name(path: Path) -> bool:
    """Whether a file is a hard link, so that writing on in it would change another one."""
    return path.exists() and path.lstat().st_nlink > 1


def separate(path: Path) -> None:
    """Make a file that has a second name a file of its own, before it is written on.

    Raises:
        RunError: no room, or no permission.
    """
    if has_second_name(path):
        write_whole(path, path.read_bytes())


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


def read_record(path: Path, schema: Any) -> dict[str, Any]:
    """A JSON object of this schema (runs/schema.py). Raises RunError for anything else."""
    record: dict[str, Any] = read_json(path)
    if wrong := validate(record, schema):
        raise RunError(f"{path} is damaged: {wrong}; restore it from a copy.")
    return record


def write_error(path: Path, error: OSError) -> RunError:
    """One line for what kept us from writing."""
    if error.errno == errno.ENOSPC:
        run = path.parent if path.name == "metrics.jsonl" else path.parent.parent
        in_training = path.name == "metrics.jsonl" or path.parent.name in ("last", "best")
        again = f"run `cnnlab resume {run}`" if in_training else "try again"
        return RunError(f"no space left to write {path}; free some and {again}.")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return RunError(f"no permission to write {path}; choose another folder.")
    if isinstance(error, FileExistsError | NotADirectoryError):
        return RunError(f"cannot write {path}: a file stands where a folder is needed; choose another.")
    return RunError(f"cannot write {path}: {error.strerror or error}; choose another folder.")
