"""Code of the user's own by name: "package.module:Class"."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from cnnlab.errors import CnnlabError

NAMED = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


def names_code(name: object) -> bool:
    """Whether it is of the form "package.module:Class"."""
    return isinstance(name, str) and re.fullmatch(NAMED, name) is not None


def import_named(name: str, what: str, error_class: type[CnnlabError], fits: Callable[[type], bool]) -> Any:
    """The class or function of that name; its module is imported, the working folder is searched first.

    Args:
        what: the key that named it, for the message: "model" or "data".
        fits: whether a class is one of those that are looked for. Of functions those that the module defines are taken.

    Raises:
        error_class: no such module or class, its code fails, or it is nothing that could be meant.
    """
    module, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # the module is the user's: anything can come out of it
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = " It is looked for in this folder and in PYTHONPATH." * isinstance(error, ModuleNotFoundError)
        raise error_class(
            f"cannot import {attribute!r} from {module!r} for {what}={name}: {reason.rstrip('.')}.{where}"
        ) from error
    if not callable(found):
        raise error_class(f"{what}={name} must name a class or a function, got a {type(found).__name__}.")
    defined_there = inspect.isroutine(found) and f"{found.__module__}.".startswith(f"{module}.")
    if not (fits(found) if inspect.isclass(found) else defined_there):
        kinds = {"model": "an nn.Module", "data": "a torch Dataset or DataLoader"}
        raise error_class(
            f"{what}={name} must name {kinds[what]}, or a function that {module} defines and that gives one; it is"
            " neither."
        )
    return found
