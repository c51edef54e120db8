"""Whether a saved state is one that this training could have come to: a file from elsewhere may hold anything."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cnnlab.runs.schema import EPOCH, NUMBER, Each, Maybe, validate
from cnnlab.runs.state import differs
from cnnlab.torch_patches import bare_step, copy_optimizer
from cnnlab.values import overgrown

States = dict[int, dict[str, Any]]  # by number of the parameter: what the optimizer remembers of it


def wrong_history(history: Any, best: Any, validates: bool, best_metric: str) -> str:
    """Why these are no rows of metrics.jsonl, or not the metrics of one of them; "" where they are."""
    if overgrown([history, best]):
        return "its history is too large"
    if wrong := validate(history, [EPOCH]) or validate(history, [Each(Maybe(NUMBER))]):
        return f"history: {wrong}"
    if [row["epoch"] for row in history] != list(range(1, len(history) + 1)):
        return "its history has other epochs than one after the other"
    if any((row["val_loss"] is None or row["val_accuracy"] is None) == validates for row in history):
        return "its history has another validation split"
    if validates and not all(best_metric in row for row in history):
        return f"its history has no {best_metric}, and this task goes by it"
    if not history:
        return "" if best == {} else "it has a best epoch before the first"
    if best == {} and validates and not any(math.isfinite(row["val_loss"]) for row in history):
        return ""  # no epoch was kept
    if not isinstance(best, dict) or best.get("epoch") not in range(1, len(history) + 1):
        return "its best epoch is none of its history"
    row = history[int(best["epoch"]) - 1]
    metrics = {key: value for key, value in row.items() if key in ("epoch", "step") or key.startswith("val_")}
    # As texts, in which a loss that is no number is equal to itself.
    same = validate(best, Each(Maybe(NUMBER))) == "" and repr(sorted(best.items())) == repr(sorted(metrics.items()))
    return "" if same else "its best metrics are not those of its history"


def wrong_counters(counters: dict[str, int], epochs_done: int, steps_per_epoch: int, accumulate: int) -> str:
    """Why whole numbers of the right names count no training of this shape; "" where they do."""
    epoch, step, batch, stale = (counters[name] for name in ("epoch", "step", "batch", "stale"))
    if epoch != epochs_done:
        return f"it counts {epoch} epochs and has the metrics of {epochs_done}"
    if not 0 <= batch <= steps_per_epoch * accumulate or batch % accumulate:
        return f"batch {batch} is none of an epoch of {steps_per_epoch * accumulate}"
    if step != epoch * steps_per_epoch + batch // accumulate:
        return f"step {step} is not where epoch {epoch} and batch {batch} are"
    return "" if 0 <= stale <= epoch else f"{stale} epochs without a better one, of {epoch}"


def first_states(optimizer: torch.optim.Optimizer) -> States:
    """What the optimizer remembers after a step over gradients of zero: the form of what it can have saved."""
    twin = copy_optimizer(optimizer)
    for group in twin.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    bare_step(twin)()
    return twin.state_dict()["state"]  # type: ignore[no-any-return]


def wrong_optimizer(saved: Any, first: States, optimizer: torch.optim.Optimizer, steps: int) -> str:
    """Why this is no state of the optimizer after so many steps; "" where it is. `first`: from `first_states`."""
    if not isinstance(saved, dict) or not isinstance(states := saved.get("state"), dict):
        return "optimizer should hold a state"
    groups, ours = saved.get("param_groups"), optimizer.state_dict()["param_groups"]
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return "optimizer should hold groups of parameters"
    like = [{"params": group["params"]} for group in ours]
    if wrong := differs([{"params": group.get("params")} for group in groups], like, "optimizer.param_groups"):
        return wrong
    for number, state in states.items():
        if number not in first:
            return f"optimizer has a state of a parameter {str(number)[:20]!r}, which there is not"
        if wrong := differs(state, first[number], f"optimizer.{number}"):
            return wrong
        for key, value in state.items():
            if (isinstance(value, Tensor) and value.numel() == 1) or isinstance(value, int | float):
                scalar = float(value)
                if not abs(scalar) < 1e300 or (key == "step" and not 0 <= scalar <= steps):
                    return f"optimizer.{number}.{key} is {scalar:g} after {steps} steps"
    return ""


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], first: States) -> None:
    """Let the optimizer remember what it saved. Its settings are the configuration's, whatever the file says.

    The tensors are copied into those of `first`: a file can hold some whose numbers share their places.
    """
    states = {number: first[number] for number in saved["state"]}
    for number, state in states.items():
        for key, value in saved["state"][number].items():
            if isinstance(value, Tensor):
                state[key].copy_(value)
            else:
                state[key] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
