"""A range of numbers that a search draws from: `0.001..1:log` on the command line, {low: …, high: …} in YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnnlab.errors import ConfigError, nearest

NUMBER = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(?::(.*))?")
MEANT = re.compile(r"[+-]?\.?\d.*\.\.")  # begins with a number and has the two dots
KEYS = ("low", "high", "log", "step")
DIGITS = 4  # significant, of a drawn number: what a person can type again, and finer than any run can tell


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `whole` ones where both ends (and the step) are written as such.

    `log`: in proportion of the logarithm, so that each power of ten is drawn equally often. `step`: low, low + step, …

    Raises:
        ConfigError: nothing lies between the ends, a logarithm of what is not above 0, or a step that does not fit.
    """

    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        name = f"the range of {self.key}"
        if not all(map(math.isfinite, (self.low, self.high))):
            raise ConfigError(f"{name} needs two finite ends, got {self.low} and {self.high}.")
        if self.low >= self.high:
            raise ConfigError(f"{name} must rise, got {self.low:g} to {self.high:g}; give the lower end first.")
        if self.log and self.low <= 0:
            raise ConfigError(f"{name} is logarithmic and must begin above 0, got {self.low:g}.")
        if self.log and self.step is not None:
            raise ConfigError(f"{name} is logarithmic and can have no step; drop one of the two.")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ConfigError(
                f"{name} has a step of {self.step:g}; it must be above 0 and at most {self.high - self.low:g}."
            )

    def text(self, value: float) -> str:
        """A drawn number as an override has it."""
        if self.whole:
            return str(int(value))
        return f"{min(max(float(f'{value:.{DIGITS}g}'), self.low), self.high):.12g}"

    def __str__(self) -> str:
        kind = ", logarithmic" if self.log else f" in steps of {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{kind}{', whole numbers' if self.whole else ''}"


def parse_range(key: str, text: str) -> Range | None:
    """ "0.001..1:log", "8..32" or "8..32:8" → a range; None for what was not meant as one.

    Raises:
        ConfigError: meant as one, and none.
    """
    match = RANGE.fullmatch(text)
    if match is None:
        if MEANT.match(text):
            raise ConfigError(
                f"{key}={text} is no range; write low..high, low..high:log or low..high:STEP, as in"
                " optimizer.lr=0.001..1:log."
            )
        return None
    low, high, kind = match.groups()
    step = None
    if kind is not None and kind != "log":
        if re.fullmatch(NUMBER, kind) is None:
            raise ConfigError(
                f"{key}={text}: after the colon stands log or a step, got {kind!r}.{nearest(kind, ['log'])}"
            )
        step = float(kind)
    whole = all(re.fullmatch(r"[+-]?\d+", part) for part in (low, high, kind or "0") if part != "log")
    return Range(key, float(low), float(high), kind == "log", step, whole)


def range_from_yaml(key: str, given: Mapping[str, Any]) -> Range:
    """{low: 0.001, high: 1, log: true} → a range."""
    for name in given:
        if name not in KEYS:
            raise ConfigError(f"the range of {key} has no {name!r}.{nearest(str(name), KEYS)}")
    numbers: dict[str, float] = {}
    for name in ("low", "high", "step"):
        value = given.get(name)
        if value is None and name == "step":
            continue
        try:  # YAML takes 1e-4 for text
            numbers[name] = float("nan" if isinstance(value, bool) else value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            numbers[name] = math.nan
        if math.isnan(numbers[name]):
            raise ConfigError(f"the range of {key} needs a number for {name}, got {value!r}.")
    if not isinstance(given.get("log", False), bool):
        raise ConfigError(f"the range of {key} is logarithmic or not: log must be true or false, got {given['log']!r}.")
    whole = all(isinstance(given.get(name), int | None) for name in ("low", "high", "step"))
    return Range(key, numbers["low"], numbers["high"], bool(given.get("log")), numbers.get("step"), whole)
