"""The runs of a class in one page: a row for each, and a line for each folder that could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cnnlab.config import Config
from cnnlab.errors import CnnlabError, RunError, one_line
from cnnlab.evaluation.compare import at_chance
from cnnlab.files import given_path
from cnnlab.report.formatting import DASH, between, count, duration, flatten, percent
from cnnlab.report.page import environment
from cnnlab.runs.folder import RunFolder, open_folder, read_config, read_split
from cnnlab.training.diagnose import Setup, diagnose

HIDDEN = ("run.", "overrides", "seed", "device", "logger", "trainer.threads")  # of settings: where it ran, not what
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class ClassRow:
    """A run, as the table shows it; None where it is not known.

    Attributes:
        seconds: of all epochs.
        warnings: what is wrong with the training, and what to try.
        settings: all settings by dotted key.
        differing: those that most other runs have differently, as "key=value".
    """

    name: str
    network: str
    parameters: int | None
    epochs: int
    planned: int
    finished: bool
    seconds: float
    validation: float | None
    test: float | None
    interval: Sequence[float] | None
    warnings: tuple[str, ...]
    settings: dict[str, str] = field(repr=False)
    differing: tuple[str, ...] = ()


def run_folders(given: str) -> tuple[dict[str, str], dict[str, str]]:
    """Runs by the names they are shown under, and folders that hold none with the reason.

    Args:
        given: a run, a folder of runs, or a folder with a folder of runs for each student.
    """
    try:
        root = given_path(given, "RUN")
        if not root.is_dir():
            return {}, {given: "there is no such folder"}
        if RunFolder(root).config.exists():
            return {given if root.name == "" else root.name: str(root)}, {}
        found: dict[str, str] = {}
        without: dict[str, str] = {}
        for child in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            try:
                runs = [child] if RunFolder(child).config.exists() else _runs_in(child)
            except OSError as error:
                without[child.name] = f"cannot be read ({error.strerror})"
                continue
            found |= {run.relative_to(root).as_posix(): str(run) for run in runs}
            if not runs:
                without[child.name] = "is not a run folder, and there is none in it"
    except CnnlabError as error:
        return {}, {given: str(error)}
    except OSError as error:
        return {}, {given: f"cannot be read ({error.strerror})"}
    return found, without if found or without else {given: "is not a run folder, and there is none in it"}


def _runs_in(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob("*/config.yaml"))


def read_rows(folders: Mapping[str, str | Path]) -> tuple[list[ClassRow], dict[str, str]]:
    """A row for each folder that is a run, and the reason for each other one."""
    rows, unread = [], {}
    for name, path in folders.items():
        try:
            rows.append(_read(name, open_folder(path)))
        except CnnlabError as error:
            unread[name] = one_line(str(error))
        except OSError as error:
            unread[name] = f"cannot be read ({error.strerror})"
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # a file of another form
            unread[name] = one_line(f"is damaged ({type(error).__name__}: {error})")
    return _with_differences(rows), unread


def _read(name: str, folder: RunFolder) -> ClassRow:
    config, history = read_config(folder), folder.history()
    if not history:
        raise RunError("has not finished an epoch yet")
    test, card = folder.test_metrics(), folder.read_card()
    return ClassRow(
        name=name,
        network=_network(config),
        parameters=_parameters(folder.weights),
        epochs=len(history),
        planned=config.trainer.epochs,
        finished=folder.report.exists(),
        seconds=sum(row["seconds"] for row in history),
        validation=card.get("val_accuracy"),
        test=test["accuracy"] if test else None,
        interval=test.get("accuracy_interval") if test else None,
        warnings=_warnings(folder, config, history, test),
        settings={key: value for key, value in flatten(config.to_dict()) if not key.startswith(HIDDEN)},
    )


def _network(config: Config) -> str:
    arguments = ", ".join(f"{key}={value}" for key, value in config.model.items() if key != "name")
    return f"{config.model['name']} ({arguments})" if arguments else str(config.model["name"])


def _parameters(weights: Path) -> int | None:
    """Scalars in the file without the statistics of batch norm; None where there is no such file."""
    try:
        with safe_open(weights, "np") as file:
            names = [name for name in file.keys() if not name.endswith(BUFFERS)]  # noqa: SIM118
            return sum(prod(file.get_slice(name).get_shape()) for name in names)
    except (OSError, SafetensorError):
        return None


def _warnings(
    folder: RunFolder, config: Config, history: Sequence[dict[str, Any]], test: dict[str, Any] | None
) -> tuple[str, ...]:
    """Those of the report. The data are not opened: the classes' shares are those of the test, or taken for equal."""
    found = ["the test accuracy is that of chance"] if test and at_chance(test) else []
    split = read_split(folder)
    sizes, classes = split["sizes"], split["classes"]
    if folder.task() not in (None, "classification") or not classes:
        return tuple(found)
    shares = [float(row["n"]) for row in (test or {}).get("per_class", []) if row.get("n")]
    shares = shares if len(shares) == len(classes) else [1.0] * len(classes)
    counts = {part: [sizes.get(part, 0) * share / sum(shares) for share in shares] for part in ("train", "val")}
    batches = -(-sizes.get("train", 0) // config.trainer.batch_size)
    setup = Setup(config, counts["train"], counts["val"], max(1, batches // config.trainer.accumulate))
    return (*found, *(str(hint) for hint in diagnose(history, setup)))


def _state(row: ClassRow) -> str:
    if row.finished:
        return "finished"
    return "no report" if row.epochs >= row.planned else f"stopped, {row.epochs} of {row.planned} epochs"


def _with_differences(rows: Sequence[ClassRow]) -> list[ClassRow]:
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    usual = {key: Counter(row.settings.get(key, DASH) for row in rows).most_common(1)[0][0] for key in keys}
    return [
        replace(
            row,
            differing=tuple(
                f"{key}={row.settings.get(key, DASH)}" for key in keys if row.settings.get(key, DASH) != usual[key]
            ),
        )
        for row in rows
    ]


def render_class_table(rows: Sequence[ClassRow], unread: dict[str, str]) -> str:
    """The page as one string of HTML that asks nothing of the network; its table sorts by a click on a heading."""
    cells = [
        {
            "name": row.name,
            "network": row.network,
            "numbers": [
                (row.parameters, count(row.parameters)),
                (row.epochs, str(row.epochs)),
                (row.seconds, duration(row.seconds)),
                (row.validation, percent(row.validation)),
                (row.test, percent(row.test)),
            ],
            "interval": between(row.interval, percent) if row.interval else "",
            "state": _state(row),
            "warnings": row.warnings,
            "differing": row.differing,
        }
        for row in rows
    ]
    page = environment().get_template("class_table.html.j2").render(rows=cells, unread=sorted(unread.items()))
    return page.encode("utf-8", "backslashreplace").decode("utf-8")
