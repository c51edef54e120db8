"""Metrics of a study: means, differences with their intervals, table and page."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cnnlab.config import compose
from cnnlab.study.definition import Definition, define
from cnnlab.study.page import render
from cnnlab.study.plan import Combination, PlannedRun
from cnnlab.study.results import GridCell, Row, difference, differences
from cnnlab.study.table import about_tests, markdown, metric_text, runs_there, sentence, small_table

IMAGES = tuple(map(str, range(400)))


def cell(label: str, *accuracies: float, places: dict[str, str] | None = None, shift: int = 0) -> GridCell:
    """One run an accuracy: the first so many of 400 images are right, counted from `shift` on."""
    rows = []
    combination = Combination(label, places or {"axis": label}, ())
    for seed, accuracy in enumerate(accuracies):
        right = np.roll((np.arange(400) < round(400 * accuracy)).astype(np.float32), shift)
        history = [
            {
                "epoch": e + 1,
                "val_accuracy": accuracy - 0.1 / (e + 1),
                "train_accuracy": accuracy,
                "train_loss": 1 / (e + 1),
            }
            for e in range(3)
        ]
        run = PlannedRun(
            combination, seed, compose([f"seed={seed}"]), f"{label}{seed}", Path("runs") / f"{label}-{seed}"
        )
        metrics = {"test_accuracy": accuracy, "train_accuracy": accuracy, "seconds": 61.0, "parameters": 272474.0}
        rows.append(Row(run, metrics, history, IMAGES, right))
    return GridCell(combination, rows, [])


def test_mean_and_deviation_over_the_seeds() -> None:
    one = cell("a", 0.80, 0.82, 0.84)
    assert one.mean("test_accuracy") == pytest.approx(0.82)
    assert one.deviation("test_accuracy") == pytest.approx(0.02)
    assert metric_text(one, "test_accuracy") == "82.00 ± 2.00 %"
    assert metric_text(one, "parameters") == "272,474"
    assert metric_text(one, "ece") == "–"
    assert metric_text(cell("a", 0.8), "test_accuracy") == "80.00 %"


def test_the_better_one_comes_first_and_points_are_those_of_the_means() -> None:
    found = difference(cell("worse", 0.70, 0.72), cell("better", 0.90, 0.92))
    assert (found.first, found.second) == ("better", "worse")
    assert found.points == pytest.approx(0.20)
    assert found.interval[0] < 0.20 < found.interval[1] and found.significant
    assert found == difference(cell("worse", 0.70, 0.72), cell("better", 0.90, 0.92))  # the same each time


def test_the_same_answers_are_no_certainty_of_none() -> None:
    """400 images without a disagreement do not exclude one in a hundred; other images in disagreement, far more."""
    found = difference(cell("a", 0.8), cell("b", 0.8))
    assert found.points == 0 and not found.significant
    assert 0.004 < found.interval[1] < 0.01 and found.interval[0] == -found.interval[1]
    other = difference(cell("a", 0.8), cell("b", 0.8, shift=200))  # as right, but on other images
    assert other.points == 0 and other.interval[0] < -0.03 and other.interval[1] > 0.03


def test_the_interval_of_one_seed_is_that_of_paired_proportions() -> None:
    """400 images, 40 of them right in one alone: the difference varies by √(0.1 − 0.1²)/√400."""
    found = difference(cell("a", 0.9), cell("b", 0.8))
    half = 1.96 * (0.1 - 0.01) ** 0.5 / 20
    assert found.interval == pytest.approx((0.1 - half, 0.1 + half), abs=0.006)


def test_seeds_that_differ_widen_the_interval_by_their_standard_error() -> None:
    one, two = cell("a", 0.9, 0.8, 0.85), cell("b", 0.85, 0.75, 0.8)
    found = difference(one, two)
    seeds = (0.05**2 / 3) ** 0.5  # standard error of the mean of three
    images = (0.05 * 0.95 / 400) ** 0.5
    expected = (2.776**2 * 2 * seeds**2 + 1.96**2 * images**2) ** 0.5  # Student's quantile for 2 + 2 degrees
    assert (found.interval[1] - found.interval[0]) / 2 == pytest.approx(expected, rel=0.05)
    assert not found.significant


def on(one: GridCell, *images: list[int], tested_on: str = "set") -> GridCell:
    """The cell with the images of each of its runs instead, as many as are given; their answers stay."""
    rows = [
        dataclasses.replace(row, images=tuple(map(str, numbers)), right=row.right[: len(numbers)], tested_on=tested_on)
        for row, numbers in zip(one.rows, images, strict=True)
    ]
    return dataclasses.replace(one, rows=rows)


def test_seeds_with_test_images_of_their_own_and_of_other_numbers_are_compared() -> None:
    images = [list(range(300)), list(range(200, 520)), list(range(900, 1000))]
    one, two = (on(cell(name, 0.2, 0.2, right), *images) for name, right in (("a", 0.2), ("b", 0.1)))
    found = difference(one, two)
    assert found.seeds == 3 and found.paired
    assert found.points == pytest.approx((80 / 100 - 40 / 100) / 3)
    assert "each seed has its own" in about_tests([one, two])[0] and about_tests([cell("a", 0.8, 0.8)]) == []


def test_seeds_that_one_side_lacks_are_left_out_where_each_has_its_own_images() -> None:
    images = [list(range(100)), list(range(100, 200)), list(range(200, 300))]
    one = on(cell("a", 0.2, 0.2, 0.2), *images)
    two = on(cell("b", 0.1, 0.1, 0.1), *images)
    found = difference(one, dataclasses.replace(two, rows=two.rows[:1]))
    assert found.seeds == 1 and found.points == pytest.approx(0.4) and found.paired
    assert "one seed: the interval covers only the sampling of the test images" in sentence(found)


def test_images_of_another_set_are_others_whatever_their_names() -> None:
    images = [list(range(100)), list(range(100))]
    one, two = (on(cell(name, 0.2, 0.2), *images, tested_on=name) for name in ("mnist", "mnist_m"))
    found = difference(one, two)
    assert not found.paired and found.points == 0 and found.interval[1] > 0.05
    assert "n = 2, not on the same test images" in sentence(found)


def test_the_order_of_the_images_does_not_matter() -> None:
    one, two = cell("a", 0.9, 0.8), cell("b", 0.7, 0.8)
    turned = [dataclasses.replace(row, images=row.images[::-1], right=row.right[::-1]) for row in two.rows]
    assert difference(one, dataclasses.replace(two, rows=turned)) == difference(one, two)


def test_of_one_image_nothing_is_known() -> None:
    one, two = on(cell("a", 0.9), [0]), on(cell("b", 0.0), [0])
    assert difference(one, two).interval == (-1, 1)


def test_what_was_tested_on_no_image_is_not_compared() -> None:
    definition = define(["optimizer.lr=1,2,3"])
    cells = [cell(rate, 0.8, 0.7, places={"optimizer.lr": rate}) for rate in ("1", "2", "3")]
    cells[1] = on(cells[1], [], [])
    assert [(one.first, one.second) for one in differences(definition, cells)] == [("1", "3")]
    assert about_tests(cells) == ["Not compared, because there are no test images: 2."]
    assert "nan" not in markdown(definition, cells, differences(definition, cells), [])


def test_sentences_say_what_is_known() -> None:
    told = sentence(difference(cell("ResNet-56", 0.9, 0.91), cell("plain-56", 0.8, 0.81)))
    assert re.fullmatch(
        r"ResNet-56 is 10\.0 points better than plain-56 \(95 % interval \d+\.\d to \d+\.\d, n = 2\)\.", told
    )
    assert "No significant difference between a and b: 0.0 points" in sentence(
        difference(cell("a", 0.8), cell("b", 0.8))
    )
    assert "one seed: the interval covers only the sampling of the test images" in sentence(
        difference(cell("a", 0.8), cell("b", 0.7))
    )


def grid() -> tuple[Definition, list[GridCell]]:
    definition = define(["residual_depth"])
    cells = [
        cell(f"{kind}-{depth}", accuracy, accuracy + 0.01, places={"model.residual": kind, "model.depth": depth})
        for kind, depth, accuracy in (
            ("ResNet", "20", 0.9),
            ("ResNet", "56", 0.92),
            ("plain", "20", 0.89),
            ("plain", "56", 0.8),
        )
    ]
    return definition, cells


def test_pairs_differ_in_one_axis_or_in_the_one_that_is_compared() -> None:
    definition, cells = grid()
    pairs = {frozenset((one.first, one.second)) for one in differences(definition, cells)}
    assert frozenset(("ResNet-20", "plain-56")) not in pairs and len(pairs) == 4
    compared = differences(
        define(["residual_depth"]).__class__(**{**definition.__dict__, "compare": "model.residual"}), cells
    )
    assert [(one.first, one.second) for one in compared] == [("ResNet-20", "plain-20"), ("ResNet-56", "plain-56")]


def test_of_many_each_is_compared_with_the_best_alone() -> None:
    rates = ["0.003", "0.01", "0.03", "0.1", "0.3", "1", "3"]
    cells = [
        cell(rate, 0.5 + 0.1 * min(place, 4), places={"optimizer.lr": rate}, shift=place)
        for place, rate in enumerate(rates[:5])
    ]
    assert len(differences(define(["learning_rate"]), cells)) == 10
    cells += [cell(rate, 0.3, places={"optimizer.lr": rate}) for rate in rates[5:]]
    found = differences(define(["learning_rate"]), cells)
    assert len(found) == 6 and {one.first for one in found} == {"0.3"}


def test_the_small_table_is_depth_by_residual() -> None:
    rows = small_table(*grid())
    assert rows[0] == ["depth (test accuracy)", "ResNet", "plain"]
    assert [row[0] for row in rows[1:]] == ["20", "56"]
    assert rows[2][1:] == ["92.50 ± 0.71 %", "80.50 ± 0.71 %"]


def test_the_markdown_table_has_a_row_a_combination() -> None:
    definition, cells = grid()
    text = markdown(definition, cells, differences(definition, cells), ["note"])
    rows = [line for line in text.splitlines() if line.startswith(("| ResNet-", "| plain-"))]
    assert len(rows) == 4 and len({row.count("|") for row in rows}) == 1
    assert "| ResNet-56 | 92.50 ± 0.71 % |" in text and text.rstrip().endswith("note")


def test_missing_runs_are_counted_by_their_reason() -> None:
    one = cell("a", 0.9)
    one.missing.extend(["not run yet", "the loss is not finite at step 3", "no disk"])
    assert runs_there(one) == "1 (1 diverged, 1 failed, 1 missing)"


class Checker(HTMLParser):
    """Every element is closed, and nothing is fetched."""

    VOID = ("meta", "link", "br", "path", "circle", "polyline", "polygon", "rect", "i")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("#", "data:"))]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_asks_nothing_of_the_network() -> None:
    definition, cells = grid()
    page = render(definition, cells, differences(definition, cells), [("machine", "<b>")], "cnnlab study 'a&b'")
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and checker.fetched == []
    text = " ".join(checker.text)
    assert "ResNet-56 is" in text and "92.50 ± 0.71 %" in text and "<b>" in text and "a&b" in text
    assert page.count('class="seed') >= 8 and page.count("<polyline") >= 4 * 3
    assert "nan" not in page.lower().replace("nantes", "")


def test_a_label_cannot_break_the_page() -> None:
    bad = "<script>alert(1)</script>"
    cells = [cell(bad, 0.8, 0.9, places={"augment": bad}), cell("b", 0.7, 0.7, places={"augment": "b"})]
    page = render(define(["augment=none,light"]), cells, [difference(*cells)], [], bad)
    assert "<script" not in page
