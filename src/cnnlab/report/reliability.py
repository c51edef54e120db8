"""The reliability diagram as inline SVG: accuracy over confidence against the diagonal, and below it the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnlab.report import marks
from cnnlab.report.charts import LEFT, RIGHT, WIDTH, Scale, horizontal_line, vertical_tick
from cnnlab.report.formatting import SPACE, count, finite, percent

HEIGHT = 326
TOP, BOTTOM = 10.0, 226.0  # of the accuracies
FLOOR, CEILING = 282.0, 240.0  # of the counts
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

Bin = Mapping[str, Any]  # low, n, confidence, accuracy


def reliability_diagram(identifier: str, title: str, bins: Sequence[Bin]) -> str:
    """Draw the bins of the confidence, which are of equal width from 0 to 1; one without images stays blank.

    Args:
        identifier: prefix of the element ids, unique on the page.

    Returns an empty string where no bin holds an image.
    """
    full = [one for one in bins if finite(one.get("accuracy")) is not None and one["n"]]
    if not full:
        return ""
    x, y = Scale(0.0, 1.0, LEFT, RIGHT), Scale(0.0, 1.0, BOTTOM, TOP)
    most = max(one["n"] for one in full)
    tally = Scale(0.0, most, FLOOR, CEILING)
    width = (RIGHT - LEFT) / len(bins)
    parts = [
        *(horizontal_line(y(share), f"{100 * share:g}{SPACE}%") for share in SHARES),
        *(vertical_tick(x(share), f"{100 * share:g}{SPACE}%", FLOOR) for share in SHARES),
        marks.text("tick", (LEFT + RIGHT) / 2, HEIGHT - 8, "confidence", "middle"),
        marks.text("tick", LEFT - 8, CEILING + 8, count(most), "end"),
        marks.text("tick", LEFT - 8, FLOOR + 2, "0", "end"),
        marks.across("axis", LEFT, RIGHT, FLOOR),
    ]
    for one in full:
        left = x(one["low"]) + 1
        for style, top, bottom in (("rate", y(one["accuracy"]), BOTTOM), ("tally", tally(one["n"]), FLOOR)):
            parts.append(marks.rectangle(style, left, top, width - 2, bottom - top))
    parts.append(marks.path("best", f"M{LEFT:g} {BOTTOM:g}L{RIGHT:g} {TOP:g}"))
    for one in full:
        parts.append(marks.circle("dot validation", x(one["confidence"]), y(one["accuracy"]), 3))
        parts.append(marks.rectangle("band", x(one["low"]), TOP, width, FLOOR - TOP, tip=in_words(one, len(bins))))
    words = " ".join(in_words(one, len(bins)) for one in full)
    return marks.titled_svg(parts, WIDTH, HEIGHT, identifier, title, words)


def in_words(one: Bin, bins: int) -> str:
    return (
        f"Confidence {edges(one, bins)}: {count(one['n'])} image{'s' if one['n'] != 1 else ''},"
        f" mean confidence {percent(one['confidence'])}, accuracy {percent(one['accuracy'])}."
    )


def edges(one: Bin, bins: int) -> str:
    return f"{100 * one['low']:.0f} to {100 * (one['low'] + 1 / bins):.0f}{SPACE}%"
