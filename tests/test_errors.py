"""What a user can do wrong: one family of errors, exit codes, and the nearest name."""

from __future__ import annotations

import inspect

import pytest

from cnnlab import errors
from cnnlab.errors import CnnlabError, Interrupted, nearest, one_line

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_a_child_of_one_and_ends_with_its_exit_code(kind: type[CnnlabError]) -> None:
    assert issubclass(kind, CnnlabError)
    assert kind("why").exit_code == (130 if kind is Interrupted else 2)
    assert str(kind("why")) == "why"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("resnt", "resnet"), ("RESNET", "resnet"), ("mpl", "mlp"), ("convent", "convnet"), ("zzz", None)],
)
def test_the_nearest_name_is_offered(typed: str, meant: str | None) -> None:
    answer = nearest(typed, ["convnet", "mlp", "resnet"])
    assert answer == (f" Did you mean {meant!r}?" if meant else " Known: convnet, mlp, resnet.")


def test_all_names_are_offered_sorted_where_none_is_near() -> None:
    assert nearest("zzz", {"b", "a", "c"}) == " Known: a, b, c."


def test_nothing_is_offered_where_there_is_nothing() -> None:
    assert nearest("zzz", []) == ""
    assert nearest("", ["a"]) == " Known: a."


def test_spaces_of_any_width_are_printed_and_what_moves_the_cursor_is_not() -> None:
    assert one_line("90.1\u202f%\u00a0of 4") == "90.1\u202f%\u00a0of 4"
    assert one_line("a\nb\u2028c\x1b[2J") == "a\\nb\\u2028c\\x1b[2J"
