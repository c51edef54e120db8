"""The training state: one file, all that a bit-exact resume needs. It loads without executing anything in it.

A file of the right form may still hold anything: `differs` compares it with a state of the training at hand.
"""

from __future__ import annotations

import io
import threading
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnlab.errors import RunError
from cnnlab.host_device import fetch, separate
from cnnlab.runs.files import write_whole


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Tensors, numbers, texts, lists and dictionaries only."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


class StateWriter:
    """Writes training states; those of an accelerator in a thread, while training goes on.

    The state is the one of the moment of `write`, and the file is the whole new one or stays the old one. What kept the
    thread from writing is raised by `wait`, unless a later state could be written. Leaving a `with` block waits.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, path: Path, state: dict[str, Any], device: torch.device) -> None:
        """Where the state before could not be written, this one is written at once.

        Raises RunError: no room, or no permission.
        """
        before = self._ended()
        if device.type == "cpu":
            save_state(path, state)
            return
        if before is not None:
            save_state(path, separate(fetch(state)))
            return
        self._thread = threading.Thread(target=self._save, args=(path, fetch(state)), name="save")
        self._thread.start()

    def wait(self) -> None:
        """Return when everything is written. Raises RunError: no room, or no permission."""
        if (error := self._ended()) is not None:
            raise error

    def _ended(self) -> BaseException | None:
        """What kept the thread from writing, after it has ended."""
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        return error

    def _save(self, path: Path, fetched: dict[str, Any]) -> None:
        try:
            save_state(path, separate(fetched))
        except BaseException as error:
            self._error = error

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()


def load_state(path: Path) -> dict[str, Any]:
    """Raises RunError if the file is damaged, holds more than its size, or anything but data."""
    try:
        if zipfile.is_zipfile(path) and _unpacked(path) > path.stat().st_size:  # torch.save packs nothing
            raise ValueError("its parts are larger than the file")
        with warnings.catch_warnings(action="ignore"):  # of what a file by others holds; it is refused or it is not
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage in the right place makes the reader raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in reason:  # torch's advice is to run what it holds; ours is not to
            reason = "it holds more than numbers and texts"
        raise RunError(f"{path} is damaged ({reason[:200]}); restore it from a copy or train again.") from None
    if not isinstance(state, dict) or "model" not in state:
        raise RunError(f"{path} is not a training state of cnnlab.")
    return state


def _unpacked(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def differs(value: Any, like: Any, at: str) -> str:
    """Where a value is of another form than `like`, in words; "" where it is not.

    The same keys, lengths and types; tensors of the same shape and type; numbers finite, and whole where `like` is.
    """
    if isinstance(like, Tensor):
        if not isinstance(value, Tensor):
            return f"{at} should be a tensor"
        same = (value.shape, value.dtype, value.layout) == (like.shape, like.dtype, torch.strided)
        same = same and value.device.type == "cpu"
        return "" if same else f"{at} should be {like.dtype} of shape {tuple(like.shape)}"
    if isinstance(like, dict):
        if not isinstance(value, dict):
            return f"{at} should hold keys and values"
        if value.keys() != like.keys():
            return f"{at} should hold {_shown(like.keys())} and holds {_shown(value.keys())}"
        return next(filter(None, (differs(value[key], inner, f"{at}.{key}") for key, inner in like.items())), "")
    if isinstance(like, list | tuple):
        if type(value) is not type(like) or len(value) != len(like):
            return f"{at} should be {len(like)} values"
        pairs = enumerate(zip(value, like, strict=True))
        return next(filter(None, (differs(one, other, f"{at}[{i}]") for i, (one, other) in pairs)), "")
    whole = isinstance(like, int) and not isinstance(like, bool)
    if whole or isinstance(like, float):
        return "" if _is_number(value, whole) else f"{at} should be a {'whole ' if whole else ''}number"
    return "" if type(value) is type(like) else f"{at} should be {type(like).__name__}"


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return abs(value) < (2**53 if whole else 1e300)


def _shown(keys: Any) -> str:
    return ", ".join(map(str, list(keys)[:3]))[:80] or "nothing"
