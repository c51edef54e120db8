"""The page in a real browser: nothing fails, nothing is asked of the network, nothing scrolls sideways on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_the_report_opens_whole(browser: Any, finished_run: Path, width: int, colours: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=colours)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((finished_run / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    images = page.evaluate("[...document.images].map(one => one.complete && one.naturalWidth > 0)")
    assert len(images) > 20 and all(images)
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(",")[:3]))
    assert (brightness < 200) == (colours == "dark")
    page.close()


def test_the_classes_sort_by_a_click_on_a_heading(browser: Any, finished_run: Path) -> None:
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.goto((finished_run / "report.html").as_uri())
    column = "[...document.querySelectorAll('#classes tbody tr')].map(row => parseFloat(row.cells[3].textContent))"
    heading = page.locator("#classes th", has_text="recall")
    heading.locator("button").click()
    first = page.evaluate(column)
    assert first in (sorted(first), sorted(first, reverse=True))
    heading.locator("button").click()
    assert page.evaluate(column) == first[::-1] or len(set(first)) < len(first)
    assert heading.get_attribute("aria-sort") in ("ascending", "descending")
    page.close()
