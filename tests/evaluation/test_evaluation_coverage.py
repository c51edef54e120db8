"""Nineteen of twenty intervals hold the true value: the simulation of benchmarks/coverage.py, with fewer replicates."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "coverage_of_intervals", Path(__file__).parents[2] / "benchmarks" / "coverage.py"
)
assert _spec is not None and _spec.loader is not None
coverage = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(coverage)

REPLICATES = 400
ERROR = 0.03  # almost three standard errors of a share of 0.95 among so many


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_of_twenty_differences_nineteen_intervals_hold_the_true_one(own: bool, seeds: int, spread: float) -> None:
    """Between 93 and 97 of 100; too many is a fault, too: intervals that are too wide find no difference."""
    share = coverage.difference_coverage(
        REPLICATES, images=300, seeds=seeds, own=own, accuracy=0.85, gap=0.03, spread=spread
    )
    assert 0.93 - ERROR <= share <= min(0.97 + ERROR, 0.99)


@pytest.mark.parametrize(("sharpness", "count"), [(6, 360), (40, 360), (40, 2000)])
def test_of_twenty_intervals_in_test_json_nineteen_hold_the_true_value(sharpness: float, count: int) -> None:
    found = coverage.figure_coverage(200, count, sharpness=sharpness)
    for name in ("accuracy", "mean_class_accuracy", "macro_f1", "loss"):
        assert 0.88 <= found[name] <= 0.995, name
    assert found["ece"] >= 0.95 - ERROR  # its interval may be too wide where the error is near 0, not too narrow


@pytest.mark.parametrize("images", [10, 100])
def test_of_twenty_intervals_of_mean_iou_nineteen_hold_the_true_value(images: int) -> None:
    assert 0.9 <= coverage.pixel_coverage(REPLICATES, images, 0.95) <= 0.995
