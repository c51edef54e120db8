"""Tasks by name, and the task of a run."""

from __future__ import annotations

from collections.abc import Callable

from cnnlab.config import Config
from cnnlab.data.data import Data
from cnnlab.imports import Registry
from cnnlab.tasks.base import Task
from cnnlab.tasks.classification import Classification
from cnnlab.tasks.losses import LOSSES, LossFunction, named_loss
from cnnlab.tasks.metrics import METRICS
from cnnlab.tasks.multilabel import MultiLabel
from cnnlab.tasks.segmentation import Segmentation

Builder = Callable[[Config, Data, LossFunction | None], Task]  # the loss: what Python gave, None for trainer.loss
TASKS: Registry[Builder] = Registry("task")
TASKS.known |= {task.name: task.of for task in (Classification, MultiLabel, Segmentation)}


def register_task(name: str) -> Callable[[Builder], Builder]:
    """Decorator: make a class or function of (config, data, own_loss) that gives a `Task` known as `task=name`."""
    return TASKS.register(name)


def task_of(config: Config, data: Data, own_loss: LossFunction | None = None) -> Task:
    """The task of the config, or where it names none that of the data's targets.

    Raises:
        ConfigError: an unknown task, or one that does not fit the data, the loss or the weights of classes.
    """
    return TASKS.find(config.task or task_for(data))(config, data, own_loss)


def task_for(data: Data) -> str:
    """Name of the task that the targets of a set are for."""
    if data.pixel_targets:
        return Segmentation.name
    return MultiLabel.name if data.multi_label else Classification.name


def load_code(config: Config) -> None:
    """Import what the config names as "package.module:name" of task, loss and metrics. Their code runs.

    Raises:
        ConfigError: it cannot be imported, or a name is not known.
    """
    TASKS.load(config.task)
    LOSSES.load(config.trainer.loss)
    named_loss(config.trainer.loss)
    for name in config.test.metrics:
        METRICS.load(name)
        METRICS.find(name)
