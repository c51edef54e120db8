"""One study from its arguments to its table: plan, run what is missing, collect, write."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import current_process
from pathlib import Path

from filelock import FileLock, Timeout

from cnnlab.errors import ConfigError, Interrupted, RunError
from cnnlab.representation import as_html, as_text
from cnnlab.runs.environment import processor_name
from cnnlab.runs.files import refuse_links, write_error, write_whole
from cnnlab.runs.folder import RunFolder, read_environment
from cnnlab.study.definition import Definition, define
from cnnlab.study.execute import execute
from cnnlab.study.page import render
from cnnlab.study.plan import PlannedRun, plan
from cnnlab.study.progress import StudyProgress
from cnnlab.study.results import Difference, GridCell, as_csv, collect, differences, main_column
from cnnlab.study.table import markdown

SHOWN = ("cnnlab", "torch", "torchvision")  # versions at the foot of the page


@dataclass(frozen=True, repr=False)
class Study:
    """A study as far as it has run: its folder, its cells (one per combination, with the rows of its runs), the
    differences between them, and why runs failed."""

    definition: Definition
    dir: Path
    cells: list[GridCell]
    differences: list[Difference]
    failed: dict[Path, str]

    def __repr__(self) -> str:
        return as_text(f"Study {self.definition.title}", self._facts)

    def _repr_html_(self) -> str:
        return as_html(f"Study {self.definition.title}", self._facts)

    @property
    def _facts(self) -> dict[str, str]:
        runs = sum(len(cell.rows) for cell in self.cells)
        return {
            "runs": f"{runs} of {len(self.cells)} combinations" + (f", {len(self.failed)} failed" * bool(self.failed)),
            "axes": " × ".join(self.definition.axes),
            "report": str(self.dir / "report.html"),
        }

    def raise_failures(self) -> None:
        """Raise RunError if runs could not be done. One that diverged is a result, not a failure."""
        bad = {folder: why for folder, why in self.failed.items() if "is not finite at step" not in why}
        if bad:
            folder, why = next(iter(bad.items()))
            raise RunError(f"{len(bad)} of the runs failed; {folder.name}: {why}")


def run_study(
    *words: str,
    seeds: int | None = None,
    progress: StudyProgress | None = None,
    command: Sequence[str] = (),
    config_dir: str | None = None,
    trust_code: bool = False,
) -> Study:
    """Run what is missing of a study and write results.csv, table.md and report.html into its folder.

    Args:
        words: as on the command line: the name of a study or a YAML file, then key=value; key=a,b is an axis.
        seeds: how many, from 0; None takes what the study says.
        progress: what a person sees meanwhile; None: nothing.
        command: what was called, for the report.
        config_dir: folder of your own options, recipes and experiments; None: ./conf where there is one.
        trust_code: let files name code to run; else only the command line may.

    Raises:
        ConfigError: an unknown study, key or value, or what no run could begin with.
        RunError: another process runs this study, or its folder cannot be written.
        Interrupted: Ctrl-C; results are written as far as they are.
    """
    definition = define(words, seeds, config_dir, trust_code)
    if definition.search:
        raise ConfigError("this is a search and no grid; from Python call cnnlab.run_search.")
    if definition.rates:
        raise ConfigError("this is a range test and no grid; from Python call cnnlab.find_learning_rate.")
    runs = plan(definition)
    folder = definition.folder
    lock = lock_study(folder)
    failed: dict[Path, str] = {}
    try:
        try:
            failed = execute(runs, definition, progress)
        except Interrupted:
            if any(RunFolder(run.folder).report.exists() for run in runs):
                write(definition, runs, {}, command or ("cnnlab", "study", *words))
            raise
        return write(definition, runs, failed, command or ("cnnlab", "study", *words))
    finally:
        lock.release()


def lock_study(folder: Path) -> FileLock:
    """Keep every other process out of this study until the lock is released.

    Raises:
        RunError: another process has it, or its folder cannot be written, or leads elsewhere.
    """
    if current_process().name.startswith("cnnlab-"):  # of local_pool.py
        raise RunError(
            "a process of the study imported the script that calls it, and came to the call again; put the call under"
            ' `if __name__ == "__main__":`.'
        )
    refuse_links(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"another process runs the study in {folder}; wait for it or choose another study.dir."
        ) from None
    except OSError as error:
        raise write_error(folder, error) from None
    return lock


def write(definition: Definition, runs: Sequence[PlannedRun], failed: dict[Path, str], command: Sequence[str]) -> Study:
    """Collect what is there into results.csv, table.md and report.html."""
    cells = collect(definition, runs, failed)
    if main_column(definition, cells) == "val_accuracy":  # there is no test split
        names = ("val_accuracy" if column == "test_accuracy" else column for column in definition.columns)
        definition = replace(definition, columns=tuple(dict.fromkeys(names)))
    found = differences(definition, cells)
    facts = describe(runs)
    folder = definition.folder
    command_line = shlex.join(command)
    notes = [f"`{command_line}`", "", *(f"{name}: {value}" for name, value in facts)]
    write_whole(folder / "results.csv", as_csv(definition, runs, cells, failed))
    write_whole(folder / "table.md", markdown(definition, cells, found, notes))
    write_whole(folder / "report.html", render(definition, cells, found, facts, command_line))
    return Study(definition, folder, cells, found, failed)


def describe(runs: Sequence[PlannedRun]) -> list[tuple[str, str]]:
    """Machine and versions of the runs that are there; several, where they differ."""
    seen: dict[str, list[str]] = {"machine": [], "versions": []}
    for run in runs:
        path = RunFolder(run.folder).environment
        if not path.exists():
            continue
        facts = read_environment(RunFolder(run.folder))
        machine, versions = facts.get("machine") or {}, facts.get("versions") or {}
        parts = [
            f"{processor_name(machine)}, {_counted(machine.get('cores'), 'core')}",
            *map(str, machine.get("gpus") or []),
        ]
        told = {
            "machine": ", ".join([*parts, f"{_counted(machine.get('threads'), 'thread')} a run"]),
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if name in SHOWN),
        }
        for name, value in told.items():
            if value not in seen[name]:
                seen[name].append(value)
    return [(name, "; ".join(values)) for name, values in seen.items() if values]


def _counted(count: object, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
