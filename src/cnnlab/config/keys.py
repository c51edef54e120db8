"""One key of the configuration: what it means, its range or its choices, and how a value of it is read.

A field of a schema says all of it in one place, and `cnnlab train --options` prints it:

    epochs: int = key(10, "passes over the training images", within="[1, inf)")
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnlab.errors import ConfigError
from cnnlab.values import spelled

KINDS = {  # an annotation in words
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list[float]": "a list of numbers",
    "list[str]": "a list of texts",
    "dict[str, str]": "keys and values",
    "dict[str, Any]": "keys and values",
}
TRUE, FALSE = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")


@dataclass(frozen=True)
class Interval:
    """Numbers between two ends, from the notation of mathematics: "[0, 1)" holds 0 and not 1."""

    low: float
    high: float
    holds_low: bool
    holds_high: bool

    @classmethod
    def read(cls, text: str) -> Interval:
        low, high = text[1:-1].split(",")
        return cls(float(low), float(high), text[0] == "[", text[-1] == "]")

    def __contains__(self, value: float) -> bool:
        above = self.low <= value if self.holds_low else self.low < value  # what is not a number is in no interval
        return above and (value <= self.high if self.holds_high else value < self.high)

    def __str__(self) -> str:
        if self.holds_low and self.holds_high:
            return f"from {self.low:g} to {self.high:g}"
        low = f"at least {self.low:g}" if self.holds_low else f"above {self.low:g}"
        if self.high == float("inf"):
            return low
        return f"{low} and {'at most' if self.holds_high else 'below'} {self.high:g}"


def key(
    default: Any, about: str, *, within: str | None = None, choices: Sequence[Any] = (), kind: str | None = None
) -> Any:
    """A field of a schema.

    Args:
        about: what it means, in one short line.
        within: the interval that a number must lie in, such as "[0, 1)".
        choices: the values it can take.
        kind: its type in words, where the annotation does not say it.
    """
    interval = Interval.read(within) if within else None
    told = {"about": about, "within": interval, "choices": tuple(choices), "kind": kind}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=told)
    return field(default=default, metadata=told)


def check_keys(section: str, values: Any) -> None:
    """Raise ConfigError for the first value of a section, a dataclass of keys, that is out of range or no choice."""
    for one in dataclasses.fields(values):
        value, name = getattr(values, one.name), f"{section}.{one.name}"
        interval, choices = one.metadata.get("within"), one.metadata.get("choices")
        if choices and not any(value == choice and type(value) is type(choice) for choice in choices):
            raise ConfigError(f"{name} must be one of {', '.join(map(shown, choices))}, got {value!r}.")
        if interval is not None and value is not None and value not in interval:
            raise ConfigError(f"{name} must be {interval}, got {value}.")


def describe_type(one: dataclasses.Field[Any]) -> str:
    """The type of a key in words, with its range or its choices: "a whole number, at least 1, or null"."""
    if choices := one.metadata.get("choices"):
        return " | ".join(map(shown, choices))
    told = one.metadata.get("kind")
    if not told:
        told = KINDS.get(str(one.type).removesuffix(" | None"), "a value")
        told += f", {interval}" if (interval := one.metadata.get("within")) else ""
        told += ", or null" if str(one.type).endswith("None") else ""
    return str(told)


def shown(value: Any) -> str:
    """A value as one writes it on the command line or in YAML."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def read_value(name: str, value: Any, one: dataclasses.Field[Any]) -> Any:
    """What was given for a key → a value of its type. Raises ConfigError, in our words, where it is none."""
    kind, optional = str(one.type).removesuffix(" | None"), str(one.type).endswith("None")
    if value is None and optional:
        return None
    if isinstance(value, str) and (choices := one.metadata.get("choices")):
        value = spelled(value, [choice for choice in choices if isinstance(choice, str)])
    try:
        return READERS[kind](value)
    except (ValueError, TypeError, OverflowError):
        given = shown(value) if (value is None or isinstance(value, bool)) else repr(value)
        wanted = KINDS.get(kind, "a number, text, or a list of them") + (" or null" if optional else "")
        raise ConfigError(f"{name} must be {wanted}, got {given}.") from None


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    return float(value)


def _truth(value: Any) -> bool:
    word = str(value).lower() if isinstance(value, bool | int | str) else ""
    if word not in TRUE + FALSE:
        raise ValueError
    return word in TRUE


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    return str(value)


def _numbers(value: Any) -> list[float]:
    if not isinstance(value, list | tuple):
        raise ValueError
    return [_number(one) for one in value]


def _names(value: Any) -> list[str]:
    """One text stands for a list of one."""
    return [_text(one) for one in (value if isinstance(value, list | tuple) else [value])]


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError
    return {_text(key): _text(inner) for key, inner in value.items()}


def _arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError
    return {_text(key): plain(inner) for key, inner in value.items()}


def plain(value: Any) -> Any:
    """A copy of what YAML can hold. Raises ValueError for anything else, such as a date."""
    if isinstance(value, Mapping):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError


READERS = {
    "int": _whole,
    "float": _number,
    "bool": _truth,
    "str": _text,
    "list[float]": _numbers,
    "list[str]": _names,
    "dict[str, str]": _texts,
    "dict[str, Any]": _arguments,
    "Any": plain,
}
