"""Any number of classes per image: each class is answered by yes or no."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.config import Config, TrainerConfig
from cnnlab.data.data import Data
from cnnlab.errors import ConfigError
from cnnlab.tasks.base import Loss, Metric, Processes, given_weights, mean_loss
from cnnlab.tasks.decision import THRESHOLD
from cnnlab.tasks.losses import LossFunction, find_loss, losses_of, refuse_mean


class MultiLabel:
    """Sigmoid and binary cross-entropy, or the focal loss, for each class; a loss per image is the mean over classes.

    Targets are (B, K) float of 0 and 1, logits (B, K).

    Args:
        positive_weights: (K,) how much an image that has a class counts in that class's loss; None: as much as one
            that does not (the `pos_weight` of torch's BCEWithLogitsLoss).
        own_loss: a loss that Python gave, of (logits (B, K), targets (B, K)); None takes trainer.loss.

    Raises:
        ConfigError: a loss that is for one label per image.
    """

    name = "multilabel"
    best_metric = Metric("mean_ap")

    def __init__(
        self,
        config: TrainerConfig,
        num_classes: int,
        positive_weights: Tensor | None = None,
        own_loss: LossFunction | None = None,
    ) -> None:
        if config.balanced_sampling:
            raise ConfigError(
                "trainer.balanced_sampling draws by the one class of each image, and here an image may have several;"
                " use trainer.class_weights=balanced."
            )
        self.num_classes, self.smoothing = num_classes, config.label_smoothing
        self.loss_function = multi_label_loss(config, own_loss, positive_weights)
        self.plain_loss = multi_label_loss(config, own_loss, None)

    @classmethod
    def of(cls, config: Config, data: Data, own_loss: LossFunction | None = None) -> MultiLabel:
        """The task of a run."""
        if not data.multi_label:
            raise ConfigError("task=multilabel is for images with any number of classes; here each has one label.")
        setting, device = config.trainer.class_weights, data.train.device
        if setting == "balanced":
            counts = torch.tensor(data.class_counts(), dtype=torch.float32, device=device)
            others = (len(data.split.train) - counts).clamp_min(1)  # a class that all images have is learned, too
            weights: Tensor | None = others / counts.clamp_min(1)
        else:
            weights = given_weights(setting, data.num_classes, device)
        if isinstance(own_loss, nn.Module):
            own_loss.to(device)
        return cls(config.trainer, data.num_classes, weights, own_loss)

    def mismatch(self, shape: Sequence[int], image_size: tuple[int, int]) -> str:
        if tuple(shape[1:]) == (self.num_classes,):
            return ""
        return (
            f"the model gives {tuple(shape[1:])} numbers per image for {self.num_classes} classes; build it with"
            f" num_classes={self.num_classes}."
        )

    def loss(self, logits: Tensor, targets: Tensor, share: Tensor | None = None) -> Loss:
        logits = logits.float()
        targets = targets * (1 - self.smoothing) + self.smoothing / 2 if self.smoothing else targets
        each = losses_of(self.loss_function, logits, targets)
        if share is None:
            return mean_loss(each.sum(), len(each))
        refuse_mean(each)
        return mean_loss((each * share).sum(), len(each))

    def count_correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Images whose classes are exactly those with a probability of 0.5 or more."""
        return exact_matches(logits.sigmoid() >= THRESHOLD, targets).sum()

    def metrics(self) -> RankingMetrics:
        return RankingMetrics(self)


class RankingMetrics:
    """Loss (without smoothing and class weights), exact matches and the mean average precision over a split."""

    def __init__(self, task: MultiLabel) -> None:
        self.task = task
        self.logits: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        self.logits.append(logits.float())
        self.targets.append(targets)

    def merge(self, processes: Processes) -> None:
        logits, targets = self._all()
        self.logits, self.targets = [processes.concatenate(logits)], [processes.concatenate(targets)]

    def compute(self) -> dict[str, float | None]:
        logits, targets = self._all()
        loss = losses_of(self.task.plain_loss, logits, targets)  # on the device, where a loss may have tensors
        logits, targets = logits.cpu(), targets.cpu()
        return {
            "loss": loss.cpu().double().mean().item(),
            "accuracy": exact_matches(logits.sigmoid() >= THRESHOLD, targets).double().mean().item(),
            "mean_ap": mean_of_known(average_precision(logits, targets)),
        }

    def _all(self) -> tuple[Tensor, Tensor]:
        if not self.logits:  # of several processes one may have no image of a small split
            return torch.zeros(0, self.task.num_classes), torch.zeros(0, self.task.num_classes)
        return torch.cat(self.logits), torch.cat(self.targets)


def exact_matches(chosen: Tensor, targets: Tensor) -> Tensor:
    """(B, K) bool and (B, K) of 0 and 1 → (B,) bool, whether all classes of an image are right."""
    return (chosen == targets.bool()).all(1)


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """(n, K) scores and targets of 0 and 1 → (K,) float64: Σ (Rₙ − Rₙ₋₁) Pₙ over the thresholds, without interpolation.

    Images of the same score are taken in together. A class that no image has is not a number.
    """
    ordered, order = scores.sort(dim=0, descending=True, stable=True)
    hits = targets.gather(0, order).double().cumsum(0)
    last = torch.ones_like(ordered, dtype=torch.bool)  # of the images of one score
    last[:-1] = ordered[:-1] != ordered[1:]
    precision = hits / torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)[:, None]
    found = torch.where(last, hits, 0).cummax(0).values  # hits up to the last threshold
    gained = torch.diff(found, dim=0, prepend=torch.zeros_like(found[:1]))
    return (gained * precision).sum(0) / hits[-1] if len(scores) else torch.full(scores.shape[1:], torch.nan).double()


def mean_of_known(values: Tensor) -> float | None:
    """Mean of the numbers among the values; None where there is none."""
    known = values[values.isfinite()]
    return known.mean().item() if len(known) else None


# ---- losses


def binary_cross_entropy(logits: Tensor, targets: Tensor, positive_weights: Tensor | None = None) -> Tensor:
    """(B, K) −log of the probability of the truth.

    Args:
        positive_weights: (K,), see `MultiLabel`.
    """
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=positive_weights, reduction="none")


def binary_focal(logits: Tensor, targets: Tensor, positive_weights: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """(B, K) −(1 − p)^γ log p, p the probability of the truth (Lin et al. 2017, eq. 4)."""
    probability = logits.sigmoid()
    truth = probability * targets + (1 - probability) * (1 - targets)
    return (1 - truth) ** gamma * binary_cross_entropy(logits, targets, positive_weights)


def multi_label_loss(config: TrainerConfig, own_loss: LossFunction | None, weights: Tensor | None) -> LossFunction:
    """A function of (logits (B, K), targets (B, K)). Raises ConfigError where trainer.loss is for one label."""
    if own_loss is None and config.loss == "cross_entropy":
        return functools.partial(binary_cross_entropy, positive_weights=weights)
    if own_loss is None and config.loss == "focal":
        return functools.partial(binary_focal, positive_weights=weights, gamma=config.focal_gamma)
    if own_loss is None and config.loss == "mse":
        raise ConfigError("trainer.loss=mse is for one label per image; use cross_entropy or focal.")
    if weights is not None:
        raise ConfigError("trainer.class_weights are for trainer.loss=cross_entropy or focal here; leave them out.")
    return find_loss(dataclasses.replace(config, label_smoothing=0.0), own_loss)  # the targets are smoothed
