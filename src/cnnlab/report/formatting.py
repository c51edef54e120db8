"""Numbers and settings as a person reads them. What is missing or not a number becomes a dash, never an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup

DASH = "–"
SPACE = "\u202f"  # narrow, does not break: a number and its unit stay on one line


def finite(value: Any) -> float | None:
    """Return `value` as a float, or None for None, NaN, infinities and what is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def percent(value: Any, digits: int = 1) -> str:
    """Write a share in [0, 1] as a percentage; one error in 100,000 is never rounded up to "100.0 %"."""
    part = finite(value)
    if part is None:
        return DASH
    text = f"{100 * part:.{digits}f}"
    if part < 1 and float(text) >= 100:
        text = f">{100 - 10**-digits:.{digits}f}"
    elif part > 0 and float(text) == 0:
        text = f"<{10**-digits:.{digits}f}"
    return f"{text}{SPACE}%"


def number(value: Any, digits: int = 4) -> str:
    """Write a quantity with `digits` significant digits: 0.2137, 12.5, 3e-05."""
    quantity = finite(value)
    return DASH if quantity is None else f"{quantity:.{digits}g}"


def count(value: Any) -> str:
    """Write a whole number with thousands separated: 45,000."""
    quantity = finite(value)
    return DASH if quantity is None else f"{round(quantity):,}"


def duration(seconds: Any) -> str:
    """Write a time in its two largest units: "8.4 s", "3 min 12 s", "2 h 05 min"."""
    total = finite(seconds)
    if total is None:
        return DASH
    if total < 59.95:
        return f"{total:.1f}{SPACE}s"
    whole = round(total)
    if whole < 3600:
        return f"{whole // 60}{SPACE}min {whole % 60:02d}{SPACE}s"
    minutes = round(total / 60)
    return f"{minutes // 60:,}{SPACE}h {minutes % 60:02d}{SPACE}min"


def as_interval(bounds: Any) -> tuple[float, float] | None:
    low, high = (finite(bound) for bound in bounds or (None, None))
    return None if low is None or high is None else (low, high)


def between(bounds: Any, write: Callable[[float], str]) -> str:
    """Write an interval, its unit once: "90.2 to 95.5 %"; empty where it is unknown or without width."""
    interval = as_interval(bounds)
    low, high = map(write, interval) if interval else ("", "")
    unit = f"{SPACE}%"
    if low == high:
        return ""
    return f"{low.removesuffix(unit) if high.endswith(unit) else low} to {high}"


def share(value: Any) -> float:
    """Return `value` held to [0, 1], the length of a bar; what is unknown has none."""
    return min(1.0, max(0.0, finite(value) or 0.0))


def plain(value: Any) -> str:
    """Write a number for the sorting script; what is unknown becomes the empty string."""
    quantity = finite(value)
    return "" if quantity is None else repr(quantity)


def breakable(path: str) -> Markup:
    """Let a long path wrap behind its slashes rather than inside a word."""
    from markupsafe import Markup, escape

    return Markup("/<wbr>").join(escape(part) for part in path.split("/"))


def shorten(text: str, length: int) -> str:
    """Cut `text` to at most `length` characters, the last an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def setting(value: Any) -> str:
    """Write a setting as it would stand in the YAML file: null, true, [3, 5], 0.001."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {setting(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return "[" + ", ".join(setting(item) for item in value) + "]"
    return str(value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Write a nested mapping as (dotted key, value) pairs: {"a": {"b": 1}} → [("a.b", "1")]."""
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", setting(value)))
    return pairs


def groups(tree: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Cut a nested mapping at its first level: (heading, pairs); loose values come first, under "general"."""
    loose = {key: value for key, value in tree.items() if not (isinstance(value, Mapping) and value)}
    nested = {key: value for key, value in tree.items() if key not in loose}
    headed = [(str(key), flatten(value)) for key, value in nested.items()]
    return [("general", flatten(loose)), *headed] if loose else headed
