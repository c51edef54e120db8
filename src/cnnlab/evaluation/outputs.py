"""What an evaluation of one split gives, whatever the task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cnnlab.config import TestConfig
from cnnlab.errors import ConfigError
from cnnlab.tasks import DecisionRule

PLAIN = TestConfig()


@dataclass(frozen=True)
class Outputs:
    """Metrics of a split, the content of test.json, and the names of its images, in order."""

    metrics: dict[str, Any]
    names: list[str]

    def table(self) -> Iterator[Sequence[object]]:
        """predictions.csv: the heading, and a row per image."""
        yield ["picture"]
        yield from ([name] for name in self.names)

    def against(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """What further metrics say of another set than the run's own, whose test gave `before`."""
        return {}


class ImageOutputs(Outputs):
    """Of a task that gives each image its classes."""

    logits: Tensor  # (n, K), on the processor
    rule: DecisionRule

    @property
    def probabilities(self) -> Tensor:
        """(n, K)."""
        return self.rule.probabilities(self.logits)

    @property
    def losses(self) -> Tensor:
        """(n,) float64, of each image."""
        raise NotImplementedError

    @property
    def wrong(self) -> Tensor:
        """(n,) bool, which images are not given exactly their classes."""
        raise NotImplementedError

    def true_classes(self, place: int) -> list[int]:
        """Numbers of the classes that an image has."""
        raise NotImplementedError


Evaluator = Callable[..., Outputs]  # task, model, data, split, TestConfig, what is known of the run or None


def refuse_views(settings: TestConfig) -> None:
    """Raise ConfigError for further views of each image: they are for tasks of one label per image."""
    if settings.views != "none":
        raise ConfigError("views are for one label per image, and this task has other targets; leave them out.")
