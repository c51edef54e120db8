"""What a learning-rate range test found: the losses of its rates, and the rates that they suggest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnlab.study.definition import Definition
from cnnlab.study.plan import merge_overrides

SMOOTHING = 0.15  # decades: standard deviation of the bell that the losses are averaged with
LAST = 5  # steps whose mean is compared with it
FALL = 0.05  # of the first loss that the lowest must lie below it, to say anything


@dataclass(frozen=True)
class RateRange:
    """A range test: the rate and the loss of each step, and the rates that they suggest.

    `steepest`: where the smoothed loss falls fastest; `minimum`: where it is lowest; None where it does not fall.
    `diverged`: the test was ended by the loss, before the last step.
    """

    definition: Definition
    dir: Path
    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float | None
    minimum: float | None
    diverged: bool
    optimizer: str

    @property
    def suggested(self) -> float | None:
        """A tenth of the rate at the lowest loss: there the next steps already make it worse."""
        return None if self.minimum is None else self.minimum / 10

    def sentences(self) -> list[str]:
        """What the test says, for a person."""
        low, high = self.rates[0], self.rates[-1]
        if self.steepest is None or self.minimum is None:
            return [
                f"The loss does not fall anywhere from {low:.3g} to {high:.3g}; choose study.low and study.high around"
                " the rates of this optimizer, or give more study.steps."
            ]
        found = [
            f"The loss falls fastest at {self.steepest:.2g} and is lowest at {self.minimum:.2g}.",
            f"Suggested, a tenth of the latter: optimizer.lr={self.suggested:.2g}, as the highest rate of a schedule."
            " Try it beside its third and its threefold: the test sees a few steps, not a training.",
        ]
        if not self.diverged and self.minimum >= self.rates[-3]:
            found.append(f"The loss still falls at the highest rate; raise study.high (now {high:g}).")
        return found

    @property
    def command(self) -> list[str]:
        """A training at the suggested rate."""
        if self.suggested is None:
            return []
        overrides = merge_overrides(self.definition.overrides, [f"optimizer.lr={self.suggested:.2g}"])
        return ["cnnlab", "train", *overrides, *self.definition.own_options]


def smooth(rates: Sequence[float], losses: Sequence[float]) -> list[float]:
    """Mean of the losses around each rate, by a bell in decades of the rate; what shot up weighs as if it were twice
    the first losses."""
    values = np.array(losses, np.float64)
    values = np.nan_to_num(values, nan=np.inf).clip(max=2 * float(np.median(values[:LAST])))
    decades = np.log10(rates)
    weights = np.exp(-0.5 * ((decades[:, None] - decades[None]) / SMOOTHING) ** 2)
    return list((weights @ values / weights.sum(1)).tolist())


def judge(rates: Sequence[float], smoothed: Sequence[float]) -> tuple[float | None, float | None]:
    """The rates of the steepest descent and of the lowest loss; None where it does not fall."""
    values = np.array(smoothed)
    lowest = int(values.argmin())
    if lowest < 2 or values[0] - values[lowest] < FALL * abs(values[0]):
        return None, None
    slope = np.gradient(values[: lowest + 1], np.log10(rates[: lowest + 1]))
    return float(rates[int(slope.argmin())]), float(rates[lowest])
