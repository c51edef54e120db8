"""Line charts as inline SVG: data in, a string out.

Colours come from the classes in page.css, so a chart follows light, dark and print by itself. One unit is one CSS pixel
at the natural size of 360 × 250, which is also the width of a phone: the type stays readable everywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cnnlab.report import marks
from cnnlab.report.formatting import finite, number, percent

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 48.0, 344.0, 42.0, 210.0  # the plot area
MAX_HOVER_BANDS = 300  # beyond that a band is thinner than a pixel


@dataclass(frozen=True)
class Series:
    """One curve. `style` is its CSS class; a value that is None or not finite leaves a gap."""

    name: str
    values: Sequence[float | None]
    style: str


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to the pixels [start, end], in proportion or in proportion of the logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def nice_step(span: float, count: int) -> float:
    """Return the smallest of 1, 2, 5 × 10^k that cuts `span` into at most `count` pieces."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return next(step for step in (power, 2 * power, 5 * power, 10 * power) if step * count >= span * (1 - 1e-9))


def nice_ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Return the multiples of a nice step that lie in [low, high]; `whole` keeps the step at 1 or more."""
    step = nice_step(high - low, count)
    if whole:
        step = max(step, 1.0)
    decimals = max(0, -math.floor(math.log10(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, decimals) for index in range(first, last + 1)]


def linear_axis(values: Sequence[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """Widen the range of `values` to nice ticks. A flat curve gets an axis down to zero."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (min(low, 0.0), max(high, 0.0)) if high else (0.0, 1.0)
    step = nice_step(high - low, 5)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    ticks = nice_ticks(low, high)
    return Scale(min(low, ticks[0]), max(high, ticks[-1]), start, end), ticks


def log_axis(values: Sequence[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """Powers of ten that enclose `values`, all above zero; past six decades, every second or third one."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    stride = math.ceil((high - low) / 6)
    return Scale(10.0**low, 10.0**high, start, end, log=True), [10.0**power for power in range(low, high + 1, stride)]


def epoch_axis(epochs: Sequence[float]) -> tuple[Scale, list[float]]:
    """Exactly the range of `epochs`, with whole ticks; a single epoch stands in the middle."""
    low, high = min(epochs), max(epochs)
    if low == high:
        return Scale(low - 0.5, high + 0.5, LEFT, RIGHT), [low]
    return Scale(low, high, LEFT, RIGHT), nice_ticks(low, high, 6, whole=True)


def segments(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Cut a curve at its gaps: runs of (index, finite value)."""
    runs: list[list[tuple[int, float]]] = []
    open_run = False
    for index, raw in enumerate(values):
        value = finite(raw)
        if value is not None:
            if not open_run:
                runs.append([])
            runs[-1].append((index, value))
        open_run = value is not None
    return runs


def curve(series: Series, xs: Sequence[float], y: Scale) -> str:
    """Draw the runs of one series as polylines; a run of a single point, which a line would not show, as a dot."""
    parts = []
    for run in segments(series.values):
        points = [(xs[index], y(value)) for index, value in run]
        if len(points) > 1:
            parts.append(marks.polyline(f"curve {series.style}", points))
        else:
            parts.append(marks.circle(f"dot {series.style}", *points[0], 3))
    return "".join(parts)


def line_chart(
    identifier: str,
    title: str,
    epochs: Sequence[float],
    series: Sequence[Series],
    *,
    write: Callable[[float], str] = number,
    marked_epoch: float | None = None,
    log_from: float | None = None,
) -> str:
    """Draw curves over epochs, with axes, legend, the marked epoch, and a description for who cannot see it.

    Args:
        identifier: prefix of the element ids, unique on the page.
        title: what is drawn; the text alternative begins with it.
        epochs: one number per value of each series, rising.
        series: the curves; one without any finite value is left out.
        write: turns a value into the text of ticks, tooltips and description.
        marked_epoch: epoch that gets a vertical line, and a ring on the last series.
        log_from: take a logarithmic axis when all values are above zero and largest / smallest exceeds this.

    Returns an empty string when there is nothing to draw.
    """
    series = [one for one in series if segments(one.values)]
    if not series:
        return ""
    x, x_ticks = epoch_axis(epochs)
    xs = [x(epoch) for epoch in epochs]
    values = [value for one in series for run in segments(one.values) for _, value in run]
    log = log_from is not None and min(values) > 0 and max(values) / min(values) > log_from
    y, y_ticks = (log_axis if log else linear_axis)(values, BOTTOM, TOP)
    heading = f"{title} (logarithmic axis)" if log else title
    parts = [
        *(horizontal_line(y(tick), write(tick)) for tick in y_ticks),
        *(vertical_tick(x(tick), f"{tick:g}") for tick in x_ticks),
        marks.text("tick", (LEFT + RIGHT) / 2, BOTTOM + 34, "epoch", "middle"),
        legend(series),
        *(curve(one, xs, y) for one in series),
    ]
    if marked_epoch is not None and marked_epoch in epochs:
        index = list(epochs).index(marked_epoch)
        parts.append(best_mark(xs[index], f"best: {marked_epoch:g}"))
        value = finite(series[-1].values[index])
        if value is not None:
            parts.append(marks.circle(f"ring {series[-1].style}", xs[index], y(value), 4))
    if len(epochs) <= MAX_HOVER_BANDS:
        parts.append(hover_bands(epochs, xs, series, write))
    return marks.titled_svg(parts, WIDTH, HEIGHT, identifier, heading, describe(epochs, series, write))


def horizontal_line(y: float, label: str, left: float = LEFT, right: float = RIGHT) -> str:
    return marks.across("grid", left, right, y) + marks.text("tick", left - 8, y + 4, label, "end")


def vertical_tick(x: float, label: str, bottom: float = BOTTOM) -> str:
    return marks.down("axis", x, bottom, bottom + 4) + marks.text("tick", x, bottom + 17, label, "middle")


def legend(series: Sequence[Series]) -> str:
    parts, left = [], LEFT
    for one in series if len(series) > 1 else []:
        parts.append(marks.across(f"curve {one.style}", left, left + 18, 10))
        parts.append(marks.text("legend", left + 24, 14, one.name))
        left += 48 + 7 * len(one.name)
    return "".join(parts)


def best_mark(x: float, label: str) -> str:
    near_left, near_right = x < LEFT + 30, x > RIGHT - 30
    anchor = "start" if near_left else "end" if near_right else "middle"
    return marks.down("best", x, TOP - 4, BOTTOM) + marks.text("tick", x, TOP - 9, label, anchor)


def hover_bands(
    epochs: Sequence[float], xs: Sequence[float], series: Sequence[Series], write: Callable[[float], str]
) -> str:
    """One invisible strip an epoch, from half way to its neighbours, whose tooltip reads the values off."""
    edges = [LEFT, *((one + two) / 2 for one, two in itertools.pairwise(xs)), RIGHT]
    parts = []
    for index, epoch in enumerate(epochs):
        pairs = ((one.name, finite(one.values[index])) for one in series)
        lines = [f"epoch {epoch:g}", *(f"{name}: {write(value)}" for name, value in pairs if value is not None)]
        width = edges[index + 1] - edges[index]
        parts.append(marks.rectangle("band", edges[index], TOP, width, BOTTOM - TOP, tip="\n".join(lines)))
    return "".join(parts)


def describe(epochs: Sequence[float], series: Sequence[Series], write: Callable[[float], str]) -> str:
    """Say in words what the curves show: where each begins, ends, and has its extremes."""
    sentences = [f"Line chart over {len(epochs)} epoch{'s' if len(epochs) > 1 else ''}."]
    for one in series:
        points = [point for run in segments(one.values) for point in run]
        low, high = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
        sentences.append(
            f"{one.name.capitalize()}: first {write(points[0][1])}, last {write(points[-1][1])}, lowest {write(low[1])}"
            f" at epoch {epochs[low[0]]:g}, highest {write(high[1])} at epoch {epochs[high[0]]:g}."
        )
    return " ".join(sentences)


def interval_strip(accuracy: float, interval: tuple[float, float] | None, baseline: float | None) -> str:
    """Draw an accuracy with its interval on a line from 0 to 100 %; a tick shows what guessing one class scores."""
    scale = Scale(0.0, 1.0, 14.0, WIDTH - 14.0)
    text = f"Accuracy {percent(accuracy)} on a line from 0 to 100 %."
    parts = [marks.across("grid", scale(0), scale(1), 14)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(marks.down("axis", scale(share), 11, 17))
        parts.append(marks.text("tick", scale(share), 35, f"{share * 100:g}", "middle"))
    if baseline is not None:
        text += f" The most common class alone: {percent(baseline)}."
        parts.append(marks.down("baseline", scale(baseline), 5, 23))
    if interval is not None:
        low, high = interval
        text += f" 95 % interval: {percent(low)} to {percent(high)}."
        parts.append(marks.across("interval", scale(low), scale(high), 14))
    parts.append(marks.circle("dot validation", scale(accuracy), 14, 4))
    return marks.svg(parts, WIDTH, 40, text, "strip")
