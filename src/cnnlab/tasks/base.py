"""What every room asks of a task: its loss, its metrics, the rows of predictions.csv."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cnnlab.device import constant
from cnnlab.errors import ConfigError


class Processes(Protocol):
    """The processes that train together."""

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all of them."""

    def concatenate(self, rows: Tensor) -> Tensor:
        """(n, …) rows of each, one process after the other; n may differ."""


@dataclass(frozen=True)
class Loss:
    """The loss of some images as sums over them: processes add theirs up, and `value` makes the scalar of the sums.

    Attributes:
        parts: the sums, float, of any shape; or a tuple of scalars, which a process that is alone need not copy into
            one tensor. The gradient passes.
        value: the sums of the whole batch → the scalar to minimize.
    """

    parts: Tensor | tuple[Tensor, ...]
    value: Callable[[Any], Tensor]

    @property
    def sums(self) -> Tensor:
        """As one tensor."""
        return self.parts if isinstance(self.parts, Tensor) else torch.stack(self.parts)

    @property
    def own(self) -> Tensor:
        """The scalar of these images alone."""
        return self.value(self.parts)


def mean_loss(total: Tensor, weight: Tensor | int) -> Loss:
    """A weighted mean: the sum of the weighted losses over the sum of the weights.

    Args:
        total: scalar; weight: scalar, or the number of images, at least 1, where each weighs as much.
    """
    if isinstance(weight, int):
        return Loss((total, constant((float(max(1, weight)),), total.device)[0]), lambda sums: sums[0] / sums[1])
    return Loss((total, weight), lambda sums: sums[0] / sums[1].clamp_min(1e-12))  # all of a batch may weigh 0


@dataclass(frozen=True)
class Metric:
    """The metric of the validation split that chooses the best epoch.

    Attributes:
        name: as in metrics.jsonl without `val_`; higher: whether more of it is better.
    """

    name: str
    higher: bool = True

    @property
    def column(self) -> str:
        return f"val_{self.name}"

    def rank(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """What orders epochs: the higher, the better. Ties are broken by the lower validation loss.

        A metric that is not defined, such as the mean AP of images without any class, is below all others.
        """
        if row[self.column] is None:
            return -math.inf, -float(row["val_loss"])
        value = float(row[self.column])
        return value if self.higher else -value, -float(row["val_loss"])


class Accumulator(Protocol):
    """Metrics over a split, batch by batch."""

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch: float32 logits, and the targets of the task."""

    def merge(self, processes: Processes) -> None:
        """Go on with what all processes have taken in."""

    def compute(self) -> dict[str, float | None]:
        """`loss`, `accuracy` (of whatever the task counts, from 0 to 1) and what else the task measures."""


class Task(Protocol):
    """What is learned.

    Attributes:
        name: in the card, in config.yaml, and of the modules in `evaluation` and `report` that belong to it.
        best_metric: which epoch is kept.
    """

    name: str
    best_metric: Metric

    def mismatch(self, shape: Sequence[int], image_size: tuple[int, int]) -> str:
        """Why logits of this shape are no answers to images of (height, width) pixels; "" where they are."""

    def loss(self, logits: Tensor, targets: Tensor, share: Tensor | None = None) -> Loss:
        """The loss of a batch.

        Args:
            share: (B,) from 0 to 1, how much of each image is what the targets say, where images were mixed; None: all.
        """

    def count_correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Images answered correctly; one with several answers counts by the share of those that are right."""

    def metrics(self) -> Accumulator:
        """A fresh one."""


def given_weights(setting: Any, num_classes: int, device: torch.device) -> Tensor | None:
    """trainer.class_weights as (K,) float32, None where there are none. Raises ConfigError for another number."""
    if setting is None:
        return None
    values = torch.tensor(list(setting), dtype=torch.float32, device=device)
    if len(values) != num_classes:
        raise ConfigError(f"trainer.class_weights has {len(values)} numbers for {num_classes} classes.")
    return values
