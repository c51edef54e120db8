"""Modules of JavaScript as one script, so that a page needs no other file."""

from __future__ import annotations

import re
from importlib import resources

IMPORT = re.compile(r'^import \{ (.+) \} from "\./([\w-]+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:const|function|class) (\w+))", re.MULTILINE)


def read(name: str) -> str:
    """A file of `web`; the pad and the preprocessing are those of the demonstration."""
    for room in ("cnnlab.look", "cnnlab.deploy"):
        file = resources.files(room) / "web" / name
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise AssertionError(name)


def bundle(entry: str) -> str:
    """A module and all that it imports, each in a function of its own, those first that others need."""
    done: dict[str, str] = {}

    def add(name: str) -> None:
        if name in done:
            return
        text = read(f"{name}.js")
        for _, other in IMPORT.findall(text):
            add(other)
        names = ", ".join(found for _, found in EXPORT.findall(text))
        text = EXPORT.sub(r"\1", IMPORT.sub(r'const { \1 } = modules["\2"];', text))
        done[name] = f'modules["{name}"] = (() => {{\n{text}\nreturn {{ {names} }};\n}})();\n'

    add(entry)
    return '"use strict";\nconst modules = {};\n' + "".join(done.values())
