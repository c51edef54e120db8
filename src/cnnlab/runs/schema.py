"""The schemas of a run's JSON files. Each file is validated when it is read: a copy from elsewhere may hold anything.

A schema is a type, or a container of schemas: {key: schema} an object with at least these keys ("key?" may be missing
or null), [schema] a list of any length, (schema, schema) a list of that length, Each(schema) an object with any keys,
Maybe(schema) null or the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Each:
    schema: Any


@dataclass(frozen=True)
class Maybe:
    schema: Any


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
OBJECTS = {"fill": NUMBER, "background": Maybe([NUMBER]), "contrast": NUMBER}
INIT = {"source": str, "summary": str}
ENVIRONMENT = {
    "machine?": {"processes?": int, "threads?": int},
    "versions?": Each(str),
    "git?": Each(Any),
}


def validate(value: Any, schema: Any, at: str = "") -> str:
    """The first way in which a value does not match a schema, as a phrase; "" for a valid one."""
    place = at or "the whole"
    if isinstance(schema, Maybe):
        return "" if value is None else validate(value, schema.schema, at)
    if isinstance(schema, dict):
        if not isinstance(value, Mapping):
            return f"{place} should hold {', '.join(key.rstrip('?') for key in schema)}"
        for key, inner in schema.items():
            name, optional = key.rstrip("?"), key.endswith("?")
            if name not in value and not optional:
                return f"{name} is missing" + (f" in {at}" if at else "")
            there = not optional or value.get(name) is not None
            if there and (wrong := validate(value[name], inner, f"{at}.{name}" if at else name)):
                return wrong
        return ""
    if isinstance(schema, Each):
        if not isinstance(value, Mapping):
            return f"{place} should hold keys and values"
        return next(
            filter(None, (validate(inner, schema.schema, f"{at}.{key}"[:80]) for key, inner in value.items())), ""
        )
    if isinstance(schema, list | tuple):
        if not isinstance(value, list) or (isinstance(schema, tuple) and len(value) != len(schema)):
            return f"{place} should be a list" + (f" of {len(schema)}" if isinstance(schema, tuple) else "")
        schemas = schema if isinstance(schema, tuple) else schema * len(value)
        pairs = enumerate(zip(value, schemas, strict=True))
        return next(filter(None, (validate(inner, one, f"{at}[{i}]") for i, (inner, one) in pairs)), "")
    if schema is Any:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float) if schema is float else schema):
        return f"{place} should be {'a number' if schema is float else 'a whole number' if schema is int else 'a text'}"
    if isinstance(value, int | float) and not -1e300 < value < 1e300 and value == value:  # NaN is a measured loss, too
        return f"{place} is out of range"
    return ""
