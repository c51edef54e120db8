"""Confusion matrix: which cells are shown, how they are shaded, which pairs come first."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from cnnlab.report.confusion import CELL, MAX_TOOLTIPS, heat_map, majority_share, table_rows

CLASSES = ["cat", "dog", "frog"]
MATRIX = [[6, 3, 0], [1, 9, 0], [3, 0, 0]]  # 9 cats, 10 dogs, 3 frogs


def test_table_keeps_counts_and_shades_by_the_root_of_the_share_of_the_row() -> None:
    name, cells = table_rows(MATRIX, CLASSES)[1]
    assert name == "dog"
    assert [cell.count for cell in cells] == [1, 9, 0]
    assert [cell.shade for cell in cells] == pytest.approx([0.1**0.5, 0.9**0.5, 0], abs=1e-3)
    assert [cell.right for cell in cells] == [False, True, False]
    assert cells[0].text == "dog → cat: 1"


def test_class_without_images_has_no_shade() -> None:
    rows = table_rows([[2, 0], [0, 0]], ["a", "b"])
    assert [cell.shade for cell in rows[1][1]] == [0, 0]


def test_majority_share_is_the_largest_row() -> None:
    assert majority_share(MATRIX, CLASSES) == 10 / 22
    assert majority_share([[0, 0], [0, 0]], ["a", "b"]) is None


def test_heat_map_has_a_square_and_a_tooltip_for_each_non_zero_cell_and_no_other() -> None:
    svg = heat_map(MATRIX, CLASSES)
    squares = re.findall(r'<path d="M(\d+) (\d+)h[^"]*"><title>([^<]*)</title>', svg)
    assert {(int(y) // CELL, int(x) // CELL): text for x, y, text in squares} == {
        (0, 0): "cat: 6 right",
        (0, 1): "cat → dog: 3",
        (1, 0): "dog → cat: 1",
        (1, 1): "dog: 9 right",
        (2, 0): "frog → cat: 3",
    }
    assert "15 of 22" in svg


def test_full_heat_map_of_many_classes_draws_all_cells_and_caps_the_tooltips() -> None:
    matrix = np.ones((101, 101), dtype=int)
    svg = heat_map(matrix.tolist(), [f"class {index}" for index in range(101)])
    assert svg.count("<title>") == MAX_TOOLTIPS
    assert len(re.findall(r"M\d+ \d+h", svg)) == 101 * 101
    assert len(svg) < 1_000_000


def test_heat_map_is_well_formed_with_hostile_names() -> None:
    svg = heat_map([[1, 1], [0, 1]], ['<b onclick="x">&', "猫"])
    texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]
    assert '<b onclick="x">&' in texts
    assert "<b " not in svg


def test_matrix_of_another_size_than_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 classes must be square, got shape \(2, 2\)"):
        table_rows([[1, 0], [0, 1]], CLASSES)
