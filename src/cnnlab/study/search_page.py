"""report.html of a search: the best trial, the way to it, what each setting did, and every trial."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from cnnlab.report import charts, formatting, marks
from cnnlab.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale
from cnnlab.report.formatting import percent
from cnnlab.study.definition import COLUMNS
from cnnlab.study.page import template
from cnnlab.study.search_results import (
    Search,
    TrialResult,
    cells,
    conclusions,
    headings,
    judged_by,
    spaces,
    summary,
)
from cnnlab.study.space import Range

BAR = 26.0  # height of a setting among the importances
WIDE = 720.0
LINE_TOP, LINE_BOTTOM, LINE_HEIGHT = 18.0, 210.0, 250
MANY = 9  # choices beyond which their names stand upright no more


def render(search: Search, facts: Sequence[tuple[str, str]], command: str) -> str:
    """The page as one string of HTML that asks nothing of the network.

    Args:
        facts: pairs for the foot of the page: machine and versions.
        command: what makes it again.
    """
    definition = search.definition
    test = search.test
    key = judged_by(test or {})
    page = template("search.html.j2").render(
        title=search.title,
        about=definition.about,
        summary=summary(search),
        metric=search.metric,
        best=search.best,
        best_metric=percent(search.best.value, 2) if search.best else "",
        settings=list(search.best.run.combination.axis_values.items()) if search.best else [],
        test=None if test is None else percent(test[key], 2),
        test_name=f"test {COLUMNS.get(key, key)}",
        interval="" if test is None else formatting.between(test[f"{key}_interval"], lambda v: percent(v, 2)),
        sentences=conclusions(search)[1:],
        train=shlex.join(search.command),
        way=way_chart(search),
        importances=importance_chart(search),
        done=search.count("done"),
        charts=[(name, chart) for name in definition.search if (chart := value_chart(search, name))],
        headings=headings(search),
        rows=[(one is search.best, cells(search, one)) for one in search.ranked()],
        missing=[(one.run.name, one.why) for one in search.trials if one.state in ("failed", "diverged")],
        spaces=spaces(definition),
        facts=facts,
        command=command,
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def mark(one: TrialResult, x: float, y: float, search: Search) -> str:
    """A dot: full for a trial that was done, hollow for one that was stopped, with a ring around the best."""
    kind = "seed c0" if one.state == "done" else "stopped c7"
    values = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in one.run.combination.axis_values.items())
    tip = f"trial {one.number}: {percent(one.shown, 2)}, {one.state}\n{values}"
    ring = marks.circle("ring", x, y, 7) if one is search.best else ""
    return ring + marks.circle(kind, x, y, 3.5, tip)


def metric_axis(search: Search, top: float, bottom: float) -> tuple[Scale, list[float]]:
    return charts.linear_axis([one.shown for one in search.trials if one.shown is not None], bottom, top)


def way_chart(search: Search) -> str:
    """The metric of each trial in order, and the best one so far as a line."""
    shown = [one for one in search.trials if one.shown is not None]
    if not shown:
        return ""
    left, right = LEFT, WIDE - 12
    last = max(1, search.trials[-1].number)
    x = Scale(0, last, left + 10, right - 10)
    y, ticks = metric_axis(search, LINE_TOP, LINE_BOTTOM)
    title = f"{search.metric.capitalize()} of each trial"
    digits = 0 if ticks[1] - ticks[0] >= 0.01 else 1
    parts = [charts.horizontal_line(y(tick), percent(tick, digits), left, right) for tick in ticks]
    parts += [charts.vertical_tick(x(t), f"{t:g}", LINE_BOTTOM) for t in charts.nice_ticks(0, last, 10, whole=True)]
    parts.append(marks.text("tick", (left + right) / 2, LINE_BOTTOM + 34, "trial", "middle"))
    best, path = -math.inf, ""
    for one in search.trials:
        if one.value is not None and one.value > best:
            path += f"H{x(one.number):.1f}V{y(one.value):.1f}" if path else f"M{x(one.number):.1f} {y(one.value):.1f}"
            best = one.value
    parts.append(marks.path("so-far", f"{path}H{right - 10:g}") if path else "")
    parts += [mark(one, x(one.number), y(one.shown or 0.0), search) for one in shown]
    return marks.svg(parts, WIDE, LINE_HEIGHT, title, "chart wide")


def importance_chart(search: Search) -> str:
    """A bar for each setting: the share of the variance that it explains alone."""
    if not search.importances:
        return ""
    left = min(260.0, 24 + 7.2 * max(map(len, search.importances)))
    x = Scale(0, 1, left, WIDE - 60)
    height = BAR * len(search.importances) + 8
    words = "; ".join(f"{key}: {percent(share, 0)}" for key, share in search.importances.items())
    parts = []
    for line, (key, share) in enumerate(search.importances.items()):
        y = 4 + BAR * (line + 0.5)
        parts.append(marks.text("legend", left - 12, y + 4, key, "end"))
        parts.append(marks.rectangle("share", left, y - 8, x(share) - left, 16, radius=2))
        parts.append(marks.text("tick", x(share) + 8, y + 4, percent(share, 0)))
    return marks.svg(parts, WIDE, height, words, "chart wide")


def value_chart(search: Search, key: str) -> str:
    """The metric of every trial against its value of one setting."""
    shown = [one for one in search.trials if one.shown is not None]
    if not shown:
        return ""
    space = search.definition.search[key]
    y, ticks = metric_axis(search, TOP - 22, BOTTOM)
    title = f"{search.metric.capitalize()} against {key}"
    digits = 0 if ticks[1] - ticks[0] >= 0.01 else 1
    parts = [charts.horizontal_line(y(tick), percent(tick, digits)) for tick in ticks]
    if isinstance(space, Range):
        x = Scale(space.low, space.high, LEFT + 10, RIGHT - 10, space.log)
        parts += [charts.vertical_tick(x(tick), f"{tick:g}") for tick in range_ticks(space)]
        parts += [mark(o, x(float(o.run.combination.axis_values[key])), y(o.shown or 0.0), search) for o in shown]
        return marks.svg(parts, WIDTH, HEIGHT, title)
    names = [one.label for one in space]
    wide = (RIGHT - LEFT) / len(names)
    room = max(3, int(wide / 6.4))
    for place, name in enumerate(names):
        middle = LEFT + wide * (place + 0.5)
        label = formatting.shorten(name, room) if len(names) <= MANY else str(place + 1)
        parts.append(charts.vertical_tick(middle, label))
        column = sorted((o for o in shown if o.run.combination.axis_values[key] == name), key=lambda o: o.number)
        for number, one in enumerate(column):  # side by side, so that equal values do not hide each other
            aside = 0.0 if len(column) < 2 else (number / (len(column) - 1) - 0.5) * min(wide * 0.6, 6.0 * len(column))
            parts.append(mark(one, middle + aside, y(one.shown or 0.0), search))
    return marks.svg(parts, WIDTH, HEIGHT, title)


def range_ticks(space: Range) -> list[float]:
    if space.log:
        return log_ticks(space.low, space.high)
    if space.step is not None and (space.high - space.low) / space.step <= 8:
        return [space.low + step * space.step for step in range(int((space.high - space.low) / space.step + 1.01))]
    return charts.nice_ticks(space.low, space.high, 5, space.whole)


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten within the ends; where these are few, 2 and 5 times them as well."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for factors in ((1,), (1, 3), (1, 2, 5)):
        fit = [
            t
            for t in (float(f"{f}e{d}") for d in decades for f in factors)
            if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)
        ]
        if len(fit) > most:
            break
        found = fit
        if len(fit) >= 4:
            break
    if not found:
        found = [t for t in (10.0**d for d in decades) if low <= t <= high][:: 1 + len(decades) // most]
    return found
