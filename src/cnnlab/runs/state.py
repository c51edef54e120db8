"""The training state: one file, all that a bit-exact resume needs. It loads without executing anything in it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from cnnlab.errors import RunError
from cnnlab.runs.files import write_whole


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Tensors, numbers, texts, lists and dictionaries only."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Raises RunError if the file is damaged or holds anything but data."""
    try:
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
