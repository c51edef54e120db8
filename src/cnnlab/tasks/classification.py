"""One label per image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnlab.config import Config, TrainerConfig
from cnnlab.data.data import Data
from cnnlab.errors import ConfigError
from cnnlab.tasks.base import Loss, Metric, Processes, given_weights, mean_loss
from cnnlab.tasks.losses import LossFunction, find_loss, losses_of, refuse_mean


class Classification:
    """Targets are (B,) int64, logits (B, K).

    Args:
        class_counts: training images of each class, for trainer.class_weights=balanced.
        own_loss: a loss that Python gave; None takes trainer.loss, see `cnnlab.tasks.losses`.

    Raises:
        ConfigError: no such loss, or weights for another number of classes.
    """

    name = "classification"
    best_metric = Metric("accuracy")

    def __init__(
        self,
        config: TrainerConfig,
        class_counts: Sequence[int],
        device: torch.device,
        own_loss: LossFunction | None = None,
    ) -> None:
        self.num_classes = len(class_counts)
        self.weights = self._class_weights(config.class_weights, class_counts, device)
        self.loss_function = find_loss(config, own_loss)
        self.plain_loss = find_loss(dataclasses.replace(config, label_smoothing=0.0), own_loss)
        if isinstance(own_loss, nn.Module):
            own_loss.to(device)

    @classmethod
    def of(cls, config: Config, data: Data, own_loss: LossFunction | None = None) -> Classification:
        """The task of a run."""
        if data.pixel_targets:
            raise ConfigError("task=classification is for one label per image; here every pixel has a class.")
        if data.multi_label:
            raise ConfigError("task=classification is for one label per image; here an image may have several.")
        counts = data.class_counts() if config.trainer.class_weights == "balanced" else [0] * data.num_classes
        return cls(config.trainer, counts, data.train.device, own_loss)

    @staticmethod
    def _class_weights(setting: object, counts: Sequence[int], device: torch.device) -> Tensor | None:
        if setting == "balanced":
            total = sum(counts)
            return torch.tensor([total / (len(counts) * max(1, n)) for n in counts], device=device)
        return given_weights(setting, len(counts), device)

    def mismatch(self, shape: Sequence[int], image_size: tuple[int, int]) -> str:
        if len(shape) == 4:
            return "this model classifies every pixel, and the set has one label per image; choose another model."
        if tuple(shape[1:]) == (self.num_classes,):
            return ""
        return (
            f"the model gives {tuple(shape[1:])} numbers per image for {self.num_classes} classes;"
            f" build it with num_classes={self.num_classes}."
        )

    def loss(self, logits: Tensor, targets: Tensor, share: Tensor | None = None) -> Loss:
        each = losses_of(self.loss_function, logits.float(), targets)
        if share is not None or self.weights is not None:
            refuse_mean(each)
        if self.weights is None:
            return mean_loss((each if share is None else each * share).sum(), len(each))
        weight = self.weights[targets]
        weighted = each * weight if share is None else each * weight * share
        return mean_loss(weighted.sum(), weight.sum())

    def count_correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        return count_correct(logits, targets)

    def metrics(self) -> LabelMetrics:
        return LabelMetrics(self.plain_loss)


class LabelMetrics:
    """Loss (without smoothing and class weights, so that runs can be compared) and accuracy."""

    def __init__(self, loss: LossFunction) -> None:
        self.loss = loss
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.sums: Tensor | None = None

    def update(self, logits: Tensor, targets: Tensor) -> None:
        self.logits.append(logits)
        self.labels.append(targets)

    def merge(self, processes: Processes) -> None:
        self.sums = processes.total(self._sums())

    def compute(self) -> dict[str, float | None]:
        loss, correct, count = self._sums() if self.sums is None else self.sums
        return {"loss": (loss / count).item(), "accuracy": (correct / count).item()}

    def _sums(self) -> Tensor:
        """(3,) float64 on the processor: sum of the losses, images answered correctly, images."""
        if not self.logits:  # of several processes one may have no image of a small split
            return torch.zeros(3, dtype=torch.float64)
        logits, labels = torch.cat(self.logits), torch.cat(self.labels)
        loss = losses_of(self.loss, logits.float(), labels).cpu().double().sum()
        return torch.tensor([loss.item(), count_correct(logits, labels).item(), len(labels)], dtype=torch.float64)


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of images whose highest logit is their label."""
    return (logits.argmax(1) == labels).sum()
