"""What a study is: the axes of its grid, its seeds and its columns, from a YAML file and the command line.

A definition lies in cnnlab/conf/study/NAME.yaml or in a file of the user's own:

    title: Plain and residual nets by depth
    about: Does a deeper net still train?
    overrides: [data=cifar10, model=resnet, trainer.epochs=16]     # of every run
    axes:
      model.residual: {residual: true, plain: false}               # label: value
      model.depth: [20, 56]
      method:                                                      # an axis that is no key: label: overrides
        source only: [recipe=source_only]
        adabn: [recipe=adabn, init.from=run(source only)]          # begins with that run of the same seed
    seeds: 3
    label: "{model.residual} {model.depth}"                        # what a combination is called
    columns: [test_accuracy, train_accuracy, parameters, seconds]
    table: [model.depth, model.residual]                           # axes down and across, for the small table
    compare: model.residual                                        # axis whose values are compared in words
    test_on: [data=mnist_m]                                        # accuracy is that on this set

One with a space to search instead of a grid has, beside title, about and overrides:

    search:
      optimizer.lr: {low: 0.001, high: 1, log: true}
      model.width: {low: 8, high: 32, step: 8}                     # whole numbers
      augment: [none, light, standard]                             # or labels with values or overrides, as an axis has
    trials: 30
    prune: true                                                    # stop what lies below the median

And a learning-rate range test has `rates: {low: 0.00001, high: 10, steps: null}`; null is one epoch, but enough steps
to see something and not so many that it takes long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cnnlab.config import EXPERIMENT, GROUPS, NAMES_OF_CODE, known_keys, options, read_yaml, resource
from cnnlab.errors import ConfigError, nearest
from cnnlab.files import given_path
from cnnlab.runs.schema import Each, validate
from cnnlab.study.space import KEYS, Range, parse_range, range_from_yaml

COLUMNS = {
    "test_accuracy": "test accuracy",
    "train_accuracy": "training accuracy",
    "val_accuracy": "validation accuracy",
    "test_loss": "test loss",
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "ece": "ECE",
    "macro_f1": "macro F1",
    "mean_iou": "mean IoU",
    "mean_ap": "mean AP",
    "parameters": "parameters",
    "seconds": "training time",
    "images_per_second": "images/s",
}
TASK_METRICS = ("mean_iou", "mean_ap")  # by which other tasks than classification choose their best epoch
DEFAULT_COLUMNS = ("test_accuracy", "train_accuracy", "parameters", "seconds")
LAUNCHERS = ("local", "ray")
OWN_KEYS = ("dir", "jobs", "launcher", "address")
SEARCH_KEYS = ("trials", "seed", "prune")
RATE_KEYS = ("low", "high", "steps")
TRIALS = 30
MOST_RUNS = 100_000
SCHEMA = {  # of a study's file, see runs/schema.py; every key may be missing
    "title": Any,
    "about": Any,
    "overrides": [str],
    "axes": Each(Any),
    "seeds": int,
    "label": str,
    "columns": [str],
    "table": (str, str),
    "compare": str,
    "test_on": [str],
    "search": Each(Any),
    "trials": int,
    "prune": Any,
    "rates": Any,
}
NOT_HERE = {
    "seed": "give the number of seeds with --seeds",
    "run.dir": "a study names the folders of its runs; give study.dir for all of them",
    "run.name": "a study names the folders of its runs; give study.dir for all of them",
}
# Of these a comma can be a part: they are never cut into an axis.
WHOLE = ("data.root", "data.backgrounds", "adapt.root", "init.from", "init.source", "logger.wandb_project")


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis: its label, and the overrides that it stands for."""

    label: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Rates:
    """Learning rates of a range test, from `low` to `high` in geometric steps; `steps` None: about an epoch."""

    low: float = 1e-5
    high: float = 10.0
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < 1e6:
            raise ConfigError(
                f"a range test needs 0 < study.low < study.high < 1000000, got {self.low:g} and {self.high:g}."
            )
        if self.steps is not None and not 10 <= self.steps <= 100_000:
            raise ConfigError(f"study.steps must be from 10 to 100000, got {self.steps}.")


@dataclass(frozen=True)
class Definition:
    """A study before it is expanded into runs. See the module for the fields."""

    name: str
    title: str = ""
    about: str = ""
    overrides: tuple[str, ...] = ()
    axes: Mapping[str, tuple[AxisValue, ...]] = field(default_factory=dict)
    seeds: int = 3
    label: str | None = None
    columns: tuple[str, ...] = DEFAULT_COLUMNS
    table: tuple[str, str] | None = None
    compare: str | None = None
    test_on: tuple[str, ...] = ()
    search: Mapping[str, Range | tuple[AxisValue, ...]] = field(default_factory=dict)
    trials: int = TRIALS
    seed: int = 0  # of the search and of each of its runs
    prune: bool = True
    rates: Rates | None = None
    dir: str | None = None
    jobs: int | None = None  # side by side; None: one, or on a cluster one per machine
    launcher: str = "local"
    address: str | None = None
    config_dir: str | None = None  # the user's own options, see config/options.py
    trust_code: bool = False  # its files may name code to run

    @property
    def own_options(self) -> list[str]:
        """What a command needs to find the user's own options."""
        return [] if self.config_dir is None else ["--config-dir", str(self.config_dir)]

    @property
    def folder(self) -> Path:
        return given_path(self.dir, "study.dir") if self.dir else Path("studies") / self.name


def names() -> list[str]:
    """The studies that come with cnnlab."""
    return options("study")


def define(
    words: Sequence[str], seeds: int | None = None, config_dir: str | None = None, trust_code: bool = False
) -> Definition:
    """["residual_depth", "trainer.epochs=2"] or ["model.depth=20,56", "model=resnet"] → a definition.

    A first word without "=" is the name of a study or a YAML file. `key=a,b` is an axis, of the study's own key the
    values to take; `key=value` goes to every run, `study.*` to the study itself. With a range, `key=low..high`, or
    with study.trials it is a search, and axes are what it chooses from.

    Args:
        config_dir, trust_code: see `cnnlab.config.compose`; a study's file counts as a file.

    Raises:
        ConfigError: an unknown study, key or value, or code that a file names.
    """
    named = bool(words) and "=" not in words[0]
    base = _read(words[0]) if named else Definition(name="")
    rest = list(words[1:] if named else words)
    search = dict(base.search)
    axes, overrides, own = dict(base.axes), list(base.overrides), {}
    for word in rest:
        key, value = _split(word)
        word = f"{key}={value}"
        refuse_own([word])
        if key.startswith("study."):
            own[key.removeprefix("study.")] = value
        elif key not in WHOLE and (numbers := parse_range(key, value)) is not None:
            axes.pop(key, None)
            search[key] = numbers
        elif key in search:
            narrow(search, overrides, key, value)
        elif key in axes:
            axes[key] = tuple(_choose(key, part, base.axes.get(key, ())) for part in _parts(value))
        elif key not in WHOLE and len(parts := _parts(value)) > 1:
            axes[key] = tuple(_choose(key, part, ()) for part in parts)
        else:
            overrides = [one for one in overrides if one.split("=")[0] != key] + [word]
    for key, values in {**axes, **search}.items():
        labels = [value.label for value in values] if isinstance(values, tuple) else []
        if len(set(labels)) < len(labels):
            raise ConfigError(f"the axis {key} has the same value twice: {', '.join(labels)}.")
    if search or "trials" in own:
        both = {**axes, **search}
        order = [*base.axes, *base.search, *(word.split("=")[0] for word in rest)]
        search, axes = {key: both[key] for key in order if key in both}, {}
    rates = _rates(base.rates, own, axes or search)
    settings = _own(own, bool(search))
    found = replace(base, axes=axes, search=search, rates=rates, overrides=tuple(overrides), **settings)
    found = replace(found, config_dir=config_dir, trust_code=trust_code)
    if not trust_code:
        _refuse_code(found, rest, words[0] if named else "")
    if found.trials < 1:
        raise ConfigError(f"a search needs at least one trial, got {found.trials}.")
    if search and seeds is not None:
        raise ConfigError("a search trains each trial with one seed, that of study.seed; drop --seeds.")
    if rates is not None and seeds is not None:
        raise ConfigError("a range test is one short training; drop --seeds.")
    if seeds is not None:
        found = replace(found, seeds=seeds)
    if found.seeds < 1:
        raise ConfigError(f"a study needs at least one seed, got {found.seeds}.")
    runs = found.seeds * math.prod(len(values) for values in found.axes.values())
    if max(runs, found.trials) > MOST_RUNS:
        raise ConfigError(f"these are {max(runs, found.trials):,} runs, at most {MOST_RUNS:,} can be studied together.")
    if not found.axes and not found.search and found.rates is None:
        raise ConfigError(
            f"nothing to study: name a study ({', '.join(names())}) or give an axis, as in model.depth=20,56, or a"
            " range, as in optimizer.lr=0.001..1:log."
        )
    if not named:
        keys = "-".join(key.split(".")[-1] for key in [*axes, *search])
        found = replace(found, name=f"search-{keys}" if search else keys)
    known = set(found.axes)
    if found.table is not None and not set(found.table) <= known:
        found = replace(found, table=None)
    if found.compare is not None and found.compare not in known:
        found = replace(found, compare=None)
    return found


def _refuse_code(definition: Definition, given: Sequence[str], file: str) -> None:
    """Raise ConfigError for code that the study's file names and the words that were given do not."""
    axes = [values for values in (*definition.axes.values(), *definition.search.values()) if isinstance(values, tuple)]
    words = [
        *definition.overrides,
        *definition.test_on,
        *(word for values in axes for value in values for word in value.overrides),
    ]
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        said = any(one.lstrip("+").startswith(f"{key}=") and value in _parts(one.partition("=")[2]) for one in given)
        if key in ("data", "model", *NAMES_OF_CODE) and ":" in value and not said:
            raise ConfigError(
                f"{word} of {file} is code, and no file runs code by itself; if you trust it, give {word} yourself, or"
                " pass --trust-code (trust_code=True in Python)."
            )


def _rates(rates: Rates | None, own: dict[str, str], several: Mapping[str, Any]) -> Rates | None:
    """Take study.low, study.high and study.steps, which are those of a range test."""
    if rates is None:
        return None
    if several:
        raise ConfigError(f"a range test trains one network; give {next(iter(several))} one value.")
    given: dict[str, Any] = {}
    for key in RATE_KEYS:
        if key in own:
            text = own.pop(key)
            try:
                given[key] = int(text) if key == "steps" else float(text)
            except ValueError:
                raise ConfigError(f"study.{key} must be a number, got {text!r}.") from None
    for key in own:
        if key != "dir":
            raise ConfigError(f"study.{key} is not for a range test.{nearest(key, (*RATE_KEYS, 'dir'))}")
    return replace(rates, **given)


def narrow(search: dict[str, Any], overrides: list[str], key: str, value: str) -> None:
    """`key=a,b` of a search chooses from these; `key=a` searches this key no more."""
    before = search.pop(key)
    values = [_choose(key, part, before if isinstance(before, tuple) else ()) for part in _parts(value)]
    if len(values) > 1:
        search[key] = tuple(values)
    else:
        overrides += values[0].overrides if values else [f"{key}={value}"]


def _own(given: Mapping[str, str], searches: bool) -> dict[str, Any]:
    """The keys `study.*`, checked."""
    settings: dict[str, Any] = dict(given)
    known = OWN_KEYS + (SEARCH_KEYS if searches else ())
    for key in given:
        if key not in known:
            why = " is for a search; give a range, as in optimizer.lr=0.001..1:log." if key in SEARCH_KEYS else ""
            raise ConfigError(f"study.{key}{why}" if why else f"unknown key 'study.{key}'.{nearest(key, known)}")
    for key, low, high in (("jobs", 1, 1024), ("trials", 1, 100_000), ("seed", 0, 2**31)):
        if key in settings:
            if not given[key].isdecimal() or not low <= int(given[key]) <= high:
                raise ConfigError(f"study.{key} must be a whole number from {low} to {high}, got {given[key]}.")
            settings[key] = int(given[key])
    if "prune" in settings:
        if given["prune"] not in ("true", "false"):
            raise ConfigError(f"study.prune must be true or false, got {given['prune']!r}.")
        settings["prune"] = given["prune"] == "true"
    if settings.get("launcher", "local") not in LAUNCHERS:
        raise ConfigError(f"study.launcher must be one of {', '.join(LAUNCHERS)}, got {settings['launcher']!r}.")
    if "address" in settings and settings.get("launcher", "local") != "ray":
        raise ConfigError("study.address is that of a Ray cluster; give study.launcher=ray too, or leave it out.")
    return settings


def _split(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"expected key=value, got {word!r}, as in model.depth=20,56.")
    key = key.lstrip("+")
    if not value and key.startswith("study."):
        raise ConfigError(f"{key}= has no value; give one, or leave {key} out.")
    return key, value


def refuse_own(words: Sequence[str]) -> None:
    """Raise ConfigError for an override of what a study itself decides for each of its runs."""
    for word in words:
        key = word.lstrip("+").partition("=")[0]
        if key in NOT_HERE:
            raise ConfigError(f"{word!r} is not for a study: {NOT_HERE[key]}.")


def _parts(value: str) -> list[str]:
    """Cut at the commas that stand in no brackets and no quotes."""
    parts, depth, quote, current = [], 0, "", ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(current)
            current = ""
            continue
        current += character
    return [part.strip() for part in [*parts, current] if part.strip()]


def _choose(key: str, text: str, values: Sequence[AxisValue]) -> AxisValue:
    """A value of an axis by its label or its override; any value where the axis is a key."""
    for value in values:
        if text == value.label or value.overrides == (f"{key}={text}",):
            return value
    if key in (*GROUPS, EXPERIMENT) or "." in key or key in known_keys():
        return AxisValue(text, (f"{key}={text}",))
    raise ConfigError(f"{key} has no value {text!r}.{nearest(text, [value.label for value in values])}")


def _read(name: str) -> Definition:
    """A study that comes with cnnlab, or the user's own YAML file."""
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in names():
        raise ConfigError(f"unknown study {name!r}.{nearest(name, names())} Or give an axis, as in model.depth=20,56.")
    path = given_path(name, "the study") if own else resource("study", name)
    if own and not path.is_file():
        raise ConfigError(f"there is no file {name}; cnnlab study --list names the studies that come with cnnlab.")
    values = read_yaml(path)
    try:
        return _from_yaml(path.stem, values)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(f"{path} is no study: {error}; compare it with the examples in docs/studies.md.") from None


def _from_yaml(name: str, values: Mapping[str, Any]) -> Definition:
    for key in values:
        if key not in SCHEMA:
            raise ConfigError(f"unknown key {key!r} in the study {name}.{nearest(str(key), SCHEMA)}")
    if wrong := validate(values, {f"{key}?": schema for key, schema in SCHEMA.items()}):
        raise ValueError(wrong)
    values = {key: value for key, value in values.items() if value is not None or key == "rates"}
    columns = tuple(values.get("columns", DEFAULT_COLUMNS))
    for column in columns:
        if column not in COLUMNS:
            raise ConfigError(f"unknown column {column!r} in the study {name}.{nearest(str(column), COLUMNS)}")
    axes = {str(key): _axis(str(key), given) for key, given in values.get("axes", {}).items()}
    table = values.get("table")
    return Definition(
        name=name,
        title=str(values.get("title", name)),
        about=" ".join(str(values.get("about", "")).split()),
        overrides=tuple(values.get("overrides", ())),
        axes=axes,
        seeds=values.get("seeds", 3),
        label=values.get("label"),
        columns=columns,
        table=tuple(table) if table else None,  # type: ignore[arg-type]
        compare=values.get("compare"),
        test_on=tuple(values.get("test_on", ())),
        search={str(key): _space(str(key), given) for key, given in values.get("search", {}).items()},
        trials=values.get("trials", TRIALS),
        prune=bool(values.get("prune", True)),
        rates=_rates_from_yaml(values["rates"]) if "rates" in values else None,
    )


def _rates_from_yaml(given: Any) -> Rates:
    given = given or {}
    for key in given:
        if key not in RATE_KEYS:
            raise ConfigError(f"the rates of a range test know no {key!r}.{nearest(str(key), RATE_KEYS)}")
    steps = given.get("steps")
    low, high = (float(given.get(key, getattr(Rates, key))) for key in ("low", "high"))
    return Rates(low, high, None if steps is None else int(steps))


def _space(key: str, given: Any) -> Range | tuple[AxisValue, ...]:
    if isinstance(given, Mapping) and set(given) & set(KEYS):
        return range_from_yaml(key, given)
    return _axis(key, given)


def _axis(key: str, given: Any) -> tuple[AxisValue, ...]:
    if isinstance(given, Mapping):
        pairs = [(_text(label), value) for label, value in given.items()]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        pairs = [(_text(value), value) for value in given]
    else:
        raise ValueError(f"the axis {key} must be a list of values or labels with values, got {given!r}")
    values = []
    for label, value in pairs:
        overrides = tuple(map(str, value)) if _are_overrides(value) else (f"{key}={_text(value)}",)
        values.append(AxisValue(label, overrides))
    if not values:
        raise ValueError(f"the axis {key} is empty")
    return tuple(values)


def _are_overrides(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and re.match(r"[\w.+~]+=", v) for v in value)


def _text(value: Any) -> str:
    """As it would stand on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    return str(value)
