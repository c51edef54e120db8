"""Charts: ticks a person would choose, and curves whose points lie where the numbers say."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from cnnlab.report.charts import BOTTOM, LEFT, MAX_HOVER_BANDS, RIGHT, TOP, Scale, Series, line_chart, nice_ticks

NAN = float("nan")


def points(svg: str, style: str = "validation") -> list[list[tuple[float, float]]]:
    """Return the polylines of one style as lists of (x, y) in SVG units."""
    found = re.findall(rf'<polyline class="curve {style}" points="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in found]


def circles(svg: str, style: str) -> list[tuple[float, float]]:
    found = re.findall(rf'<circle class="{style}" cx="([-\d.]+)" cy="([-\d.]+)"', svg)
    return [(float(x), float(y)) for x, y in found]


def one_curve(values: list[float | None], **keywords: object) -> str:
    epochs = [float(epoch) for epoch in range(1, len(values) + 1)]
    return line_chart("c", "Loss", epochs, [Series("validation", values, "validation")], **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.13, 2.31, [0.5, 1, 1.5, 2]),
        (0, 0.0003, [0, 0.0001, 0.0002, 0.0003]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (12_000, 61_000, [20_000, 30_000, 40_000, 50_000, 60_000]),
    ],
)
def test_ticks_are_multiples_of_1_2_or_5(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == expected


@pytest.mark.parametrize("last", [2, 3, 15, 200, 1000])
def test_ticks_of_epochs_are_whole_and_few(last: int) -> None:
    ticks = nice_ticks(1, last, 6, whole=True)
    assert all(tick == int(tick) for tick in ticks)
    assert 2 <= len(ticks) <= 7


def test_linear_scale_maps_the_ends_and_the_middle() -> None:
    scale = Scale(0.0, 10.0, 200.0, 40.0)
    assert [scale(0), scale(5), scale(10)] == [200, 120, 40]


def test_logarithmic_scale_gives_each_decade_the_same_length() -> None:
    scale = Scale(0.01, 1.0, 0.0, 100.0, log=True)
    assert [scale(0.01), scale(0.1), scale(1.0)] == pytest.approx([0, 50, 100])


def test_curve_runs_through_known_pixels() -> None:
    (line,) = points(one_curve([0.0, 0.5, 1.0]))  # axis 0 to 1, epochs 1 to 3
    assert line == [(LEFT, BOTTOM), ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2), (RIGHT, TOP)]


@pytest.mark.parametrize("missing", [None, NAN, math.inf])
def test_missing_value_leaves_a_gap(missing: float | None) -> None:
    first, second = points(one_curve([0.0, 0.5, missing, 0.5, 1.0]))
    assert [x for x, _ in first + second] == [48, 122, 270, 344]
    assert len(first) == len(second) == 2


def test_point_between_two_gaps_is_drawn_as_a_dot() -> None:
    svg = one_curve([0.0, 1.0, None, 0.5, None])
    assert circles(svg, "dot validation") == [(48 + 296 * 3 / 4, (TOP + BOTTOM) / 2)]


def test_single_epoch_stands_in_the_middle() -> None:
    svg = one_curve([0.7], marked_epoch=1.0)
    seven_eighths = BOTTOM - 7 / 8 * (BOTTOM - TOP)  # 0.7 on an axis from 0 to 0.8
    assert circles(svg, "dot validation") == circles(svg, "ring validation") == [((LEFT + RIGHT) / 2, seven_eighths)]
    assert points(svg) == []


def test_best_epoch_is_ringed_on_the_curve() -> None:
    svg = one_curve([0.0, 1.0, 0.5], marked_epoch=2.0)
    assert circles(svg, "ring validation") == [((LEFT + RIGHT) / 2, TOP)]
    assert "best: 2" in svg


def test_marked_epoch_without_a_value_keeps_its_line_and_loses_its_ring() -> None:
    svg = one_curve([0.0, None, 0.5], marked_epoch=2.0)
    assert 'class="best"' in svg
    assert "ring" not in svg


def test_series_without_values_is_left_out_and_no_values_draw_nothing() -> None:
    train, val = Series("training", [1.0, 2.0], "training"), Series("validation", [None, NAN], "validation")
    assert "validation" not in line_chart("c", "Loss", [1.0, 2.0], [train, val])
    assert line_chart("c", "Loss", [1.0, 2.0], [val]) == ""


def test_wide_range_takes_a_logarithmic_axis_and_says_so() -> None:
    svg = one_curve([1.0, 0.1, 0.001], log_from=100)
    (line,) = points(svg)
    assert [y for _, y in line] == pytest.approx([TOP, TOP + (BOTTOM - TOP) / 3, BOTTOM])
    assert "logarithmic" in svg
    assert "logarithmic" not in one_curve([1.0, 0.1, 0.0], log_from=100)  # zero has no logarithm


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-300, 1e30])
def test_flat_curve_stays_inside_the_plot(value: float) -> None:
    (line,) = points(one_curve([value, value, value]))
    assert all(TOP <= y <= BOTTOM for _, y in line)


def test_thousand_epochs_are_one_line_without_hover_bands() -> None:
    svg = one_curve([1 / epoch for epoch in range(1, 1001)])
    (line,) = points(svg)
    assert len(line) == 1000
    assert "band" not in svg
    assert one_curve([1.0] * MAX_HOVER_BANDS).count('class="band"') == MAX_HOVER_BANDS


def test_chart_is_well_formed_names_itself_and_escapes_its_text() -> None:
    hostile = '</title><script>alert("&")</script>'
    svg = line_chart("c", hostile, [1.0, 2.0], [Series(hostile, [1.0, 2.0], "training")] * 2)
    root = ElementTree.fromstring(svg)  # fails on an unescaped < or &
    titles = [element.text for element in root if element.tag == "title"]
    assert titles == [hostile]
    assert "<script>" not in svg
    ids = {element.get("id") for element in root}
    assert set(str(root.get("aria-labelledby")).split()) <= ids


def test_description_tells_first_last_lowest_and_highest() -> None:
    text = one_curve([2.0, 0.5, 1.0])
    assert "first 2, last 1, lowest 0.5 at epoch 2, highest 2 at epoch 1" in text
