"""report.html of a study: one file with its table, its curves with bands, and its differences in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from cnnlab.report import charts, formatting, marks
from cnnlab.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale
from cnnlab.report.formatting import number, percent
from cnnlab.study.definition import COLUMNS, Definition
from cnnlab.study.results import Difference, GridCell, main_column
from cnnlab.study.table import about_tests, heading, is_share, metric_text, runs_there, sentence, small_table

COLOURS = 8  # that page.css tells apart; then they begin again, dashed
ROW = 26.0  # height of a combination in the dot plot
WIDE = 720.0
CURVES = (
    ("val_accuracy", "Validation accuracy", percent),
    ("train_accuracy", "Training accuracy", percent),
    ("train_loss", "Training loss", number),
)


def render(
    definition: Definition,
    cells: Sequence[GridCell],
    found: Sequence[Difference],
    facts: Sequence[tuple[str, str]],
    command: str,
) -> str:
    """The page as one string of HTML that asks nothing of the network.

    Args:
        facts: pairs for the foot of the page: machine, versions, runs.
        command: what makes it again.
    """
    column = main_column(definition, cells)
    drawn = [(title, curve_chart(cells, key, title, write)) for key, title, write in CURVES]
    page = template("study.html.j2").render(
        title=definition.title or definition.name,
        about=definition.about,
        headings=[heading(definition, c) for c in definition.columns],
        rows=[
            (place, cell.combination.label, [metric_text(cell, c) for c in definition.columns], runs_there(cell))
            for place, cell in enumerate(cells)
        ],
        style=colour_class,
        small=small_table(definition, cells),
        dots=dot_chart(definition, cells, column),
        trend=trend_chart(definition, cells, column),
        curves=[(title, chart) for title, chart in drawn if chart],
        main=heading(definition, column).capitalize(),
        sentences=[sentence(one) for one in found],
        about_tests=about_tests(cells),
        missing=[(cell.combination.label, why) for cell in cells for why in cell.missing],
        facts=facts,
        command=command,
        several=definition.seeds > 1,
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def template(name: str) -> Any:
    """A template of a study's page, which takes the style of a run's report."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader("cnnlab", "study"), PackageLoader("cnnlab", "report")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = formatting.breakable
    return environment.get_template(name)


def colour_class(place: int) -> str:
    return f"c{place % COLOURS}" + (" dashed" if place >= COLOURS else "")


def _writer(column: str) -> Callable[[float], str]:
    return percent if is_share(column) else number


def dot_chart(definition: Definition, cells: Sequence[GridCell], column: str) -> str:
    """A line per combination: a dot for each seed, the mean, and one standard deviation to each side."""
    shown = [(place, cell) for place, cell in enumerate(cells) if cell.values(column)]
    if not shown:
        return ""
    write = _writer(column)
    names = max(len(cell.combination.label) for _, cell in shown)
    left = min(260.0, 24 + 6.6 * names)
    reach = [v for _, cell in shown for v in (*cell.values(column), *_band(cell.values(column)))]
    x, ticks = charts.linear_axis(reach, left, WIDE - 84)
    bottom = 12 + ROW * len(shown)
    title = f"{heading(definition, column).capitalize()} of each combination"
    words = "; ".join(f"{cell.combination.label}: {metric_text(cell, column)}" for _, cell in shown)
    parts = []
    for tick in ticks:
        parts.append(marks.down("grid", x(tick), 4, bottom))
        parts.append(marks.text("tick", x(tick), bottom + 18, write(tick), "middle"))
    for line, (place, cell) in enumerate(shown):
        y = 12 + ROW * (line + 0.5)
        low, high = _band(cell.values(column))
        label = formatting.shorten(cell.combination.label, 38)
        parts.append(marks.text("legend", left - 12, y + 4, label, "end"))
        parts.append(marks.across(f"spread {colour_class(place)}", x(low), x(high), y))
        for row in cell.rows:
            if (value := row.metrics.get(column)) is not None:
                tip = f"seed {row.run.seed}: {write(value)}"
                parts.append(marks.circle(f"seed {colour_class(place)}", x(value), y, 3.5, tip))
        mean = statistics.fmean(cell.values(column))
        parts.append(marks.down("mean", x(mean), y - 7, y + 7))
        parts.append(marks.text("tick", WIDE - 72, y + 4, write(mean)))
    return marks.svg(parts, WIDE, bottom + 28, f"{title}: {words}", "chart wide")


def _band(values: Sequence[float]) -> tuple[float, float]:
    """Mean − and + one standard deviation; the value itself where there is one."""
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return mean - spread, mean + spread


def _named(axis: str, place: str) -> str:
    """ "residual=true", but "ResNet" where the value has a name of its own."""
    bare = place in ("true", "false", "null") or _as_number(place) is not None
    return f"{axis.split('.')[-1]}={place}" if bare else place


def _as_number(label: str) -> float | None:
    return formatting.finite(label)


def trend_chart(definition: Definition, cells: Sequence[GridCell], column: str) -> str:
    """The metric against an axis of numbers, a line for each value of the other axis, with bands; "" where the study
    has no such axis."""
    several = [axis for axis, values in definition.axes.items() if len(values) > 1]
    numeric = [axis for axis in several if all(_as_number(v.label) is not None for v in definition.axes[axis])]
    if len(several) > 2 or len(numeric) != 1:
        return ""
    across = numeric[0]
    others = [axis for axis in several if axis != across]
    lines: dict[str, list[tuple[float, GridCell]]] = {}
    for cell in cells:
        name = _named(others[0], cell.combination.axis_values[others[0]]) if others else COLUMNS[column]
        if cell.values(column):
            lines.setdefault(name, []).append((float(cell.combination.axis_values[across]), cell))
    if not lines or max(len(points) for points in lines.values()) < 2:
        return ""
    positions = sorted({x for points in lines.values() for x, _ in points})
    values = [v for points in lines.values() for _, cell in points for v in _band(cell.values(column))]
    log = positions[0] > 0 and positions[-1] / positions[0] >= 10
    x = Scale(positions[0], positions[-1], LEFT + 10, RIGHT - 10, log)
    y, ticks = charts.linear_axis(values, BOTTOM, TOP)
    write, name = _writer(column), across.split(".")[-1]
    title = f"{heading(definition, column).capitalize()} against {name}"
    parts = _axes([y(t) for t in ticks], [write(t) for t in ticks], name)
    shown: list[float] = []
    for tick in positions:
        if not shown or x(tick) - x(shown[-1]) > 28:
            parts.append(charts.vertical_tick(x(tick), f"{tick:g}"))
            shown.append(tick)
    for place, (line, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        style = colour_class(place)
        bands = [(x(at), _band(cell.values(column))) for at, cell in points]
        parts.append(_area([(px, y(low), y(high)) for px, (low, high) in bands], style))
        middle = [(x(at), y(statistics.fmean(cell.values(column)))) for at, cell in points]
        parts.append(_line(middle, style))
        for (px, py), (at, cell) in zip(middle, points, strict=True):
            tip = f"{line}, {name} {at:g}: {metric_text(cell, column)}"
            parts.append(marks.circle(f"seed {style}", px, py, 3, tip))
    parts.append(_legend(list(lines)) if others else "")
    return marks.svg(parts, WIDTH, HEIGHT, title)


def curve_chart(cells: Sequence[GridCell], key: str, title: str, write: Callable[[float], str]) -> str:
    """Mean over the seeds of a metric over the epochs, with a band of one standard deviation."""
    lines: list[tuple[int, list[tuple[float, float, float]]]] = []  # place, (mean, low, high) an epoch
    for place, cell in enumerate(cells):
        columns = _by_epoch([row.history for row in cell.rows], key)
        if columns:
            lines.append((place, [(statistics.fmean(values), *_band(values)) for values in columns]))
    if not lines:
        return ""
    longest = max(len(points) for _, points in lines)
    values = [v for _, points in lines for point in points for v in point]
    log = key.endswith("loss") and min(values) > 0 and max(values) / min(values) > 20
    x, x_ticks = charts.epoch_axis(list(range(1, longest + 1)))
    y, ticks = (charts.log_axis if log else charts.linear_axis)(values, BOTTOM, TOP)
    parts = _axes([y(t) for t in ticks], [write(t) for t in ticks], "epoch")
    parts += [charts.vertical_tick(x(tick), f"{tick:g}") for tick in x_ticks]
    for place, points in lines:
        at = [x(epoch) for epoch in range(1, len(points) + 1)]
        style = colour_class(place)
        parts.append(_area([(px, y(low), y(high)) for px, (_, low, high) in zip(at, points, strict=True)], style))
        parts.append(_line([(px, y(mean)) for px, (mean, _, _) in zip(at, points, strict=True)], style))
    return marks.svg(parts, WIDTH, HEIGHT, title)


def _by_epoch(histories: Sequence[Sequence[dict[str, Any]]], key: str) -> list[list[float]]:
    """Values of each epoch over the runs that came so far; up to the first epoch that has none."""
    columns: list[list[float]] = []
    for epoch in range(max((len(rows) for rows in histories), default=0)):
        known = (formatting.finite(rows[epoch].get(key)) for rows in histories if len(rows) > epoch)
        values = [value for value in known if value is not None]
        if not values:
            break
        columns.append(values)
    return columns


def _axes(heights: Sequence[float], labels: Sequence[str], below: str) -> list[str]:
    return [
        *(charts.horizontal_line(y, label) for y, label in zip(heights, labels, strict=True)),
        marks.text("tick", (LEFT + RIGHT) / 2, BOTTOM + 34, below, "middle"),
    ]


def _line(points: Sequence[tuple[float, float]], style: str) -> str:
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if len(finite) == 1:
        return marks.circle(f"seed {style}", *finite[0], 3)
    return marks.polyline(f"curve {style}", finite)


def _area(points: Sequence[tuple[float, float, float]], style: str) -> str:
    if len(points) < 2 or all(low == high for _, low, high in points):
        return ""
    there = [(x, high) for x, _, high in points]
    back = [(x, low) for x, low, _ in reversed(points)]
    return marks.polygon(f"area {style}", [*there, *back])


def _legend(names: Sequence[str]) -> str:
    parts, left = [], LEFT
    for place, name in enumerate(names):
        parts.append(marks.across(f"curve {colour_class(place)}", left, left + 18, 14))
        parts.append(marks.text("legend", left + 24, 18, name))
        left += 44 + 7 * len(name)
    return "".join(parts)
