"""The learning-rate range test: its rates, its steps, what it suggests, and that it leaves no run behind."""

from __future__ import annotations

import csv
import itertools
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import cnnlab
from cnnlab.config import compose
from cnnlab.errors import ConfigError
from cnnlab.study.definition import Rates, define
from cnnlab.study.rate_range import geometric, has_diverged, measure
from cnnlab.study.rate_result import RateRange, judge, smooth
from cnnlab.training.optim import optimizer_names

if TYPE_CHECKING:
    from conftest import CommandLine

TINY = ["model=mlp", "model.hidden=[32]", "data.limit=240", "trainer.batch_size=20", "trainer.precision=fp32"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> RateRange:
    folder = tmp_path_factory.mktemp("range")
    words = [*TINY, "optimizer=sgd", "study.low=0.001", "study.high=1000", "study.steps=120"]
    return cnnlab.find_learning_rate(*words, f"study.dir={folder}")


def test_the_rates_are_geometric() -> None:
    rates = geometric(1e-5, 10, 100)
    assert (rates[0], rates[-1]) == (pytest.approx(1e-5), pytest.approx(10))
    factors = [two / one for one, two in itertools.pairwise(rates)]
    assert factors == pytest.approx([10 ** (6 / 99)] * 99)


def test_each_step_has_the_rate_that_is_written_down(found: RateRange) -> None:
    with open(found.dir / "rates.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["rate"]) for line in lines] == pytest.approx(geometric(0.001, 1000, 120)[: len(lines)], rel=1e-5)
    assert [float(line["loss"]) for line in lines] == pytest.approx(found.losses, rel=1e-5)
    assert [int(line["step"]) for line in lines] == list(range(1, len(lines) + 1))


def test_the_suggested_rate_lies_where_the_loss_falls_and_before_it_diverges(found: RateRange) -> None:
    assert found.diverged and len(found.rates) < 120
    assert found.minimum is not None and found.steepest is not None and found.suggested is not None
    assert found.suggested == found.minimum / 10
    assert found.rates[0] < found.suggested < found.minimum < found.rates[-1]
    assert found.rates[0] < found.steepest < found.minimum
    at = dict(zip(found.rates, found.smoothed, strict=True))
    assert at[found.minimum] < 0.8 * found.smoothed[0] and found.smoothed[-1] > at[found.minimum]


def test_nothing_is_left_but_a_table_an_image_and_a_page(found: RateRange) -> None:
    assert sorted(path.name for path in found.dir.iterdir()) == ["rate_range.png", "rates.csv", "report.html"]
    assert (found.dir / "rate_range.png").read_bytes().startswith(b"\x89PNG")
    page = (found.dir / "report.html").read_text(encoding="utf-8")
    assert f"minimum / 10: {found.suggested:.2g}" in page and f"steepest descent: {found.steepest:.2g}" in page
    assert page.count('class="chosen"') == 1 and f"optimizer.lr={found.suggested:.2g}" in page


def test_a_step_is_a_step_of_training(tmp_path: Path) -> None:
    """At a rate that hardly grows, the losses are those of a training at that rate."""
    words = [*TINY, "optimizer=adamw", "schedule=constant", "optimizer.lr=0.01", "augment=light"]
    config = compose([*words, "trainer.epochs=1", "data.val_fraction=0.1"])
    data = cnnlab.load_data("digits", limit=240, batch_size=20, augment="light")
    model = cnnlab.create_model("mlp", hidden=[32], num_classes=10, in_channels=1, image_size=[8, 8])
    more = ["optimizer=adamw", "schedule=constant", "optimizer.lr=0.01", "trainer.precision=fp32", "logger=none"]
    run = cnnlab.fit(model, data, epochs=1, dir=tmp_path / "r", overrides=more)
    steps = run.history[0]["step"]
    rates, losses, diverged = measure(config, Rates(0.01, 0.01 * (1 + 1e-9), steps), None)
    assert steps >= 10 and not diverged and rates[0] == pytest.approx(0.01)
    assert np.mean(losses) == pytest.approx(run.history[0]["train_loss"], rel=0.02)


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_can_be_tested(name: str) -> None:
    rates, losses, _ = measure(compose([*TINY, f"optimizer={name}"]), Rates(1e-4, 0.1, 12), None)
    assert len(rates) == len(losses) >= 2 and math.isfinite(losses[0])


def test_a_curve_is_judged_by_its_steepest_place_and_its_lowest() -> None:
    decades = np.linspace(-4, 1, 101)
    curve = np.where(decades < -1, 1 - 0.8 / (1 + np.exp(-8 * (decades + 2))), 0.2 + (decades + 1) ** 2)
    steepest, minimum = judge((10**decades).tolist(), curve.tolist())
    assert steepest == pytest.approx(0.01, rel=0.2) and minimum == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("curve", [[1.0] * 50, np.linspace(1, 3, 50).tolist(), np.linspace(1, 0.97, 50).tolist()])
def test_where_nothing_falls_nothing_is_suggested(curve: list[float]) -> None:
    assert judge(geometric(1e-4, 1, 50), curve) == (None, None)


def test_what_shoots_up_does_not_hide_what_came_before() -> None:
    rates = geometric(1e-4, 1, 50)
    calm = smooth(rates, [2.0] * 40 + [1.0] * 10)
    wild = smooth(rates, [2.0] * 40 + [1.0] * 9 + [math.inf])
    assert wild[:45] == pytest.approx(calm[:45], abs=0.1) and max(wild) <= 4


def test_divergence_is_a_loss_far_above_the_lowest_or_none_at_all() -> None:
    assert has_diverged([1.0, math.nan]) and has_diverged([1.0] * 10 + [6.0] * 5)
    assert not has_diverged([2.3] * 10 + [9.0]) and not has_diverged([1.0] * 10 + [3.0] * 5)
    assert not has_diverged([1.0, 99.0])


def test_the_command_shows_the_rate_and_where_the_image_is(command: CommandLine, tmp_path: Path) -> None:
    result = command("study", "learning_rate_range", *TINY, "study.steps=60", "optimizer=adamw", cwd=tmp_path)
    assert result.code == 0, result.err
    assert re.search(r"optimizer\.lr=[\d.e-]+, as the highest rate of a schedule", result.out)
    folder = tmp_path / "studies" / "learning_rate_range" / "digits-mlp-adamw"
    assert (folder / "rate_range.png").exists() and "digits-mlp-adamw/report.html" in result.out
    assert not list(tmp_path.rglob("config.yaml")) and not list(tmp_path.rglob("state.pt"))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["study.low=1", "study.high=0.1"], "0 < study.low < study.high"),
        (["study.low=0"], "0 < study.low"),
        (["study.low=x"], "study.low must be a number, got 'x'."),
        (["study.steps=3"], "study.steps must be from 10 to 100000, got 3."),
        (["study.jobs=2"], "study.jobs is not for a range test."),
        (["optimizer=sgd,adam"], "a range test trains one network; give optimizer one value."),
        (["optimizer.lr=0.1..1:log"], "a range test trains one network"),
    ],
)
def test_wrong_words_are_named(words: list[str], wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        define(["learning_rate_range", *words])
    assert wanted in str(caught.value)


def test_where_nothing_learns_no_rate_is_looked_for() -> None:
    with pytest.raises(ConfigError, match="learns nothing"):
        cnnlab.find_learning_rate("data=mnist", "recipe=adabn", "init.from=runs/x")


def test_a_range_test_is_no_grid() -> None:
    with pytest.raises(ConfigError, match=r"cnnlab\.find_learning_rate"):
        cnnlab.run_study("learning_rate_range")
    with pytest.raises(ConfigError, match=r"cnnlab\.run_study"):
        cnnlab.find_learning_rate("width")
