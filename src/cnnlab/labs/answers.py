"""How the checks of the labs call an answer and read what it returns."""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

OURS = str(Path(__file__).parent)


class Wrong(Exception):
    """The answer is wrong; `str(error)` is the hint."""


class NotAnswered(Exception):
    """The cell is as it was."""


def call(answer: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What the answer returns.

    Raises:
        NotAnswered: it returns None or `...`, or raises NotImplementedError.
        Wrong: it is no function or class, or raises an error.
    """
    if not callable(answer):
        raise Wrong(f"this must be a function or a class, got {short(answer)}. Give its name, without ().")
    with attempt():
        returned = answer(*arguments, **keywords)
    if returned is None or returned is ...:
        raise NotAnswered
    return returned


@contextmanager
def attempt() -> Iterator[None]:
    """Inside it, code of the student runs: its NotImplementedError is no answer, another error a wrong one."""
    try:
        yield
    except (Wrong, NotAnswered):
        raise
    except NotImplementedError as error:
        raise NotAnswered from error
    except Exception as error:
        raise Wrong(last_line(error)) from error


def last_line(error: BaseException) -> str:
    """The last line of its traceback, with the student's own line that led there."""
    message = [line for line in traceback.format_exception_only(error)[-1].strip().splitlines() if line.strip()]
    said = message[0] if message else type(error).__name__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((OURS, sys.prefix, sys.base_prefix, "<frozen")):
            line = linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f"{said} (in your line `{line}`)" if line else said
    return said


def short(value: object) -> str:
    """A value as a hint shows it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a NumPy array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def tensor(value: Any, shape: tuple[int, ...], name: str = "the result") -> Tensor:
    """`value` as a float32 tensor of this shape. Raises Wrong."""
    if not isinstance(value, Tensor):
        raise Wrong(f"{name} must be a torch.Tensor, got {short(value)}.")
    if tuple(value.shape) != shape:
        raise Wrong(f"{name} must have shape {shape}, got {tuple(value.shape)}.")
    value = value.detach().float()
    if not value.isfinite().all():
        raise Wrong(f"{name} has values that are infinite or NaN.")
    return value


def number(value: Any, name: str = "the result") -> float:
    """`value`, a number or a tensor of one, as a float. Raises Wrong."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise Wrong(f"{name} must be a number, got {short(value)}.")
    return float(value)


def pair(value: Any, names: str) -> tuple[Any, Any]:
    """`value` as its two parts. Raises Wrong."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Wrong(f"return two things, {names}; got {short(value)}.")
    return value[0], value[1]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Equal up to rounding, as measured on the largest value."""
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


def compare(
    got: Tensor, right: Tensor, mistakes: Mapping[str, Tensor], otherwise: str, tolerance: float = 1e-4
) -> None:
    """Raise Wrong with the hint of the mistake that gives just what was got, or with `otherwise` and the difference."""
    if close(got, right, tolerance):
        return
    for hint, result in mistakes.items():
        if close(got, result, tolerance):
            raise Wrong(hint)
    raise Wrong(f"{otherwise} The largest difference is {(got - right).abs().max().item():.3g}.")


def whole(draw: torch.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=draw))
