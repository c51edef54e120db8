"""A definition → its runs: what each is configured with, what it is called, and where it lies."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cnnlab.config import ALIASES, Config, compose
from cnnlab.data.recommend import compose_for_set, has_no_recipe
from cnnlab.errors import ConfigError, nearest
from cnnlab.runs.source import network_of
from cnnlab.study.definition import AxisValue, Definition, refuse_own

REFERENCE = re.compile(r"init\.from=run\((.+)\)")
NOT_A_RESULT = ("run", "logger")  # what a run is called and who listens changes no result


@dataclass(frozen=True)
class Combination:
    """One cell of the grid: its label, the label of its value on each axis, and the overrides that it stands for."""

    label: str
    axis_values: dict[str, str]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class PlannedRun:
    """One run that the study wants. `hash` is that of its resolved config; `after` the run it begins with.

    A `trial` of a search is not tested.
    """

    combination: Combination
    seed: int
    config: Config
    hash: str
    folder: Path
    after: Path | None = None
    trial: bool = False

    @property
    def name(self) -> str:
        return self.combination.label if self.trial else f"{self.combination.label}, seed {self.seed}"


def combinations(definition: Definition) -> list[Combination]:
    """The cells of the grid, the last axis fastest."""
    axes = list(definition.axes)
    cells = []
    for chosen in itertools.product(*definition.axes.values()):
        axis_values = {axis: value.label for axis, value in zip(axes, chosen, strict=True)}
        overrides = merge_overrides(definition.overrides, *(value.overrides for value in chosen))
        cells.append(Combination(_label(definition, axis_values, chosen), axis_values, overrides))
    labels = [cell.label for cell in cells]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"two combinations are called {label!r}; let the study's label name every axis.")
    return cells


def _label(definition: Definition, axis_values: dict[str, str], chosen: Sequence[AxisValue]) -> str:
    if definition.label is not None and all(
        f"{{{axis}}}" in definition.label for axis in axis_values if _many(definition, axis)
    ):
        label = definition.label
        for axis, value in axis_values.items():
            label = label.replace(f"{{{axis}}}", value)
        return label
    shown = {axis: value for axis, value in axis_values.items() if _many(definition, axis)} or axis_values
    values = (value for axis, value in zip(axis_values, chosen, strict=True) if axis in shown)
    plain = [value.overrides == (f"{axis}={value.label}",) for axis, value in zip(shown, values, strict=True)]
    parts = zip(shown.items(), plain, strict=True)
    return ", ".join(f"{axis.split('.')[-1]}={value}" if bare else value for (axis, value), bare in parts)


def _many(definition: Definition, axis: str) -> bool:
    return len(definition.axes[axis]) > 1


def merge_overrides(*groups: Sequence[str]) -> tuple[str, ...]:
    """Each key once: the last override of a key holds."""
    found: dict[str, str] = {}
    for word in itertools.chain(*groups):
        key = word.split("=")[0].lstrip("+")
        key = ALIASES.get(key, key)
        found.pop(key, None)
        found[key] = word
    return tuple(found.values())


def plan(definition: Definition) -> list[PlannedRun]:
    """Every run of the study, seed by seed, so that the whole grid is there early.

    Raises:
        ConfigError: a key, option or value that no run can have, or two combinations that are the same.
    """
    cells = [(cell, *_composed(cell, definition)) for cell in combinations(definition)]
    for cell, config, _ in cells:
        if config.trainer.devices > 1:
            raise ConfigError(
                f"{cell.label}: a study trains each run in one process; leave trainer.devices out, and use study.jobs."
            )
    planned: list[PlannedRun] = []
    for seed in range(definition.seeds):
        of_seed: dict[str, PlannedRun] = {}
        for cell, config, reference in cells:
            after = None
            if reference is not None and (after := of_seed.get(reference)) is None:
                known = [other.label for other, _, _ in cells]
                why = "it must come before" if reference in known else f"there is none.{nearest(reference, known)}"
                raise ConfigError(f"{cell.label!r} begins with the run {reference!r} of the study: {why}")
            source = str(after.folder) if after else config.init.source
            config = replace(config, seed=seed, init=replace(config.init, source=source))
            of_seed[cell.label] = _placed(definition, cell, config, after)
        planned += of_seed.values()
    seen: dict[str, PlannedRun] = {}
    for one in planned:
        if one.hash in seen:
            other = seen[one.hash].combination.label
            raise ConfigError(
                f"{one.combination.label!r} and {other!r} are the same run: an axis does not change the training."
            )
        seen[one.hash] = one
    return planned


def plan_trial(definition: Definition, cell: Combination) -> PlannedRun:
    """The run of one trial of a search.

    Raises:
        ConfigError: a key, option or value that no run can have.
    """
    config, reference = _composed(cell, definition)
    if reference is not None:
        raise ConfigError(f"{cell.label!r} begins with the run {reference!r}, and a trial of a search stands alone.")
    return replace(_placed(definition, cell, replace(config, seed=definition.seed), None), trial=True)


def _placed(definition: Definition, cell: Combination, config: Config, after: PlannedRun | None) -> PlannedRun:
    digest = _hash(config, after)
    slug = re.sub(r"[^A-Za-z0-9.=-]+", "-", cell.label).strip("-.")[:60] or "run"
    folder = definition.folder / "runs" / f"{slug}-seed{config.seed}-{digest[:8]}"
    return PlannedRun(cell, config.seed, config, digest, folder, after.folder if after else None)


def _composed(cell: Combination, definition: Definition) -> tuple[Config, str | None]:
    """The config of a combination, and the label of the run that it begins with."""
    refuse_own(cell.overrides)
    references = [match[1] for word in cell.overrides if (match := REFERENCE.fullmatch(word))]
    try:
        config = compose(cell.overrides, definition.config_dir, trust_code=definition.trust_code)
        if has_no_recipe(config):
            known = network_of if not references else lambda source: None  # a run of this study may not be there yet
            how = {"trust_code": definition.trust_code, "network_of": known}
            config = compose_for_set(cell.overrides, definition.config_dir, **how)
        return config, references[0] if references else None
    except ConfigError as error:
        raise ConfigError(f"{cell.label}: {error}") from None


def _hash(config: Config, after: PlannedRun | None) -> str:
    """Of everything that can change a result; a run that is begun with counts by its own hash, not by its place."""
    values = {key: value for key, value in config.to_dict().items() if key not in NOT_A_RESULT}
    if after is not None:
        values["init"]["source"] = after.hash
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
