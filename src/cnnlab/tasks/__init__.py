"""What is learned: targets, loss, metrics. One module per task; every other room asks the task, not which one it is."""

from __future__ import annotations

from cnnlab.tasks.base import Accumulator, Loss, Metric, Processes, Task, mean_loss
from cnnlab.tasks.decision import DecisionRule
from cnnlab.tasks.losses import register_loss
from cnnlab.tasks.metrics import register_metric
from cnnlab.tasks.registry import load_code, register_task, task_of

__all__ = [
    "Accumulator",
    "DecisionRule",
    "Loss",
    "Metric",
    "Processes",
    "Task",
    "load_code",
    "mean_loss",
    "register_loss",
    "register_metric",
    "register_task",
    "task_of",
]
