"""The configuration for a person to read: every option and key with its meaning, and a config with its reasons."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnlab.config.compose import Composed
from cnnlab.config.keys import describe_type
from cnnlab.config.options import EXPERIMENT, GROUPS, options
from cnnlab.config.schema import ALIASES, OPEN_GROUPS, Config, known_keys

WIDTH = 80
CLASSES = {"data": "module:Class", "model": "module:Class", "optimizer": "any class of torch.optim, such as NAdam"}
OPTIMIZER_KEYS = {
    "lr": "the highest learning rate [a number, above 0]",
    "weight_decay": "of filters and matrices, not of biases and norm layers [a number, at least 0]",
    "momentum": "fraction of the previous update that is kept [a number, at least 0]",
    "nesterov": "use Nesterov momentum [true or false]",
    "betas": "decay of the averages of the gradient and of its square [two numbers]",
    "backbone_lr_scale": "learning rate of everything before the head, as a fraction of lr [a number, at least 0]",
    "other_lr_scale": "learning rate of what Muon does not update, as a fraction of lr [a number, at least 0]",
}


@dataclass(frozen=True)
class Argument:
    """One argument of a model's or an optimizer's class: its default, and what it means."""

    name: str
    default: Any
    about: str


def options_text(composed: Composed, own: Path | None, arguments: Mapping[str, Iterable[Argument]]) -> str:
    """What `cnnlab train --options` prints: at most 80 columns, unless a value is longer.

    Args:
        composed: what the given words make; its values and sources are shown.
        own: folder of the user's own options.
        arguments: of the chosen model and optimizer, by group.
    """
    lines = ["GROUP=OPTION takes one of these; [in brackets] what these words lead to.", ""]
    for group in (*GROUPS, EXPERIMENT):
        lines += _group(group, composed, own)
    about = (
        "KEY=VALUE, with the value that these words lead to. Where that is not the default, it is followed by where it"
        " comes from, and the default."
    )
    lines += ["", *textwrap.wrap(about, WIDTH), ""]
    values, keys = composed.config.to_dict(), known_keys()
    for entry in dataclasses.fields(Config):
        name, section = entry.name, values[entry.name]
        if name in OPEN_GROUPS:
            told = {one.name: (one.default, one.about) for one in arguments.get(name, ())}
            told |= {key: (None, "") for key in section if key not in told and key != "name"}
            for key, (default, text) in told.items():
                lines += _key(f"{name}.{key}", section.get(key, default), default, composed, text)
        elif name in keys:
            lines += _key(name, section, entry.default, composed, _about(entry))
        else:
            for key, value in section.items():
                if name in GROUPS and key == "name":
                    continue  # the option says it
                field = keys[f"{name}.{key}"]
                lines += _key(f"{name}.{key}", value, _default(field), composed, _about(field))
        lines += [""]
    return "\n".join(lines[:-1])


def _group(group: str, composed: Composed, own: Path | None) -> list[str]:
    names = [name for name in options(group, own) if name != "any"]
    if not names:
        return []
    chosen = composed.chosen.get(group, ("", ""))[0]
    text = " ".join(f"[{name}]" if name == chosen else name for name in names)
    if group in CLASSES:
        text += f", {CLASSES[group]}" + (f" [{chosen}]" if chosen and chosen not in names else "")
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {group:<11}", subsequent_indent=" " * 13)


def _key(key: str, value: Any, default: Any, composed: Composed, about: str) -> list[str]:
    shown = {whole: alias for alias, whole in ALIASES.items()}.get(key, key)
    line = f"  {shown}={flow(value)}"
    source = composed.sources.get(key, "default")
    if source != "default" and value != default:
        why = f"({source}; default: {flow(default)})"
        one = f"{line}  {why}"
        lines = [one] if len(one) <= WIDTH else [line, *_indented(why)]
    else:
        lines = [line]
    return [*lines, *_indented(about)]


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)


def _about(field: dataclasses.Field[Any]) -> str:
    return f"{field.metadata['about']} [{describe_type(field)}]"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def flow(value: Any) -> str:
    """A value in one line of YAML: [1, 2], null, text."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return str(text).removesuffix("\n").removesuffix("\n...")


def explain_text(composed: Composed) -> str:
    """What `cnnlab train --explain` prints: a configuration in YAML, for each value where it comes from."""
    rows: list[tuple[str, str]] = []
    values = composed.config.to_dict()
    for section, content in (values | {"run": values.pop("run")}).items():
        if not isinstance(content, dict):
            rows.append((f"{section}: {flow(content)}", composed.sources.get(section, "default")))
            continue
        rows.append((f"{section}:", ""))
        for key, value in content.items():
            whole = f"{section}.{key}"
            inner = (source for name, source in composed.sources.items() if name.startswith(f"{whole}."))
            rows.append((f"  {key}: {flow(value)}", composed.sources.get(whole) or next(inner, "default")))
    wide = min(40, max(len(text) for text, _ in rows))
    chosen = [f"# {group}={name}: {source}" for group, (name, source) in composed.chosen.items() if name]
    return "\n".join([*chosen, *(f"{text:<{wide}}  # {why}" if why else text for text, why in rows)])
