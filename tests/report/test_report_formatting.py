"""Numbers and settings as text."""

from __future__ import annotations

import pytest

from cnnlab.report.formatting import (
    DASH,
    SPACE,
    between,
    count,
    duration,
    flatten,
    groups,
    number,
    percent,
    setting,
    shorten,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9123, "91.2"),
        (1.0, "100.0"),
        (0.99999, ">99.9"),  # an error is never rounded away
        (0.00001, "<0.1"),
        (0.0, "0.0"),
    ],
)
def test_percent(value: float, text: str) -> None:
    assert percent(value) == f"{text}{SPACE}%"


@pytest.mark.parametrize("unknown", [None, float("nan"), float("inf"), "n/a"])
def test_unknown_numbers_are_a_dash(unknown: object) -> None:
    assert [write(unknown) for write in (percent, number, count, duration)] == [DASH] * 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.44, "8.4 s"), (59.99, "1 min 00 s"), (192, "3 min 12 s"), (7501, "2 h 05 min"), (3599.6, "1 h 00 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds).replace(SPACE, " ") == text


def test_settings_read_like_yaml() -> None:
    assert [setting(value) for value in (None, True, 0.001, [3, [5]], {"a": None}, "x")] == [
        "null",
        "true",
        "0.001",
        "[3, [5]]",
        "{a: null}",
        "x",
    ]


def test_nested_settings_become_dotted_keys_in_groups() -> None:
    tree = {"seed": 1, "augment": {"crop": {"padding": 4}, "flip": True}, "empty": {}}
    assert flatten(tree)[1] == ("augment.crop.padding", "4")
    assert groups(tree) == [
        ("general", [("seed", "1"), ("empty", "{}")]),
        ("augment", [("crop.padding", "4"), ("flip", "true")]),
    ]


def test_shorten_counts_the_ellipsis() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"


def test_an_interval_names_its_unit_once() -> None:
    assert between([0.902, 0.955], percent) == f"90.2 to 95.5{SPACE}%"
    assert between([0.1, 0.25], number) == "0.1 to 0.25"


@pytest.mark.parametrize("bounds", [None, [None, 1.0], [float("nan"), 1.0], [1.0, 1.0]])
def test_an_interval_that_is_unknown_or_has_no_width_is_not_written(bounds: object) -> None:
    assert between(bounds, percent) == ""
