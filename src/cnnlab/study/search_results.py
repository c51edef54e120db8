"""The results of a search: results.csv, table.md, what the terminal shows, and the page."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cnnlab.config import options
from cnnlab.data.recommend import follows_from_set, has_no_recipe
from cnnlab.errors import RunError
from cnnlab.evaluation.tables import plain_table
from cnnlab.report.formatting import DASH, between, duration, percent
from cnnlab.runs.folder import RunFolder
from cnnlab.study.definition import COLUMNS, TASK_METRICS, Definition
from cnnlab.study.plan import PlannedRun

SHOWN = 10  # trials in the terminal, the best ones
OPTIMISTIC = (
    "The best of {n} validation results is optimistic: part of it is luck, which the test does not share. Trust the"
    " test result, and train the best settings with several seeds before you call them better than others."
)


@dataclass(frozen=True)
class TrialResult:
    """One trial. `state`: done, pruned, diverged, failed or not finished; `value`: of its best epoch, in [0, 1]."""

    number: int
    run: PlannedRun
    state: str
    value: float | None
    curve: list[tuple[int, float]]  # (epoch, validation metric)
    why: str = ""

    @property
    def shown(self) -> float | None:
        """Its metric; of a trial that was stopped, the best so far."""
        return self.value if self.value is not None else max((value for _, value in self.curve), default=None)


@dataclass(frozen=True)
class Search:
    """A search as far as it has run: its trials in order, the best, and the share of the variance each key explains."""

    definition: Definition
    dir: Path
    trials: list[TrialResult]
    best: TrialResult | None
    importances: dict[str, float]
    untested: str = ""  # why the best trial could not be tested

    @property
    def title(self) -> str:
        return self.definition.title or f"Search: {', '.join(self.definition.search)}"

    @property
    def metric(self) -> str:
        """What the trials are judged by."""
        card = RunFolder(self.best.run.folder).read_card() if self.best is not None else {}
        return f"validation {COLUMNS.get(judged_by(card), 'accuracy')}"

    @property
    def test(self) -> dict[str, Any] | None:
        """The test metrics of the best trial; None before the test, and where there is no test split."""
        return RunFolder(self.best.run.folder).test_metrics() if self.best else None

    @property
    def command(self) -> list[str]:
        """What trains the best trial again."""
        if self.best is None:
            return []
        run = self.best.run
        overrides, name = [*run.combination.overrides, f"seed={run.seed}"], run.config.data.name
        if (
            not has_no_recipe(run.config)
            and follows_from_set(run.config)
            and not any(word.startswith("recipe=") for word in overrides)
        ):
            overrides.append(f"recipe={name if name in options('recipe') else 'default'}")  # as the trial took it
        return ["cnnlab", "train", *overrides, *self.definition.own_options]

    def ranked(self) -> list[TrialResult]:
        """Trials that were done first, the best first; then those that were stopped, by how far and how well."""
        order = {"done": 0, "pruned": 1, "diverged": 2, "failed": 3}

        def place(one: TrialResult) -> tuple[int, int, float, int]:
            far = 0 if one.state == "done" else -len(one.curve)
            return order.get(one.state, 4), far, -(one.shown or 0.0), one.number

        return sorted(self.trials, key=place)

    def count(self, state: str) -> int:
        return sum(one.state == state for one in self.trials)

    def raise_failures(self) -> None:
        """Raise RunError if trials could not be done. One that diverged or was pruned is a result."""
        bad = [one for one in self.trials if one.state == "failed"]
        if bad:
            raise RunError(f"{len(bad)} of the trials failed; {bad[0].run.name}: {bad[0].why}")
        if self.untested:
            raise RunError(f"the best trial could not be tested: {self.untested}")


def judged_by(row: Mapping[str, Any]) -> str:
    """The metric of the task that a row of metrics.jsonl, a card or test.json is of: mean_iou, mean_ap, or accuracy."""
    return next((key for key in TASK_METRICS if key in row or f"val_{key}" in row), "accuracy")


def objective(row: Mapping[str, Any]) -> float:
    """What a row of metrics.jsonl or a model's card is judged by: the metric of its task."""
    value = row[f"val_{judged_by(row)}"]
    return float(value) if value is not None and math.isfinite(value) else 0.0


def conclusions(search: Search) -> list[str]:
    """The result in sentences."""
    if search.best is None:
        return []
    best, test = search.best, search.test
    found = [f"{best.run.name}: {search.metric} {percent(best.value, 2)}."]
    if test is not None:
        key = judged_by(test)
        interval = between(test[f"{key}_interval"], lambda value: percent(value, 2))
        words = f" (95 % interval {interval})" if interval else ""
        found.append(
            f"Tested once, after the search: {COLUMNS.get(key, key)} {percent(test[key], 2)}{words},"
            f" {test['n']:,} images."
        )
    judged = search.count("done") + search.count("pruned")
    if judged > 1:
        found.append(OPTIMISTIC.format(n=judged))
    tested = [one.number for one in search.trials if RunFolder(one.run.folder).test.exists() and not repeats(one)]
    if len(tested) > 1:
        numbers = ", ".join(map(str, tested))
        found.append(
            f"The test split was used for trials {numbers}: more trials came after a test, and its result no"
            " longer stands for images that nobody chose by."
        )
    if (search.definition.jobs or 1) > 1 or search.definition.launcher != "local":
        found.append(
            "Trials ran in parallel: what one tries depends on which have ended before it, so the same call elsewhere"
            " may try others."
        )
    return found


def repeats(one: TrialResult) -> bool:
    return one.why.startswith("the same as trial")


def metrics_of(one: TrialResult) -> dict[str, float | None]:
    """Of the epochs that count: of a pruned trial, those up to the one it was judged at."""
    rows = RunFolder(one.run.folder).history()
    if one.state == "pruned" and one.curve:
        rows = [row for row in rows if row["epoch"] <= one.curve[-1][0]]
    if not rows:
        return {}
    return {
        "epochs": len(rows),
        "train_accuracy": rows[-1]["train_accuracy"],
        "train_loss": rows[-1]["train_loss"],
        "val_loss": rows[-1]["val_loss"],
        "seconds": 0.0 if repeats(one) else sum(row["seconds"] for row in rows),
    }


def as_csv(search: Search) -> str:
    """A line per trial, in order."""
    keys = list(search.definition.search)
    columns = ["epochs", "train_accuracy", "train_loss", "val_loss", "seconds"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metric = search.metric.replace("validation", "val").replace(" ", "_").lower()
    tests = ["test_accuracy", *(f"test_{key}" for key in TASK_METRICS if metric == f"val_{key}")]
    writer.writerow(["trial", *keys, metric, *columns, *tests, "state", "why", "hash", "folder"])
    for one in search.trials:
        known = metrics_of(one)
        best = search.best is not None and one.number == search.best.number
        test = (search.test if best else None) or {}
        row = [plain(known.get(column)) for column in columns]
        values = [one.run.combination.axis_values[key] for key in keys]
        folder = one.run.folder.relative_to(search.dir).as_posix()
        tested = [plain(test.get(key.removeprefix("test_"))) for key in tests]
        writer.writerow(
            [one.number, *values, plain(one.shown), *row, *tested, one.state, one.why, one.run.hash[:8], folder]
        )
    return text.getvalue()


def plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def headings(search: Search) -> list[str]:
    return ["trial", *(key.split(".")[-1] for key in search.definition.search), search.metric, "epochs", "time", ""]


def cells(search: Search, one: TrialResult) -> list[str]:
    """A row of the tables: number, values, metric, epochs, time, and what became of it."""
    known = metrics_of(one)
    values = [one.run.combination.axis_values[key] for key in search.definition.search]
    state = one.why if repeats(one) else "" if one.state == "done" else one.state
    epochs, seconds = known.get("epochs"), known.get("seconds")
    took = DASH if seconds is None else duration(seconds) if seconds else ""
    return [str(one.number), *values, percent(one.shown, 2), f"{epochs or 0:.0f}", took, state]


def terminal_table(search: Search) -> Table:
    """The best trials."""
    table = plain_table(*((heading, "right") for heading in headings(search)))
    for one in search.ranked()[:SHOWN]:
        table.add_row(*cells(search, one))
    return table


def spaces(definition: Definition) -> list[tuple[str, str]]:
    """What each key was chosen from, in words."""
    found = []
    for key, space in definition.search.items():
        choices = ", ".join(one.label for one in space) if isinstance(space, tuple) else str(space)
        found.append((key, choices))
    return found


def summary(search: Search) -> str:
    """ "30 trials: 18 done, 11 pruned, 1 diverged"."""
    counts = [(search.count(state), state) for state in ("done", "pruned", "diverged", "failed", "not finished")]
    words = ", ".join(f"{n} {state}" for n, state in counts if n)
    return f"{len(search.trials)} trial{'s' if len(search.trials) != 1 else ''}: {words}"


def markdown(search: Search, facts: Sequence[tuple[str, str]], command: str) -> str:
    """table.md: the result, every trial, and how it was made."""
    definition = search.definition
    lines = [f"# {search.title}", ""]
    lines += [definition.about, ""] if definition.about else []
    lines += [f"{summary(search)}.", "", *(f"- {sentence}" for sentence in conclusions(search)), ""]
    if search.best is not None:
        lines += ["```", shlex.join(search.command), "```", ""]
    top = headings(search)
    lines += ["| " + " | ".join(top) + " |", "|" + "---:|" * len(top)]
    lines += ["| " + " | ".join(cells(search, one)) + " |" for one in search.ranked()]
    if search.importances:
        shares = ", ".join(f"{key} {percent(share, 0)}" for key, share in search.importances.items())
        lines += ["", f"Share of the variance that each explains (fANOVA): {shares}."]
    lines += ["", *(f"- {key}: {words}" for key, words in spaces(definition))]
    lines += ["", f"`{command}`", "", *(f"{name}: {value}" for name, value in facts)]
    return "\n".join(lines) + "\n"
