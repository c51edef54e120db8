"""The results of a study: a row per run, a row per combination, and the differences between combinations."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnlab.errors import RunError
from cnnlab.evaluation.crossed import Answers, contrast
from cnnlab.runs.files import read_record
from cnnlab.runs.folder import RunFolder, open_folder
from cnnlab.runs.schema import TEST
from cnnlab.study.definition import TASK_METRICS, Definition
from cnnlab.study.plan import Combination, PlannedRun
from cnnlab.study.worker import set_named

MOST = 12  # sentences that a person reads


@dataclass(frozen=True)
class Row:
    """One finished run: its metrics by column, its curve, and which test images it classified correctly.

    `tested_on`: the set that they are of; images of two sets are never the same one, whatever their names.
    """

    run: PlannedRun
    metrics: dict[str, float | None]
    history: list[dict[str, Any]]
    images: tuple[str, ...]
    right: np.ndarray  # (n,) float32 in [0, 1]; of pixels, the share of an image's that are right
    tested_on: str = ""


@dataclass(frozen=True)
class GridCell:
    """One combination: its runs that are there, and why others are not."""

    combination: Combination
    rows: list[Row]
    missing: list[str]

    def values(self, column: str) -> list[float]:
        found = (row.metrics.get(column) for row in self.rows)
        return [value for value in found if value is not None]

    def mean(self, column: str) -> float | None:
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def deviation(self, column: str) -> float | None:
        """Standard deviation over the seeds (n − 1); None for fewer than two."""
        values = self.values(column)
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """How much larger the accuracy of `first` is than that of `second`, with its 95 % interval.

    `seeds`: that were compared, of the side with fewer; `paired`: both sides were tested on the same images.
    """

    first: str
    second: str
    points: float
    interval: tuple[float, float]
    seeds: int
    paired: bool = True

    @property
    def significant(self) -> bool:
        return not self.interval[0] <= 0 <= self.interval[1]


def main_column(definition: Definition, cells: Sequence[GridCell]) -> str:
    """The metric that the study is about: accuracy on the test split, mean IoU where pixels have classes, accuracy on
    validation where there is no test split."""
    metrics: list[Mapping[str, Any]] = [row.metrics for cell in cells for row in cell.rows]
    for column in ("mean_iou", "test_accuracy"):
        if any(row.get(column) is not None for row in metrics):
            return column
    return "val_accuracy" if metrics else "test_accuracy"


def collect(definition: Definition, runs: Sequence[PlannedRun], failed: Mapping[Path, str]) -> list[GridCell]:
    """Read the runs that are there, by combination, in the order of the grid."""
    counted: dict[str, int] = {}
    cells: dict[str, GridCell] = {}
    for run in runs:
        cell = cells.setdefault(run.combination.label, GridCell(run.combination, [], []))
        if not (run.folder / "report.html").exists():
            cell.missing.append(failed.get(run.folder, "not run yet"))
            continue
        row = _read(run, definition.test_on)
        label = run.combination.label
        if label not in counted:
            counted[label] = _parameters(run)
        row.metrics["parameters"] = counted[label]
        cell.rows.append(row)
    return list(cells.values())


def _read(run: PlannedRun, test_on: Sequence[str]) -> Row:
    folder = RunFolder(run.folder)
    history = folder.history()
    if not history:
        raise RunError(f"{folder.metrics} is empty; delete {run.folder}, and the study runs it again.")
    name = set_named(test_on) if test_on else run.config.data.name
    own = name == run.config.data.name
    test = folder.test_metrics() if own else read_record(run.folder / f"evaluation-test-{name}.json", TEST)
    card, last = folder.read_card(), history[-1]
    rates = sorted(row["images_per_second"] for row in history)
    metrics: dict[str, float | None] = {
        "train_accuracy": last["train_accuracy"],
        "train_loss": last["train_loss"],
        "val_accuracy": card.get("val_accuracy"),
        "val_loss": card.get("val_loss"),
        "seconds": sum(row["seconds"] for row in history),
        "images_per_second": rates[len(rates) // 2],
    }
    if test is not None:
        metrics |= {"test_accuracy": test["accuracy"], "test_loss": test.get("loss")}
        metrics |= {key: test[key] for key in ("ece", "macro_f1", *TASK_METRICS) if key in test}
    answers = run.folder / ("predictions.csv" if own else f"predictions-test-{name}.csv")
    names, right = _answers(answers) if test is not None else ((), np.zeros(0, np.float32))
    tested_on = name if test_on else f"{name} in {run.config.data.root}"
    return Row(run, metrics, history, names, right, tested_on)


def _answers(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the test images, and whether each was classified correctly; of pixels, mean IoU of the image."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file)
            heading = next(lines)
            if "true" in heading:
                pairs = [(line[0], float(line[1] == line[2])) for line in lines]
            else:
                place = heading.index("mean_iou")
                pairs = [(line[0], float(line[place])) for line in lines]
    except (OSError, ValueError, IndexError, StopIteration) as error:
        raise RunError(f"{path} cannot be read ({error or type(error).__name__}); restore it from a copy.") from None
    return tuple(name for name, _ in pairs), np.array([value for _, value in pairs], np.float32)


def _parameters(run: PlannedRun) -> int:
    """Of the best model; its buffers are none."""
    from cnnlab.models.base import count_parameters
    from cnnlab.runs.weights import load_model

    trust = ":" in run.config.model["name"]  # the study's own words named it
    model, _ = load_model(open_folder(run.folder), trust_code=trust)
    return count_parameters(model)


def differences(definition: Definition, cells: Sequence[GridCell]) -> list[Difference]:
    """Between the values of the axis that the study compares, all else equal; without one, between all combinations.

    Each pair once, the better one first. Where these would be more than MOST, each is compared with the best one only.
    What was tested on no image is not compared.
    """
    there = [cell for cell in cells if tested(cell)]
    pairs = [pair for pair in itertools.combinations(there, 2) if _comparable(definition, *pair)]
    if len(pairs) > MOST:
        best = max(there, key=lambda cell: statistics.fmean(float(row.right.mean()) for row in tested(cell)))
        pairs = [(best, cell) for cell in there if cell is not best]
    return [difference(one, other) for one, other in pairs]


def _comparable(definition: Definition, one: GridCell, other: GridCell) -> bool:
    values = one.combination.axis_values
    changed = {axis for axis, value in values.items() if other.combination.axis_values[axis] != value}
    return changed == {definition.compare} if definition.compare else len(changed) == 1


def tested(cell: GridCell) -> list[Row]:
    """The runs of a combination that were tested on images."""
    return [row for row in cell.rows if len(row.right)]


def own_test_images(cells: Sequence[GridCell]) -> bool:
    """Whether the seeds of a combination were tested on other images each, as without an official test split."""
    return any(row.images != rows[0].images for rows in map(tested, cells) for row in rows[1:])


def difference(cell: GridCell, other: GridCell) -> Difference:
    """Mean over seeds of one combination less that of another, better one first, with its 95 % interval.

    See `evaluation.crossed.contrast`; each has at least one run that was tested.
    """
    numbers: dict[tuple[str, str], int] = {}
    sides = [
        {
            row.run.seed: Answers(
                np.array([numbers.setdefault((row.tested_on, name), len(numbers)) for name in row.images]), row.right
            )
            for row in tested(side)
        }
        for side in (cell, other)
    ]
    found = contrast(*sides)
    names = cell.combination.label, other.combination.label
    low, high = found.interval
    if found.points < 0:
        return Difference(names[1], names[0], -found.points, (-high, -low), found.seeds, found.paired)
    return Difference(names[0], names[1], found.points, (low, high), found.seeds, found.paired)


def as_csv(
    definition: Definition, runs: Sequence[PlannedRun], cells: Sequence[GridCell], failed: Mapping[Path, str]
) -> str:
    """A line per run, done or not: its value on each axis, seed, metrics, hash and folder."""
    columns = ["test_accuracy", "test_loss", "val_accuracy", "val_loss", "train_accuracy", "train_loss"]
    columns += [column for column in ("ece", "macro_f1", *TASK_METRICS) if column in definition.columns]
    columns += ["parameters", "seconds", "images_per_second"]
    rows = {row.run.folder: row for cell in cells for row in cell.rows}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["combination", *definition.axes, "seed", "epochs", *columns, "state", "hash", "folder"])
    for run in runs:
        row = rows.get(run.folder)
        metrics = [_plain(row.metrics.get(column)) if row else "" for column in columns]
        state = "done" if row else failed.get(run.folder, "not run yet")
        epochs = len(row.history) if row else ""
        values = [run.combination.axis_values[axis] for axis in definition.axes]
        name = run.folder.relative_to(definition.folder).as_posix()
        writer.writerow([run.combination.label, *values, run.seed, epochs, *metrics, state, run.hash[:8], name])
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
