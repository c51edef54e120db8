"""The learning rate at points where it is known."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlab.config import ScheduleConfig
from cnnlab.training.schedule import rate_factor


def rates(total: int = 100, **arguments: object) -> list[float]:
    schedule = ScheduleConfig(**arguments)  # type: ignore[arg-type]
    return [rate_factor(schedule, step, total) for step in range(total)]


def test_constant_stays() -> None:
    assert rates(name="constant") == [1.0] * 100


def test_multistep_falls_by_gamma_at_each_milestone() -> None:
    values = rates(name="multistep", milestones=[0.5, 0.75], gamma=0.1)
    assert values[:50] == [1.0] * 50
    assert values[50:75] == pytest.approx([0.1] * 25)
    assert values[75:] == pytest.approx([0.01] * 25)


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(10, 7), (10, 1), (9, 13)])
def test_multistep_falls_after_the_epochs_that_are_named(epochs: int, steps_per_epoch: int) -> None:
    schedule = ScheduleConfig(name="multistep", milestones=[5, 8], gamma=0.1)
    total = epochs * steps_per_epoch
    values = [rate_factor(schedule, step, total, steps_per_epoch) for step in range(total)]
    of_epoch = [values[epoch * steps_per_epoch : (epoch + 1) * steps_per_epoch] for epoch in range(epochs)]
    for epoch, found in enumerate(of_epoch):
        expected = 1 if epoch < 5 else 0.1 if epoch < 8 else 0.01
        assert found == pytest.approx([expected] * steps_per_epoch), epoch


def test_cosine_is_half_a_cosine() -> None:
    values = rates(name="cosine")
    assert values[0] == 1
    assert values[25] == pytest.approx(0.5 + 0.5**0.5 / 2)
    assert values[50] == pytest.approx(0.5)
    assert values[75] == pytest.approx(0.5 - 0.5**0.5 / 2)
    assert values[99] == pytest.approx(0.00024672, rel=1e-4)


def test_linear_is_a_straight_line() -> None:
    assert rates(name="linear") == pytest.approx([1 - step / 100 for step in range(100)])


def test_a_warm_up_rises_in_a_line_and_hands_over_at_the_top() -> None:
    for name in ("constant", "linear", "cosine"):
        values = rates(name=name, warmup=0.2)
        assert values[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
        assert values[20] == 1


def test_one_cycle_rises_and_falls_along_a_cosine() -> None:
    values = rates(name="onecycle", warmup=0.25)
    assert values[0] == pytest.approx(0.0039426, rel=1e-4)
    assert values[12] == pytest.approx(0.5 + 0.0314, abs=1e-3)
    assert values[24] == values[25] == 1
    assert values[62] == pytest.approx(0.5, abs=0.02)
    assert max(values) == 1


@pytest.mark.parametrize("name", ["cosine", "linear", "onecycle"])
def test_the_end_is_the_final_share(name: str) -> None:
    values = rates(10000, name=name, final=0.1)
    assert values[-1] == pytest.approx(0.1, abs=1e-3)
    assert min(values[5000:]) >= 0.1


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["constant", "multistep", "cosine", "linear", "onecycle"]),
    st.floats(0, 0.99),
    st.floats(0, 1),
    st.integers(1, 50),
)
def test_every_rate_lies_between_zero_and_the_highest(name: str, warmup: float, final: float, total: int) -> None:
    values = rates(total, name=name, warmup=warmup, final=final)
    assert all(0 <= value <= 1 + 1e-12 for value in values)
    assert values[0] > 0  # no step is wasted
