"""Words of the command line → one frozen `Config`, by layers of settings that stand above each other.

    default < recipe < config file < experiment < option given < key given

A layer chooses options (`model=resnet`) and sets values above them. The option of a higher layer puts aside all that
lower ones say in its group, so that what is asked for is what one gets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnlab.config.options import (
    EXPERIMENT,
    GROUPS,
    SHIPPED,
    Layer,
    Option,
    find_option,
    options,
    own_folder,
    read_file,
    read_layers,
    read_shipped,
    torch_optimizer,
)
from cnnlab.config.schema import (
    ALIASES,
    OPEN_GROUPS,
    Config,
    from_dict,
    known_keys,
    refuse_references,
    text_keys,
    with_canonical_names,
)
from cnnlab.errors import ConfigError, nearest

GIVEN = "given"  # source of the user's words
SAID = {  # a key in the words of others
    "learning_rate": "lr",
    "bs": "batch_size",
    "wd": "weight_decay",
    "num_epochs": "epochs",
    "img_size": "image_size",
    "num_workers": "workers",
    "patience": "early_stopping",
    "pretrained": "from",
}
OPEN_KEYS = (  # of models and optimizers, whose keys are not listed in the schema
    "optimizer.lr",
    "optimizer.weight_decay",
    "optimizer.momentum",
    "model.depth",
    "model.width",
    "model.dropout",
)
RESUMABLE = ("optimizer.lr", "trainer.grad_clip")  # what a run may change on its way
ADDS_UP = ("data",)  # its option chose the recipe, so what the recipe says of the data stays
# Keys whose value may be "package.module:Class", or a list of such.
NAMES_OF_CODE = ("data.name", "model.name", "adapt.data", "task", "trainer.loss", "test.metrics")


class Source(str):
    """Where a value comes from, in words for a person; `own`: the user says it, in words or in a file."""

    own: bool

    def __new__(cls, text: str, own: bool) -> Source:
        source = super().__new__(cls, text)
        source.own = own
        return source


Settings = dict[str, tuple[Any, Source]]  # whole key → value and source


@dataclass(frozen=True)
class Composed:
    """A config, and where it comes from.

    Args:
        sources: of each key: "default", "recipe NAME", "option GROUP=NAME", "experiment NAME", "config FILE", "given".
        chosen: group → option, and what chose it.
        paths: the user's own files that were read.
    """

    config: Config
    sources: Mapping[str, Source]
    chosen: Mapping[str, tuple[str, Source]]
    paths: tuple[Path, ...]


def compose(
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    config_file: str | Path | None = None,
    derived: Mapping[str, tuple[Any, str]] | None = None,
    trust_code: bool = False,
) -> Config:
    """Overrides such as ["data=mnist", "trainer.epochs=3"] → one frozen config.

    The data set chooses its recipe (`recipe=...` overrules), the recipe chooses model, augmentation, optimizer and
    schedule. An option that is given (`augment=none`) puts aside all that the recipe sets in its group, and a key that
    is given beats both, whatever its place in the list; of two values for one key the last holds.

    Args:
        config_dir: folder of the user's own options, recipes and experiments; None: ./conf where there is one.
        config_file: a run's config.yaml, or another file of keys and values, below the overrides.
        derived: values that follow from the images, each with the reason; above the recipe. A key may be a group, and
            its value an option.
        trust_code: let files name code to run, as `name: package.module:Class`; else the overrides alone may.

    Raises:
        ConfigError: an unknown key or option, a value of the wrong type or out of range, or code that a file names.
    """
    return resolve(overrides, config_dir, config_file, derived, trust_code).config


def resolve(
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    config_file: str | Path | None = None,
    derived: Mapping[str, tuple[Any, str]] | None = None,
    trust_code: bool = False,
) -> Composed:
    """`compose`, with the source of each value."""
    layers = _layers(overrides, own_folder(config_dir), config_file, derived)
    names = {key: value for key, (value, _) in _stack(layers, {}).items() if key.endswith(".name")}
    settings = _stack(layers, _tuned(layers, names))
    sources = {key: source for key, (_, source) in settings.items()}
    if not trust_code:
        _refuse_code(settings, layers)
    values = _nested(settings)
    if not sources["optimizer.name"].startswith("option "):  # whose names are right
        name = values["optimizer"]["name"]
        values["optimizer"]["name"] = torch_optimizer(str(name)) or name
    values["model"] = with_canonical_names(values["model"])
    try:
        config = from_dict(values)
    except ConfigError as error:
        source = sources.get(str(error).split(maxsplit=1)[0].split("=")[0], "given")
        raise ConfigError(f"{error}" if source == "given" else f"{error} It comes from {source}.") from None
    chosen = {group: (one.name, _source(layer)) for layer in layers for group, one in layer.options.items()}
    found = (layer.path for layer in layers), (one.path for layer in layers for one in layer.options.values())
    return Composed(config, sources, chosen, tuple(path for paths in found for path in paths if path))


def _refuse_code(settings: Settings, layers: Iterable[Layer]) -> None:
    """Raise ConfigError for code that a file names: files are data, and only the user's own word runs code."""
    for key in NAMES_OF_CODE:
        value, source = settings.get(key, (None, ""))
        named = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and ":" in one]
        if not named or source == GIVEN:
            continue
        group = key.removesuffix(".name")
        by = [(layer, layer.options[group]) for layer in layers if group in layer.options]
        if by and by[-1][1].path is None and source == str(by[-1][1]):  # the option's name is the code's
            source = by[-1][0].source
        if source != GIVEN:
            raise ConfigError(
                f"{group}={value} is code that {source} names, and no file runs code by itself; if you trust it, give"
                f" {group}={value} yourself, or pass --trust-code (trust_code=True in Python)."
            )


def _source(layer: Layer) -> Source:
    return Source(layer.source, layer.own)


def _layers(
    overrides: Sequence[str],
    own: Path | None,
    config_file: str | Path | None,
    derived: Mapping[str, tuple[Any, str]] | None,
) -> list[Layer]:
    """Everything that has a say, the weakest first."""
    given, words = _given(overrides, own)
    experiments = read_layers(EXPERIMENT, words[EXPERIMENT].name, own) if EXPERIMENT in words else []
    file, complete = read_file(config_file) if config_file is not None else (Layer("config"), False)
    above = [file, *experiments, given]
    chosen = {group: one for layer in above for group, one in layer.options.items()}
    recipes: list[Layer] = []
    if "recipe" in chosen:
        recipes = read_layers("recipe", chosen["recipe"].name, own)
    elif not complete:
        data = chosen.get("data")
        name, why = _recipe_of(data, own), f"that of data={data.name if data else 'digits'}"
        if derived and "recipe" in derived:
            name, why = derived["recipe"][0], f"set: {derived['recipe'][1]}"
        choice = Layer(why, {"recipe": Option("recipe", name)})
        recipes = [choice, *read_layers("recipe", name, own)]
    said = "recipe" in chosen
    return [
        _default(own),
        *([] if said else recipes),
        *_derived(derived, own),
        file,
        *(recipes if said else []),  # asked for by name, it stands above a file
        *experiments,
        given,
    ]


def _default(own: Path | None) -> Layer:
    content = read_shipped(SHIPPED / "config.yaml")
    pairs = [pair for entry in content["defaults"] if isinstance(entry, dict) for pair in entry.items()]
    return Layer("default", {group: find_option(group, name, own) for group, name in pairs if group != "recipe"})


def _recipe_of(data: Option | None, own: Path | None) -> str:
    """The recipe of a data set: the one of the option's name, or of the set that it is an option of."""
    names = (data.name, str(data.values.get("data.name"))) if data else ("digits",)
    return next((name for name in names if name in options("recipe", own)), "default")


def _derived(values: Mapping[str, tuple[Any, str]] | None, own: Path | None) -> Iterable[Layer]:
    for key, (value, reason) in (values or {}).items():
        source = f"set: {reason}"
        if key == "recipe":  # is chosen before
            continue
        if key in GROUPS:
            yield Layer(source, {key: find_option(key, value, own)}, of_set=True)
        else:
            yield Layer(source, values={ALIASES.get(key, key): value}, of_set=True)


def _given(overrides: Sequence[str], own: Path | None) -> tuple[Layer, dict[str, Option]]:
    """The words as a layer. What is said last of a key holds."""
    words = dict(split_word(word) for word in overrides)
    refuse_references(words)
    groups = (*GROUPS, EXPERIMENT)
    chosen = {key: find_option(key, value, own) for key, value in words.items() if key in groups}
    values = {key: parse_value(key, value) for key, value in words.items() if key not in groups}
    options = {group: one for group, one in chosen.items() if group != EXPERIMENT}
    return Layer(GIVEN, options, values, own=True), chosen


def _stack(layers: Iterable[Layer], tuned: Mapping[str, Settings]) -> Settings:
    """What holds in the end: the layers one above the other.

    Args:
        tuned: values by section. Those of a group stand above its option, whoever chose it, unless it is the user's
            own file; those of another section above what the recipe that holds them says.
    """
    found: Settings = {}
    stays: Settings = {}
    for layer in layers:
        for group, option in layer.options.items():
            found = {key: pair for key, pair in found.items() if not key.startswith(f"{group}.")}
            found |= stays if group in ADDS_UP else {}
            source = str(option) if option.path != layer.path or option.path is None else layer.source
            found |= {key: (value, Source(source, layer.own)) for key, value in option.values.items()}
            found |= tuned.get(group, {}) if option.path is None else {}
        values = {key: (value, _source(layer)) for key, value in layer.values.items()}
        found |= values
        if layer.of_set:
            stays |= {key: pair for key, pair in values.items() if key.split(".")[0] in ADDS_UP}
        for section in {key.split(".")[0] for targets in layer.tuned for key in targets.split()[-1:]} - set(GROUPS):
            found |= tuned.get(section, {})
    return found


def _tuned(layers: Iterable[Layer], names: Mapping[str, Any]) -> dict[str, Settings]:
    """What recipes found good where one model, optimizer or augmentation is in use, by section.

    Of several targets, such as "model.mlp optimizer.SGD", all must be in use, and the values are for the last one's
    group, or for the section that the last one names: "model.speednet init".
    """
    found: dict[str, Settings] = {}
    for layer in layers:
        for targets, values in layer.tuned.items():
            pairs = [target.partition(".")[::2] for target in str(targets).split()]
            section = pairs[-1][0]
            if all(names.get(f"{group}.name") == name for group, name in pairs if name):
                source = Source(f"{layer.source}, for {targets}", layer.own)
                whole = ((ALIASES.get(key := f"{section}.{name}", key), value) for name, value in values.items())
                found.setdefault(section, {}).update({key: (value, source) for key, value in whole})
    return found


def _nested(settings: Settings) -> dict[str, Any]:
    """{"model.depth": (20, source)} → {"model": {"depth": 20}}."""
    values: dict[str, Any] = {}
    for key, (value, _) in settings.items():
        *path, last = key.split(".")
        place = values
        for name in path:
            if not isinstance(place.get(name), dict):
                place[name] = {}
            place = place[name]
        place[last] = value
    return values


def split_word(word: str) -> tuple[str, str]:
    """`key=value` → both; raise ConfigError with the nearest name for an unknown group or key."""
    match = re.fullmatch(r"(?:\+\+?)?([A-Za-z_][\w.]*)=(.*)", word, flags=re.DOTALL)
    if not match:
        if word.startswith("~"):
            raise ConfigError(f"{word!r}: keys cannot be deleted; leave it out, or give it a value.")
        if Path(word).is_dir():
            raise ConfigError(
                f"expected key=value, got {word!r}; for the images of this folder: data=folder data.root={word}."
            )
        known = [group for group in ("data", "model", "recipe", "optimizer") if word in options(group)]
        meant = f"; did you mean {known[0]}={word}?" if known else ", as in trainer.epochs=5 or model=resnet."
        raise ConfigError(f"expected key=value, got {word!r}{meant}")
    given, value = match.groups()
    key = ALIASES.get(given, given)
    groups = {*GROUPS, EXPERIMENT}
    if key not in groups and key.split(".")[0] not in OPEN_GROUPS and key not in known_keys():
        raise ConfigError(f"unknown key {key!r}.{_nearest_key(key)}")
    if key == "augment.name":
        raise ConfigError(f"{word!r} would change only the name; to choose the option, write augment={value}.")
    if not value:
        raise ConfigError(f"{given}= has no value; give one, or leave {given} out.")
    return key, value


def keys_like(name: str) -> list[str]:
    """Whole keys that end in this name: ["optimizer.lr"] for lr, or learning_rate."""
    known = {*known_keys(), *ALIASES, *OPEN_KEYS}
    name = name.replace("-", "_")
    return sorted(key for key in known if key.rpartition(".")[2] == SAID.get(name, name))


def key_elsewhere(section: str, name: str) -> str:
    """Answer learning_rate of any section by " Did you mean 'optimizer.lr'?"; "" where no other key is called that."""
    found = [key for key in keys_like(name) if key != f"{section}.{name}"]
    if section and len(found) > 1:
        return nearest(f"{section}.{name}", found)
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""


def _nearest_key(key: str) -> str:
    section, _, name = key.rpartition(".")
    if hint := key_elsewhere(section, name):
        return hint
    written = {*known_keys(), *ALIASES} - set(ALIASES.values())
    if inside := {known.removeprefix(f"{section}.") for known in written if known.startswith(f"{section}.")}:
        return nearest(name, inside, f"{section}.")  # the whole keys of a section are all alike
    return nearest(key, {*known_keys(), *ALIASES, *GROUPS, EXPERIMENT, "model.", "optimizer."})


def parse_value(key: str, text: str) -> Any:
    """The value of a word: text as it stands where the key takes text, else as Hydra's grammar reads it.

    Raises:
        ConfigError: what the grammar cannot read, or reads as several values.
    """
    if key in text_keys():
        return None if text == "null" else text
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
        if not override.is_sweep_override():
            return override.value()
    except HydraException:
        pass
    several = f" For several: cnnlab study {key}={text}." if re.fullmatch(r"[\w.-]+(,[\w.-]+)+", text) else ""
    raise ConfigError(
        f"cannot read the value of {key}, {text!r}: quote a text, \"{key}='…'\", and write a list as"
        f' "{key}=[1,2]".{several}'
    )


def with_changes(config: Config, overrides: Sequence[str]) -> Config:
    """The config of a run that goes on with other values of RESUMABLE. Raises ConfigError for any other key."""
    values = config.to_dict()
    for word in overrides:
        key, text = split_word(word)
        if key not in RESUMABLE:
            raise ConfigError(
                f"a run keeps {key} to its end; a resume can only change {' and '.join(RESUMABLE)}. For anything"
                " else start a new run."
            )
        section, name = key.split(".")
        values[section][name] = parse_value(key, text)
    return from_dict(values) if overrides else config


def data_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """["data.image_size=64", …] → {"image_size": 64, …}. Raises ConfigError for anything but `data.*` keys."""
    found: dict[str, Any] = {}
    for word in overrides:
        key, text = split_word(word)
        if not key.startswith("data."):
            raise ConfigError(f"only data.* keys can be given here, got {word!r}.")
        found[key.removeprefix("data.")] = parse_value(key, text)
    return found
