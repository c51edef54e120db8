"""The marks that charts are made of, as strings of SVG.

The class of a mark gives its colour (page.css), so that a chart follows light, dark and print by itself. Coordinates
are CSS pixels, written to a tenth; words are escaped here. A `tip` shows when the mark is pointed at.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

Point = tuple[float, float]


def pixels(value: float) -> str:
    """3.14159 → "3.1", 12.0 → "12"."""
    return f"{value:.1f}".removesuffix(".0")


def svg(parts: Iterable[str], width: float, height: float, words: str, style: str = "chart") -> str:
    """A chart of these marks; `words` say what it shows to who cannot see it."""
    return (
        f'<svg class="{style}" viewBox="0 0 {pixels(width)} {pixels(height)}" role="img" aria-label="{escape(words)}">'
        f"{''.join(parts)}</svg>"
    )


def titled_svg(parts: Iterable[str], width: float, height: float, identifier: str, title: str, words: str) -> str:
    """A chart with a title, and words of some length. `identifier`: of its elements, unique on the page."""
    return (
        f'<svg class="chart" viewBox="0 0 {pixels(width)} {pixels(height)}" role="img"'
        f' aria-labelledby="{identifier}-title {identifier}-text">'
        f'<title id="{identifier}-title">{escape(title)}</title><desc id="{identifier}-text">{escape(words)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def standing_svg(
    parts: Iterable[str], width: float, height: float, identifier: str, title: str, words: str, style: str, rules: str
) -> str:
    """A file of its own, at its size or smaller; `rules` are CSS, all of them for the class `style` only."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{style}" width="{pixels(width)}" height="{pixels(height)}"'
        f' viewBox="0 0 {pixels(width)} {pixels(height)}" style="max-width:100%;height:auto" role="img"'
        f' aria-labelledby="{identifier}-title {identifier}-text">'
        f'<title id="{identifier}-title">{escape(title)}</title><desc id="{identifier}-text">{escape(words)}</desc>'
        f"<style>{rules}</style>{''.join(parts)}</svg>\n"
    )


def text(style: str, x: float, y: float, words: str, anchor: str = "") -> str:
    """Words that begin at (x, y), or with `anchor` middle or end have their middle or end there."""
    return f"<text{_attributes({'class': style, 'x': x, 'y': y, 'text-anchor': anchor})}>{escape(words)}</text>"


def upright_text(x: float, y: float, words: str) -> str:
    """Words that run upwards from (x, y)."""
    return f'<text transform="translate({pixels(x)} {pixels(y)}) rotate(-90)">{escape(words)}</text>'


def path(style: str, steps: str, tip: str = "") -> str:
    """`steps` in the language of SVG: M10 20H30v5."""
    return _mark("path", {"class": style, "d": steps}, tip)


def across(style: str, left: float, right: float, y: float) -> str:
    """A horizontal line."""
    return path(style, f"M{pixels(left)} {pixels(y)}H{pixels(right)}")


def down(style: str, x: float, top: float, bottom: float) -> str:
    """A vertical line."""
    return path(style, f"M{pixels(x)} {pixels(top)}V{pixels(bottom)}")


def circle(style: str, x: float, y: float, radius: float, tip: str = "") -> str:
    return _mark("circle", {"class": style, "cx": x, "cy": y, "r": radius}, tip)


def rectangle(
    style: str, x: float, y: float, width: float, height: float, tip: str = "", radius: float | None = None
) -> str:
    """`radius`: of its corners."""
    size: dict[str, str | float] = {"class": style, "x": x, "y": y, "width": width, "height": height}
    return _mark("rect", size | ({} if radius is None else {"rx": radius}), tip)


def polyline(style: str, points: Iterable[Point]) -> str:
    return _mark("polyline", {"class": style, "points": _points(points)})


def polygon(style: str, points: Iterable[Point]) -> str:
    return _mark("polygon", {"class": style, "points": _points(points)})


def _mark(name: str, attributes: dict[str, str | float], tip: str = "") -> str:
    end = f"><title>{escape(tip)}</title></{name}>" if tip else "/>"
    return f"<{name}{_attributes(attributes)}{end}"


def _attributes(values: dict[str, str | float]) -> str:
    """Those that are not empty; texts of our own, which need no escape."""
    return "".join(
        f' {key}="{value if isinstance(value, str) else pixels(value)}"' for key, value in values.items() if value != ""
    )


def _points(points: Iterable[Point]) -> str:
    return " ".join(f"{pixels(x)},{pixels(y)}" for x, y in points)
