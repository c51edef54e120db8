"""What was read from a file, before anyone relies on it, and what is written for others to read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

DEEPEST = 32  # nested containers; nothing of ours is deeper, and what walks through them by calling itself would fail
MOST = 1_000_000  # containers; in YAML a few lines can stand for billions


def overgrown(value: Any) -> bool:
    """Whether containers are nested deeper, or are more, than in any file of ours."""
    left, seen = [(value, 0)], 0
    while left:
        holder, depth = left.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST:
            return True
        inner = holder.values() if isinstance(holder, dict) else holder if isinstance(holder, list) else ()
        left += [(one, depth + 1) for one in inner if isinstance(one, dict | list)]
    return False


def are_names(values: Any) -> bool:
    """Whether these are texts that can be shown anywhere: no control characters, none that turns the line round."""
    return isinstance(values, list | tuple) and all(isinstance(v, str) and v.isprintable() for v in values)


def to_json(value: Any, **layout: Any) -> str:
    """JSON that every reader takes: NaN and infinities, for which it has no words, become null.

    Args:
        layout: indent, ensure_ascii and the like of `json.dumps`.
    """
    return json.dumps(_finite(value), allow_nan=False, **layout)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def spelled(text: Any, choices: Iterable[str]) -> Any:
    """The choice that a text means: the same but for case, "_" and "-" ("LeakyReLU": leaky_relu); else as it was."""

    def plain(name: str) -> str:
        return name.casefold().replace("_", "").replace("-", "")

    if not isinstance(text, str):
        return text
    return next((choice for choice in choices if plain(choice) == plain(text)), text)
