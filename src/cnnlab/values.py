"""What was read from a file, before anyone relies on it."""

from __future__ import annotations

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
