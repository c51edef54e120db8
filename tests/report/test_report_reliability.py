"""The reliability diagram: bars as high as the accuracies, counts below, and words for who cannot see it."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from cnnlab.report.charts import LEFT, RIGHT
from cnnlab.report.formatting import SPACE
from cnnlab.report.reliability import BOTTOM, CEILING, FLOOR, TOP, reliability_diagram


def bins(**filled: tuple[int, float, float]) -> list[dict[str, Any]]:
    """Ten bins; `b3=(n, confidence, accuracy)` fills the fourth."""
    every = [{"low": i / 10, "n": 0, "confidence": None, "accuracy": None} for i in range(10)]
    for name, (n, confidence, accuracy) in filled.items():
        every[int(name[1:])] |= {"n": n, "confidence": confidence, "accuracy": accuracy}
    return every


def boxes(svg: str, style: str) -> list[tuple[float, ...]]:
    """(x, y, width, height) of the rectangles of a style."""
    pattern = rf'<rect class="{style}" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
    return [tuple(map(float, found)) for found in re.findall(pattern, svg)]


def test_bars_and_counts_are_as_high_as_the_metrics() -> None:
    svg = reliability_diagram("r", "As trained", bins(b5=(40, 0.55, 0.25), b9=(10, 0.98, 1.0)))
    (x, y, width, height), (_, top, _, full) = boxes(svg, "rate")
    assert (y + height, height) == (BOTTOM, pytest.approx(0.25 * (BOTTOM - TOP)))
    assert (x - 1, width + 2) == ((LEFT + RIGHT) / 2, pytest.approx((RIGHT - LEFT) / 10, abs=0.05))
    assert (top, full) == (TOP, BOTTOM - TOP)
    assert [height for *_, height in boxes(svg, "tally")] == pytest.approx(
        [FLOOR - CEILING, (FLOOR - CEILING) / 4], abs=0.05
    )


def test_the_dot_stands_at_the_mean_confidence() -> None:
    svg = reliability_diagram("r", "As trained", bins(b5=(40, 0.55, 0.25)))
    ((x, y),) = re.findall(r'<circle class="dot validation" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert float(x) == pytest.approx(LEFT + 0.55 * (RIGHT - LEFT), abs=0.05)
    assert float(y) == pytest.approx(BOTTOM - 0.25 * (BOTTOM - TOP), abs=0.05)


def test_it_is_well_formed_and_says_what_it_shows() -> None:
    svg = reliability_diagram("r", "<As & trained>", bins(b5=(1, 0.55, 0.25)))
    root = ElementTree.fromstring(svg)
    assert root[0].text == "<As & trained>"
    words = str(root[1].text).replace(SPACE, " ")
    assert words == "Confidence 50 to 60 %: 1 image, mean confidence 55.0 %, accuracy 25.0 %."


def test_bins_without_images_draw_nothing() -> None:
    assert reliability_diagram("r", "As trained", bins()) == ""
    assert reliability_diagram("r", "As trained", []) == ""
