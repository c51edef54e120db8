"""The reliability diagram as inline SVG: accuracy over confidence against the diagonal, and below it the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

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
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-labelledby="{identifier}-title {identifier}-text">',
        f'<title id="{identifier}-title">{escape(title)}</title>',
        f'<desc id="{identifier}-text">{escape(" ".join(in_words(one, len(bins)) for one in full))}</desc>',
        *(horizontal_line(y(share), f"{100 * share:g}{SPACE}%") for share in SHARES),
        *(vertical_tick(x(share), f"{100 * share:g}{SPACE}%", FLOOR) for share in SHARES),
        f'<text class="tick" x="{(LEFT + RIGHT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">confidence</text>',
        f'<text class="tick" x="{LEFT - 8:g}" y="{CEILING + 8:g}" text-anchor="end">{count(most)}</text>',
        f'<text class="tick" x="{LEFT - 8:g}" y="{FLOOR + 2:g}" text-anchor="end">0</text>',
        f'<path class="axis" d="M{LEFT:g} {FLOOR:g}H{RIGHT:g}"/>',
    ]
    for one in full:
        left = x(one["low"]) + 1
        for style, top, bottom in (("rate", y(one["accuracy"]), BOTTOM), ("tally", tally(one["n"]), FLOOR)):
            parts.append(
                f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" width="{width - 2:.1f}"'
                f' height="{bottom - top:.1f}"/>'
            )
    parts.append(f'<path class="best" d="M{LEFT:g} {BOTTOM:g}L{RIGHT:g} {TOP:g}"/>')
    for one in full:
        parts.append(
            f'<circle class="dot validation" cx="{x(one["confidence"]):.1f}" cy="{y(one["accuracy"]):.1f}" r="3"/>'
        )
        parts.append(
            f'<rect class="band" x="{x(one["low"]):.1f}" y="{TOP:g}" width="{width:.1f}" height="{FLOOR - TOP:g}">'
            f"<title>{escape(in_words(one, len(bins)))}</title></rect>"
        )
    return "".join([*parts, "</svg>"])


def in_words(one: Bin, bins: int) -> str:
    return (
        f"Confidence {edges(one, bins)}: {count(one['n'])} image{'s' if one['n'] != 1 else ''},"
        f" mean confidence {percent(one['confidence'])}, accuracy {percent(one['accuracy'])}."
    )


def edges(one: Bin, bins: int) -> str:
    return f"{100 * one['low']:.0f} to {100 * (one['low'] + 1 / bins):.0f}{SPACE}%"
