"""docs/labs.md: its Python says what it shows, its links lead somewhere, and it names every check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnnlab.labs import checking

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "labs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_example_prints_what_the_page_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_passed", set())
    place = [language for language, _ in BLOCKS].index("python")
    exec(BLOCKS[place][1], {})
    assert capsys.readouterr().out == BLOCKS[place + 1][1]


def test_what_the_page_names_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    for name in re.findall(r"(?:labs|src|tests)/[\w/.-]+\.\w+", "\n".join(text for _, text in BLOCKS)):
        assert (ROOT / name).exists(), name


def test_every_check_has_its_time_and_its_place() -> None:
    goals, places = (PAGE.split(f"## {head}")[1].split("\n## ")[0] for head in ("Goals and times", "Where a student"))
    lab_0 = {number for number in checking.CHECKS if number.startswith("0.")}
    for number in lab_0:
        assert re.search(rf"\b{re.escape(number)}\b", goals), number
    missing = {number for number in lab_0 if not re.search(rf"\b{re.escape(number)}\b", places)}
    assert missing == {"0.1", "0.3", "0.16"}  # no course asks for them


@pytest.mark.parametrize("number", ["1", "2", "3", "4"])
def test_the_section_of_a_lab_has_the_time_and_the_place_of_every_check(number: str) -> None:
    goals, places = PAGE.split(f"\n## Lab {number}\n")[1].split("\n## ")[0].split("a student is asked to")
    for exercise in [exercise for exercise in checking.CHECKS if exercise.startswith(f"{number}.")]:
        for table in (goals, places):
            assert re.search(rf"\b{re.escape(exercise)}\b", table), exercise
