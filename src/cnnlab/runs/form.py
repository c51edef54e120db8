"""The form of a run's JSON files, checked whenever one is read: a copy from elsewhere may hold anything.

A form is a type, or a container of forms: {key: form} an object with at least these keys ("key?" may be missing or
null), [form] a list of any length, (form, form) a list of that length, Each(form) an object with any keys, Maybe(form)
null or the form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Each:
    form: Any


@dataclass(frozen=True)
class Maybe:
    form: Any


NUMBER = float  # whole numbers are numbers, true and false are not

EPOCH = {
    "epoch": int,
    "step": int,
    "lr": NUMBER,
    "train_loss": Maybe(NUMBER),
    "train_accuracy": Maybe(NUMBER),
    "val_loss": Maybe(NUMBER),
    "val_accuracy": Maybe(NUMBER),
    "seconds": NUMBER,
    "images_per_second": NUMBER,
    "gradient_norm?": NUMBER,
}
FOLDS = {"accuracies": [NUMBER], "mean": NUMBER, "standard_deviation": NUMBER, "interval": (NUMBER, NUMBER)}
TEST = {
    "loss": Maybe(NUMBER),
    "accuracy": NUMBER,
    "accuracy_interval": (NUMBER, NUMBER),
    "n": int,
    "calibration?": {"temperature?": NUMBER},
    "thresholds?": {"values": [NUMBER]},
}
CARD = {
    "model": {"name": str, "arguments": Each(Any)},
    "classes": [str],
    "preprocess": {"layout": Each(Any), "mean": [NUMBER], "std": [NUMBER]},
    "epoch": int,
    "task?": str,
    "val_loss?": NUMBER,
    "val_accuracy?": NUMBER,
}
SPLIT = {
    "sha256": {"train": str, "val": str, "test": str},
    "sizes?": Each(int),
    "quarantined?": [Each(Any)],
    "members?": Each([str]),
    "classes?": [str],
}
INIT = {"source": str, "summary": str}
ENVIRONMENT = {
    "machine?": {"processes?": int, "threads?": int},
    "versions?": Each(str),
    "git?": Each(Any),
}


def misfit(value: Any, form: Any, at: str = "") -> str:
    """Where a value first departs from a form, in words; "" where it does not."""
    place = at or "the whole"
    if isinstance(form, Maybe):
        return "" if value is None else misfit(value, form.form, at)
    if isinstance(form, dict):
        if not isinstance(value, Mapping):
            return f"{place} should hold {', '.join(key.rstrip('?') for key in form)}"
        for key, inner in form.items():
            name, optional = key.rstrip("?"), key.endswith("?")
            if name not in value and not optional:
                return f"{name} is missing" + (f" in {at}" if at else "")
            there = not optional or value.get(name) is not None
            if there and (wrong := misfit(value[name], inner, f"{at}.{name}" if at else name)):
                return wrong
        return ""
    if isinstance(form, Each):
        if not isinstance(value, Mapping):
            return f"{place} should hold keys and values"
        return next(filter(None, (misfit(inner, form.form, f"{at}.{key}"[:80]) for key, inner in value.items())), "")
    if isinstance(form, list | tuple):
        if not isinstance(value, list) or (isinstance(form, tuple) and len(value) != len(form)):
            return f"{place} should be a list" + (f" of {len(form)}" if isinstance(form, tuple) else "")
        forms = form if isinstance(form, tuple) else form * len(value)
        pairs = enumerate(zip(value, forms, strict=True))
        return next(filter(None, (misfit(inner, one, f"{at}[{i}]") for i, (inner, one) in pairs)), "")
    if form is Any:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float) if form is float else form):
        return f"{place} should be {'a number' if form is float else 'a whole number' if form is int else 'a text'}"
    if isinstance(value, int | float) and not -1e300 < value < 1e300 and value == value:  # NaN is a measured loss, too
        return f"{place} is beyond what a figure can be"
    return ""
