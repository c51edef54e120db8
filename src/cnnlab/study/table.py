"""The results of a study as text: table.md, what the terminal shows, and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from cnnlab.evaluation.tables import plain_table
from cnnlab.report.formatting import DASH, count, duration, number
from cnnlab.study.definition import COLUMNS, Definition
from cnnlab.study.results import Difference, GridCell, own_test_images, tested

SHARES = ("accuracy", "f1", "iou", "ece")  # columns in per cent


def is_share(column: str) -> bool:
    return column.endswith(SHARES)


def metric_text(cell: GridCell, column: str) -> str:
    """Mean ± standard deviation: "88.12 ± 0.21 %"."""
    mean, deviation = cell.mean(column), cell.deviation(column)
    if mean is None:
        return DASH
    if column == "parameters":
        return count(mean)
    if column == "seconds":
        return duration(mean)
    if column == "images_per_second":
        return count(mean)
    if not is_share(column):
        return number(mean) + (f" ± {deviation:.2g}" if deviation is not None else "")
    return f"{100 * mean:.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "") + " %"


def heading(definition: Definition, column: str) -> str:
    if column.startswith("test_") and definition.test_on:
        return f"{COLUMNS[column]} ({definition.test_on[0].removeprefix('data=')})"
    return COLUMNS[column]


def runs_there(cell: GridCell) -> str:
    """n, and what is missing of it: "3", "2 (1 diverged)"."""
    there = str(len(cell.rows))
    if not cell.missing:
        return there
    diverged = sum("is not finite at step" in why for why in cell.missing)
    waiting = sum(why == "not run yet" for why in cell.missing)
    failed = len(cell.missing) - diverged - waiting
    words = [f"{n} {name}" for n, name in ((diverged, "diverged"), (failed, "failed"), (waiting, "missing")) if n]
    return f"{there} ({', '.join(words)})"


def terminal_table(definition: Definition, cells: Sequence[GridCell]) -> Table:
    table = plain_table(
        ("", "left"), *((heading(definition, column), "right") for column in definition.columns), ("n", "right")
    )
    for cell in cells:
        table.add_row(cell.combination.label, *(metric_text(cell, c) for c in definition.columns), runs_there(cell))
    return table


def markdown(
    definition: Definition, cells: Sequence[GridCell], found: Sequence[Difference], notes: Sequence[str]
) -> str:
    """table.md: title, what was asked, the table, the small table, the sentences, how it was measured."""
    columns = definition.columns
    lines = [f"# {definition.title or definition.name}", ""]
    lines += [definition.about, ""] if definition.about else []
    lines += _rows(["", *(heading(definition, c) for c in columns), "n"])
    lines += [
        "| " + " | ".join([cell.combination.label, *(metric_text(cell, c) for c in columns), runs_there(cell)]) + " |"
        for cell in cells
    ]
    lines += ["", "Mean ± standard deviation over the seeds."]
    if small := small_table(definition, cells):
        lines += ["", *_rows(small[0]), *("| " + " | ".join(row) + " |" for row in small[1:])]
    lines += ["", *(f"- {sentence(one)}" for one in found)] if found else []
    lines += [line for note in about_tests(cells) for line in ("", note)]
    lines += ["", *(f"{note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _rows(headings: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]


def small_table(definition: Definition, cells: Sequence[GridCell]) -> list[list[str]]:
    """The main metric with one axis down and one across, such as depth × residual; empty where the study has none."""
    if definition.table is None or len([a for a, v in definition.axes.items() if len(v) > 1]) != 2:
        return []
    down, across = definition.table
    column = next((c for c in definition.columns if c in ("test_accuracy", "mean_iou", "val_accuracy")), None)
    if column is None:
        return []
    cell_at = {tuple(cell.combination.axis_values[axis] for axis in (down, across)): cell for cell in cells}
    rows, columns = ([value.label for value in definition.axes[axis]] for axis in (down, across))
    body = [[row, *(metric_text(cell_at[row, one], column) for one in columns)] for row in rows]
    return [[f"{down.split('.')[-1]} ({heading(definition, column)})", *columns], *body]


def sentence(one: Difference) -> str:
    """ "ResNet-56 is 2.1 points better than plain-56 (95 % interval 1.4 to 2.8, n = 3)."."""
    low, high = (f"{100 * bound:.1f}".replace("-", "−") for bound in one.interval)
    seeds = f"n = {one.seeds}"
    if one.seeds == 1:
        seeds = "one seed: the interval covers only the sampling of the test images, for these two networks"
    if not one.paired:
        seeds += ", not on the same test images"
    facts = f"(95 % interval {low} to {high}, {seeds})"
    if not one.significant:
        return f"No significant difference between {one.first} and {one.second}: {100 * one.points:.1f} points {facts}."
    return f"{one.first} is {100 * one.points:.1f} points better than {one.second} {facts}."


def about_tests(cells: Sequence[GridCell]) -> list[str]:
    """What a reader of the differences must know of the test images, in sentences."""
    found = []
    if own_test_images(cells):
        found.append(
            "There is no official test split: each seed has its own. A seed's runs are compared on the same images, and"
            " an image that several seeds were tested on counts once."
        )
    if bare := [cell.combination.label for cell in cells if cell.rows and not tested(cell)]:
        found.append(f"Not compared, because there are no test images: {'; '.join(bare)}.")
    return found
