"""The names in a run folder, and who may write there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from cnnlab import config as configuration
from cnnlab.config import Config
from cnnlab.errors import ConfigError, RunError, nearest
from cnnlab.files import given_path, is_path, whole_address
from cnnlab.runs.addresses import is_address
from cnnlab.runs.copies import RECORD
from cnnlab.runs.files import read_record, refuse_links, write_error, write_json, write_whole
from cnnlab.runs.schema import CARD, ENVIRONMENT, EPOCH, FOLDS, SPLIT, TEST, validate
from cnnlab.values import to_json

if TYPE_CHECKING:
    from cnnlab.tasks.decision import DecisionRule


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Creating the object touches nothing on disk."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def split(self) -> Path:
        return self.path / "split.json"

    @property
    def init(self) -> Path:
        return self.path / "init.json"

    @property
    def folds(self) -> Path:
        return self.path / "folds.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def weights(self) -> Path:
        return self.path / "best" / "model.safetensors"

    @property
    def card(self) -> Path:
        return self.path / "best" / "model.json"

    @property
    def objects(self) -> Path:
        return self.path / "best" / "objects.json"

    @property
    def state(self) -> Path:
        return self.path / "last" / "state.pt"

    @property
    def test(self) -> Path:
        return self.path / "test.json"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def start(
        self,
        config: Config,
        environment: dict[str, Any],
        split: dict[str, Any],
        init: dict[str, Any] | None = None,
    ) -> None:
        """Lay down what a run is made from. The configuration comes last: a folder with it is a run.

        Raises:
            RunError: the folder holds another run or other files, or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from None
        write_json(self.environment, environment)
        write_json(self.split, split)
        if init is not None:
            write_json(self.init, init)
        self.write_config(config)

    def write_config(self, config: Config) -> None:
        write_whole(self.config, configuration.to_yaml(config))

    def refuse_if_taken(self) -> None:
        """Raise RunError if the folder already holds a run, or anything that a run would mix with."""
        if not is_path(self.path):
            raise RunError(f"{str(self.path)[:80]!r} cannot be a folder's name; choose another run.dir.")
        if self.config.exists():
            raise RunError(
                f"{self.path} already holds a run; resume it with `cnnlab resume {self.path}`,"
                " or choose another run.dir."
            )
        if self.path.is_file():
            raise RunError(f"{self.path} is a file, not a folder; choose another run.dir.")
        ours = {
            ".lock",
            ".tmp",
            self.environment.name,
            self.split.name,
            self.init.name,
            self.folds.name,
            self.state.parent.name,
            RECORD,
        }  # what a run killed at its start leaves
        if self.path.is_dir() and any(not ours & {e.name, e.suffix} for e in self.path.iterdir()):
            raise RunError(f"{self.path} holds other files; choose an empty or a new run.dir.")
        refuse_links(self.path)

    def lock(self) -> FileLock:
        """Keep every other process from training in this folder until the lock is released.

        Raises:
            RunError: another process trains here now, or the folder cannot be written, or leads elsewhere.
        """
        refuse_links(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"another process is training in {self.path}; wait for it or choose another run.dir."
            ) from None
        except OSError as error:
            raise write_error(self.path, error) from None
        return lock

    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        if not self.metrics.exists():
            return []
        try:
            rows = [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines() if line]
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self.metrics} is damaged ({error}); restore it from a copy.") from None
        if wrong := validate(rows, [EPOCH]):
            raise RunError(f"{self.metrics} is damaged: {wrong}; restore it from a copy.")
        return rows

    def test_metrics(self) -> dict[str, Any] | None:
        """The content of test.json, None before the test."""
        return read_record(self.test, TEST) if self.test.exists() else None

    def read_folds(self) -> dict[str, Any] | None:
        """The content of folds.json, None where there were no folds."""
        return read_record(self.folds, FOLDS) if self.folds.exists() else None

    def read_card(self) -> dict[str, Any]:
        """The content of best/model.json."""
        return read_record(self.card, CARD)

    def task(self) -> str | None:
        """What its model was trained for, such as "classification"; None where it has no card yet."""
        return self.read_card().get("task") if self.card.exists() else None

    def decision_rule(self, card: Mapping[str, Any]) -> DecisionRule:
        """How its model's answers become classes: by the thresholds of test.json, else by 0.5.

        Raises:
            RunError: thresholds that are not those of the classes.
        """
        from cnnlab.tasks.decision import DecisionRule, are_thresholds  # with torch, which a folder does without

        thresholds = ((self.test_metrics() or {}).get("thresholds") or {}).get("values")
        if thresholds is not None and not are_thresholds(thresholds, card["classes"]):
            raise RunError(
                f"{self.test} is damaged: its thresholds are not a number from 0 to 1 for each class; test the run"
                " again."
            )
        return DecisionRule.of(card, thresholds)

    def write_history(self, rows: Sequence[dict[str, Any]]) -> None:
        write_whole(self.metrics, "".join(to_json(row) + "\n" for row in rows))


def _place(path: str | Path) -> Path:
    """As it was given, so that messages name it so; but `new/../mine` is no folder as long as `new` is none."""
    place = given_path(path, "run.dir")
    up = [number for number, part in enumerate(place.parts) if part == ".."]
    return place if up == list(range(len(up))) else Path(os.path.relpath(whole_address(str(place))))


def new_folder(config: Config) -> RunFolder:
    """`run.dir`, or runs/<name>; a name of its own is <data>-<model>-<time>."""
    if config.run.dir:
        refuse_address(config.run.dir)
        return RunFolder(_place(config.run.dir))
    stem = config.run.name or f"{config.data.name}-{config.model['name']}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = RunFolder(Path("runs") / stem), 2
    while not config.run.name and folder.path.exists():
        folder, number = RunFolder(Path("runs") / f"{stem}-{number}"), number + 1
    return folder


def holds_run(path: str) -> bool:
    """Whether there is a run in a folder."""
    refuse_address(path)
    return RunFolder(_place(path)).config.exists()


def refuse_address(path: str | Path) -> None:
    """Raise RunError for an address: reading never copies a run to this machine by itself."""
    if is_address(path):
        raise RunError(f"{path} is an address, not a folder of this machine; copy it here first.")


def open_folder(path: str | Path) -> RunFolder:
    """An existing run on this machine; for one at an address see `runs/opened.py`.

    Raises RunError with the nearest name if there is none, and for one that leads elsewhere (`refuse_links`).
    """
    refuse_address(path)
    folder = _find(path)
    refuse_links(folder.path)
    return folder


def _find(path: str | Path) -> RunFolder:
    try:
        folder = RunFolder(_place(path))
    except ConfigError:
        raise RunError(
            f"{str(path)[:80]!r} cannot be a folder's name; give the folder that `cnnlab train` printed."
        ) from None
    if folder.path.is_file():
        raise RunError(f"{folder.path} is a file; the run comes first: the folder that `cnnlab train` printed.")
    if not folder.path.is_dir():
        parent = folder.path.parent
        siblings = [one.parent.name for one in parent.glob("*/config.yaml")] if parent.is_dir() else []
        # The prefix is "runs/", and "" where the folder is looked for in the working directory.
        hint = nearest(folder.path.name, siblings, str(parent / "_")[:-1]) if siblings else ""
        raise RunError(f"there is no run folder {folder.path}.{hint}")
    if not folder.config.exists():
        raise RunError(
            f"{folder.path} is not a run folder: it has no config.yaml. Give the folder that `cnnlab train` printed."
        )
    return folder


def read_config(folder: RunFolder) -> Config:
    config = configuration.load_yaml(folder.config)
    if not isinstance(config.model.get("name"), str) or not isinstance(config.optimizer.get("name"), str):
        raise RunError(f"{folder.config} is damaged: it names no model or no optimizer; restore it from a copy.")
    return config


def epochs_left(folder: RunFolder) -> int:
    """How many epochs a run that was interrupted has to go; 0 for one that has ended, or has trained none here."""
    done = 0 if folder.report.exists() else len(folder.history())
    return read_config(folder).trainer.epochs - done if done else 0


def read_split(folder: RunFolder) -> dict[str, Any]:
    return read_record(folder.split, SPLIT)


def read_environment(folder: RunFolder) -> dict[str, Any]:
    return read_record(folder.environment, ENVIRONMENT)
