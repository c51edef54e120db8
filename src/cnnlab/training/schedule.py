"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from cnnlab.config import ScheduleConfig


def rate_factor(schedule: ScheduleConfig, step: int, total: int, steps_per_epoch: int = 1) -> float:
    """Learning rate at `step` (0 … total−1) as a share of the highest one.

    constant    1
    multistep   γ^(number of milestones passed)
    cosine      half a cosine from 1 to `final` (Loshchilov and Hutter 2017, without restarts)
    linear      a straight line from 1 to `final`
    onecycle    as cosine, but the warm-up is a cosine too (Smith and Topin 2017)

    All begin with a warm-up over the first `warmup` share of the steps. A milestone below 1 is a share of all steps;
    any other is the number of epochs, of `steps_per_epoch` steps each, after which the rate falls.
    """
    rise = round(schedule.warmup * total)
    if step < rise:
        progress = (step + 1) / rise
        return (1 - math.cos(math.pi * progress)) / 2 if schedule.name == "onecycle" else progress
    progress = (step - rise) / max(1, total - rise)  # 0 … below 1
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "multistep":
        passed = (step >= one * (total if one < 1 else steps_per_epoch) for one in schedule.milestones)
        return schedule.gamma ** sum(passed)
    fall = 1 - progress if schedule.name == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return schedule.final + (1 - schedule.final) * fall
