"""Options, recipes and experiments: YAML files, those of `cnnlab/conf` and the user's own beside them.

    conf/model/wide.yaml              model=wide            name: resnet, width: 32
    conf/recipe/mine.yaml             recipe=mine           options of other groups, and values of any section
    conf/experiment/first.yaml        experiment=first      the same, above the recipe

What they hold is data: nothing in them is looked up elsewhere or executed. Of Hydra's defaults lists they may have
`NAME` (another file of the same folder, read before this one), `_self_` and `override /GROUP: OPTION`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from cnnlab.config.keys import read_value, shown
from cnnlab.config.schema import ALIASES, OPEN_GROUPS, known_keys, read_argument, read_yaml, refuse_references
from cnnlab.errors import ConfigError, nearest
from cnnlab.files import given_path
from cnnlab.imports import names_code

GROUPS = ("data", "model", "augment", "optimizer", "schedule", "logger", "recipe")
EXPERIMENT = "experiment"  # has no option of its own in cnnlab/conf
WHOLE = ("recipe", EXPERIMENT)  # their files set values of any section
SHIPPED = Path(str(resources.files("cnnlab"))) / "conf"
NEEDS_CLOSURE = ("LBFGS", "SparseAdam")


@dataclass(frozen=True)
class Option:
    """One option of a group: the values of its file, by whole key.

    Args:
        group, name: as in group=name.
        path: of the user's own file; None for one that comes with cnnlab. A recipe has nothing to say about the first.
    """

    group: str
    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def __str__(self) -> str:
        return f"option {self.group}={self.name}" + (f" ({self.path})" if self.path else "")


@dataclass(frozen=True)
class Layer:
    """One source of settings: the options that it chooses, and above them the values that it sets, by whole key.

    `tuned` is a recipe's: what it found good for single options, in effect where they are in use. `own`: the user says
    it, in words or in a file. `of_set`: it is chosen with the data set, or follows from it.
    """

    source: str
    options: Mapping[str, Option] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    path: Path | None = None
    own: bool = False
    of_set: bool = False


def own_folder(config_dir: str | Path | None) -> Path | None:
    """The folder of the user's own files: `config_dir`, or ./conf where there is one with such files.

    Raises:
        ConfigError: `config_dir` is no folder, or has none of the folders that are looked for.
    """
    kinds = (*GROUPS, EXPERIMENT)
    if config_dir is None:
        here = Path("conf")
        found = any((here / kind).is_dir() for kind in kinds)
        return here if found and not here.samefile(SHIPPED) else None
    folder = given_path(config_dir, "--config-dir")
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {config_dir}; --config-dir names one with folders such as model/.")
    if not any((folder / kind).is_dir() for kind in kinds):
        raise ConfigError(f"{config_dir} has none of the folders {', '.join(kinds)}; put your own files into them.")
    return folder


def options(group: str, own: Path | None = None) -> list[str]:
    """Names of the options of a group, the user's `own` among them: options("model") → ["alexnet", "any", …]."""
    more = {file.stem for file in (own / group).glob("*.yaml")} if own else set()
    return sorted(_shipped_names(group) | more)


@functools.cache
def _shipped_names(group: str) -> set[str]:
    return {file.stem for file in (SHIPPED / group).glob("*.yaml")}


def resource(group: str, name: str) -> Path:
    """The file of an option that comes with cnnlab, such as resource("study", "width")."""
    return SHIPPED / group / f"{name}.yaml"


def find_option(group: str, name: str, own: Path | None = None) -> Option:
    """group=name → the option: by its name, in any case, or a class: `model=module:Class`, `data=module:Class`,
    `optimizer=NAdam`.

    Raises:
        ConfigError: no such option, with the nearest; or a file that is none.
    """
    known = options(group, own)
    folded = {option.casefold(): option for option in known}
    if (found := name if name in known else folded.get(name.casefold())) is not None:
        if group in WHOLE:
            return Option(group, found)
        return _read_option(group, found, own)
    if group == "model" and names_code(name):
        return Option(group, name, {"model.name": name})
    if group == "data" and names_code(name):
        return Option(group, "any", {"data.name": name})  # the name that its recipe has
    if group == "optimizer" and (named := torch_optimizer(name)):
        return Option(group, name, {**_read_option(group, "any", own).values, "optimizer.name": named})
    if "," in name:
        raise ConfigError(f"{group} takes one option, got {name!r}; for several: cnnlab study {group}={name}.")
    if group == EXPERIMENT and not known:
        where = f"{own}/experiment holds none" if own else "there is no folder conf/experiment"
        raise ConfigError(f"unknown experiment {name!r}: {where}; name another folder with --config-dir.")
    more = optimizer_names() if group == "optimizer" else []
    if group == "data" and Path(name).is_dir():
        raise ConfigError(f"unknown data {name!r}, but a folder of that name is here: data=folder data.root={name}.")
    raise ConfigError(f"unknown {group} {name!r}.{nearest(name, {*known, *more} - {'any'})}")


def optimizer_names() -> list[str]:
    """Muon, and every optimizer class of torch.optim that steps without a closure."""
    import inspect

    import torch

    classes = [
        name
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    ]
    return sorted({*classes, "Muon"} - {"Optimizer", *NEEDS_CLOSURE})


def torch_optimizer(name: str) -> str | None:
    """nadam, NAdam, optim.NAdam or torch.optim.NAdam → "NAdam"; None for what torch.optim does not have.

    Raises:
        ConfigError: one that cannot train here.
    """
    match = re.fullmatch(r"((?:torch\.)?optim\.)?([A-Za-z]\w*)", name)
    if match is None:
        return None
    folded = {known.casefold(): known for known in (*optimizer_names(), *NEEDS_CLOSURE)}
    found = folded.get(match[2].casefold())
    if found in NEEDS_CLOSURE:
        raise ConfigError(f"optimizer {found} does not fit this training loop; choose another, such as adamw.")
    if found == "Muon" and match[1]:
        raise ConfigError(f"{name} updates matrices only; optimizer=muon also updates all other parameters.")
    return found


def _read_option(group: str, name: str, own: Path | None) -> Option:
    values: dict[str, Any] = {}
    path = None
    for layer in read_layers(group, name, own):
        if layer.options or layer.tuned:
            raise ConfigError(f"{layer.path or name}: only recipes and experiments can choose options of other groups.")
        values |= layer.values
        path = layer.path or path
    if path and f"{group}.name" not in values and group != "logger":
        if group != "augment":
            known = {"data": "folder", "model": "resnet", "optimizer": "SGD", "schedule": "cosine"}[group]
            raise ConfigError(f"{path} must say what it is an option of: add its `name`, as in `name: {known}`.")
        values["augment.name"] = name
    return Option(group, name, values, path)


def read_layers(group: str, name: str, own: Path | None, seen: tuple[str, ...] = ()) -> list[Layer]:
    """A file and those that its defaults list names, the weakest first.

    Raises:
        ConfigError: an unknown file, key or option, a value of the wrong type, or files that include each other.
    """
    if name not in options(group, own):
        raise ConfigError(f"unknown {group} {name!r}.{nearest(name, options(group, own))}")
    if seen.count(name) > (name in _shipped_names(group)):
        raise ConfigError(f"{group}/{name}.yaml includes itself by way of {' → '.join(seen)}.")
    # The user's own `folder` that includes `folder` builds on the one that comes with cnnlab.
    is_own = own is not None and name not in seen and (own / group / f"{name}.yaml").is_file()
    path = (own if is_own and own else SHIPPED) / group / f"{name}.yaml"
    values = dict(read_yaml(path, "correct it", by_hand=True) if is_own else read_shipped(path))
    before: list[Layer] = []
    after: list[Layer] = []
    chosen: dict[str, Option] = {}
    try:
        entries = values.pop("defaults", None) or []
        if not isinstance(entries, list):
            raise ConfigError(f"defaults must be a list, got {shown(entries)}.")
        tuned = values.pop("tuned", None) or {} if group in WHOLE else {}
        itself = entries.index("_self_") if "_self_" in entries else len(entries)  # above what it includes
        for place, entry in enumerate(entries):
            if isinstance(entry, str) and entry != "_self_":
                (before if place < itself else after).extend(read_layers(group, entry, own, (*seen, name)))
            elif place != itself:
                option = _override(entry, group, own)
                chosen[option.group] = option
        refuse_references({"defaults": entries, **values})
        found = _flat(values, "" if group in WHOLE else _package(path, group))
        _check_tuned(tuned)
    except ConfigError as error:
        if str(error).startswith(str(path.parent)):
            raise
        raise ConfigError(f"{path}: {error}") from None
    source = f"{group} {name}" + (f" ({path})" if is_own else "")
    return [*before, Layer(source, chosen, found, tuned, path if is_own else None, is_own, group == "recipe"), *after]


read_shipped = functools.cache(read_yaml)


def _package(path: Path, group: str) -> str:
    """Where the keys of an option's file belong: "model." or, with `# @package _global_`, "" for whole keys."""
    match = re.search(r"^#\s*@package\s+(\S+)\s*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    package = match[1] if match else group
    if package == "_global_":
        return ""
    if package not in (group, "_group_"):
        raise ConfigError(f"its keys are those of {group}, not of {package!r}; drop the line @package.")
    return f"{group}."


def _override(entry: Any, group: str, own: Path | None) -> Option:
    """`override /model: resnet` of a defaults list → the option."""
    words, name = next(iter(entry.items())) if isinstance(entry, Mapping) and len(entry) == 1 else ("", None)
    match = re.fullmatch(r"override\s+/(\w+)", str(words))
    if not match or not isinstance(name, str):
        raise ConfigError(f"cannot read {entry!r} of its defaults list; write `- override /model: resnet`, or a NAME.")
    if match[1] not in GROUPS or group not in WHOLE or (match[1] == "recipe" and group == "recipe"):
        raise ConfigError(f"it cannot choose an option of {match[1]!r}.{nearest(match[1], GROUPS)}")
    return find_option(match[1], name, own)


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """{"trainer": {"epochs": 3}} → {"trainer.epochs": 3}, every key known and every value of its type."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        name = f"{prefix}{name}"
        if not prefix and name not in known_keys():
            if not isinstance(value, Mapping):
                sections = {key.split(".")[0] for key in known_keys()} | set(OPEN_GROUPS)
                hint = "" if name in sections else nearest(name, sections)
                raise ConfigError(f"{name} is not a section with keys and values, got {shown(value)}.{hint}")
            found |= _flat(value, f"{name}.")
            continue
        name = ALIASES.get(name, name)
        section, _, inner = name.partition(".")
        if inner.startswith("_"):
            raise ConfigError(f"{name}: nothing in a file is executed; write `name: package.module:Class`.")
        if section in OPEN_GROUPS:
            found[name] = read_argument(name, value)
        elif name in known_keys():
            found[name] = read_value(name, value, known_keys()[name])
        else:
            raise ConfigError(f"unknown key {name!r}.{nearest(name, {*known_keys(), 'model.', 'optimizer.'})}")
    return found


def _check_tuned(tuned: Any) -> None:
    """`tuned` of a recipe is {"model.mlp optimizer.SGD": {"lr": 0.05}}: options in use, values of the last's group."""
    if not isinstance(tuned, Mapping) or not all(isinstance(values, Mapping) for values in tuned.values()):
        raise ConfigError("tuned must name options and their values, as in {optimizer.SGD: {lr: 0.3}}.")
    for targets, values in tuned.items():
        refuse_references(values, "tuned")
        _flat(values, f"{str(targets).split()[-1].split('.')[0]}.")


def read_file(path: str | Path) -> tuple[Layer, bool]:
    """A YAML file of the schema, as a run's config.yaml → its layer, and whether it is complete: such a run's.

    What `run.dir` and `run.name` say there is that run's own. A group with a `name` is the file's as it stands.
    """
    file = given_path(path, "--config")
    file = file / "config.yaml" if file.is_dir() else file
    if not file.is_file():
        raise ConfigError(f"there is no file {path}; --config takes a run's config.yaml, or keys and values in YAML.")
    content = read_yaml(file, "correct it")
    try:
        refuse_references(content)
        values = _flat(content, "")
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    complete = {"run.name", "data.name", "model.name", "optimizer.name", "trainer.epochs"} <= set(values)
    values = {name: value for name, value in values.items() if not name.startswith("run.")}
    chosen = {}
    for group in GROUPS:
        if f"{group}.name" in values or (group == "logger" and complete):
            taken = {name: values.pop(name) for name in list(values) if name.startswith(f"{group}.")}
            chosen[group] = Option(group, str(taken.get(f"{group}.name", "")), taken, file)
    return Layer(f"config {file}", chosen, values, path=file, own=True), complete
