"""Code of the user's own by name: "package.module:Class", and what is known by a name."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from cnnlab.errors import CnnlabError, ConfigError, nearest

T = TypeVar("T")
PLACEHOLDER = "module:Class"  # the name of data=any and model=any: one of the user's own is to stand there
NAMED = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


def names_code(name: object) -> bool:
    """Whether it is of the form "package.module:Class"."""
    return isinstance(name, str) and re.fullmatch(NAMED, name) is not None


def import_named(name: str, what: str, error_class: type[CnnlabError], fits: Callable[[type], bool]) -> Any:
    """The class or function of that name; its module is imported, the working folder is searched first.

    Args:
        what: the key that named it, for the message, such as "model" or "data".
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
        if name == PLACEHOLDER and isinstance(error, ModuleNotFoundError):
            raise error_class(
                f"{what}=any stands for a class of your own: name its file and the class, as {what}=mine:Own for the"
                " class Own of mine.py."
            ) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = " It is searched in this folder and in PYTHONPATH." * isinstance(error, ModuleNotFoundError)
        raise error_class(
            f"cannot import {attribute!r} from {module!r} for {what}={name}: {reason.rstrip('.')}.{where}"
        ) from error
    if not callable(found):
        raise error_class(f"{what}={name} must name a class or a function, got a {type(found).__name__}.")
    defined_there = inspect.isroutine(found) and f"{found.__module__}.".startswith(f"{module}.")
    if not (fits(found) if inspect.isclass(found) else defined_there):
        gives = f"or a function that {module} defines and that gives one"
        kinds = {
            "model": f"an nn.Module, {gives}",
            "data": f"a torch Dataset or DataLoader, {gives}",
        }
        raise error_class(f"{what}={name} must name {kinds.get(what, f'a class, {gives}')}; it is neither.")
    return found


class Registry(Generic[T]):
    """Functions and classes by name; those of the user's own by "package.module:name", once they are imported.

    Args:
        key: of the configuration, whose value the name is.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.known: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make a function or class known by `name`."""

        def register(found: T) -> T:
            self.known[name] = found
            return found

        return register

    def find(self, name: str) -> T:
        """Raises ConfigError for a name that is not known."""
        if name in self.known:
            return self.known[name]
        if names_code(name):
            raise ConfigError(f"{self.key}={name} is code of your own and is not imported; add --trust-code.")
        names = ", ".join([*(one for one in self.known if not names_code(one)), "or module:name"]).removeprefix("or ")
        raise ConfigError(f"{self.key} must be {names}, got {name!r}.{nearest(name, self.known)}")

    def load(self, name: str | None) -> None:
        """Import the module that a "package.module:name" is of, which runs its code; other names are let pass."""
        if name is not None and names_code(name) and name not in self.known:
            self.known[name] = import_named(name, self.key, ConfigError, lambda kind: True)
