"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.config import Config, TrainerConfig
from cnnlab.data.data import Data
from cnnlab.device import sum_type
from cnnlab.errors import ConfigError
from cnnlab.tasks.base import Loss, Metric, Processes, given_weights
from cnnlab.tasks.losses import LossFunction


class Segmentation:
    """Cross-entropy over all pixels, plus `trainer.dice` times the Dice loss (Milletari et al. 2016, V-Net, section 3).

    Targets are (B, H, W) int64, logits (B, K, H, W).

    Raises:
        ConfigError: a loss or weights that are for images alone.
    """

    name = "segmentation"
    best_metric = Metric("mean_iou")

    @classmethod
    def of(cls, config: Config, data: Data, own_loss: LossFunction | None = None) -> Segmentation:
        """The task of a run."""
        if not data.pixel_targets:
            raise ConfigError("task=segmentation is for a class of every pixel; here each image has one label.")
        if own_loss is not None:
            raise ConfigError("loss= is for one label per image, and here every pixel has a class; leave it out.")
        return cls(config.trainer, data.num_classes, data.train.device)

    def __init__(self, config: TrainerConfig, num_classes: int, device: torch.device) -> None:
        if config.loss != "cross_entropy":
            raise ConfigError(f"trainer.loss={config.loss} is for classes of images; for pixels use cross_entropy.")
        if config.class_weights == "balanced":
            raise ConfigError("trainer.class_weights=balanced counts images; for pixels give one number per class.")
        self.num_classes, self.smoothing, self.dice = num_classes, config.label_smoothing, config.dice
        self.weights = given_weights(config.class_weights, num_classes, device)

    def mismatch(self, shape: Sequence[int], image_size: tuple[int, int]) -> str:
        if len(shape) != 4:
            return "this set has a class for every pixel, and the model answers once per image; use model=unet."
        if tuple(shape[1:]) == (self.num_classes, *image_size):
            return ""
        return (
            f"the model gives {tuple(shape[1:])} numbers per image for {self.num_classes} classes and"
            f" {image_size[0]}×{image_size[1]} pixels; it must answer at every pixel."
        )

    def loss(self, logits: Tensor, targets: Tensor, share: Tensor | None = None) -> Loss:
        """Cutmix has mixed the targets as it did the images, so that `share` says nothing here."""
        logits = logits.float()
        total = F.cross_entropy(logits, targets, self.weights, label_smoothing=self.smoothing, reduction="sum")
        pixels = torch.full_like(total, targets.numel())
        weight = pixels if self.weights is None else self.weights[targets].sum()
        parts = [torch.stack([total, weight])]
        if self.dice:
            parts.append(dice_sums(logits, targets).flatten())

        def value(sums: Tensor) -> Tensor:
            entropy = sums[0] / sums[1].clamp_min(1e-12)
            return entropy + self.dice * dice_of(sums[2:].view(3, -1)) if self.dice else entropy

        return Loss(torch.cat(parts), value)

    def count_correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (logits.argmax(1) == targets).to(sum_type(logits.device)).mean(dim=(1, 2)).sum()

    def metrics(self) -> PixelMetrics:
        return PixelMetrics(self.num_classes, self.dice)


class PixelMetrics:
    """Loss, pixel accuracy and mean IoU, without keeping the logits: they can be larger than memory.

    Sums stay on the device until they are asked for.

    Attributes:
        matrices: (B, K, K) int64 of each batch, pixels of each image by true (row) and predicted class.
        count: images.
    """

    def __init__(self, num_classes: int, dice_weight: float) -> None:
        self.num_classes, self.dice_weight = num_classes, dice_weight
        self.matrices: list[Tensor] = []
        self.sums: Tensor = torch.zeros(2, dtype=torch.float64)  # negative log-likelihood of pixels, Dice of images
        self.count = 0
        self.merged: Tensor | None = None

    def update(self, logits: Tensor, targets: Tensor) -> None:
        self.matrices.append(confusion(logits.argmax(1), targets, self.num_classes))
        dice = dice_of(dice_sums(logits, targets, each=True)).sum()
        sums = torch.stack([F.cross_entropy(logits, targets, reduction="sum"), dice]).to(sum_type(logits.device))
        self.sums = sums if not self.count else self.sums + sums
        self.count += len(targets)

    def merge(self, processes: Processes) -> None:
        sums = processes.total(torch.tensor([self.nll, self.dice, self.count], dtype=torch.float64))
        self.merged = processes.total(self.matrix)
        self.sums, self.count = sums[:2], int(sums[2])

    @property
    def nll(self) -> float:
        """Sum of the negative log-likelihood over all pixels."""
        return self.sums.tolist()[0]  # type: ignore[no-any-return]

    @property
    def dice(self) -> float:
        """Sum of the Dice loss over all images."""
        return self.sums.tolist()[1]  # type: ignore[no-any-return]

    @property
    def each(self) -> Tensor:
        """(n, K, K) int64, a matrix per image of this process."""
        if not self.matrices:  # of several processes one may have no image of a small split
            return torch.zeros(0, self.num_classes, self.num_classes, dtype=torch.int64)
        return torch.cat(self.matrices).cpu()

    @property
    def matrix(self) -> Tensor:
        """(K, K) int64, of all images."""
        return self.each.sum(0) if self.merged is None else self.merged

    def compute(self) -> dict[str, float | None]:
        matrix = self.matrix
        pixels = int(matrix.sum())
        return {
            "loss": self.nll / max(1, pixels) + self.dice_weight * self.dice / max(1, self.count),
            "accuracy": matrix.diagonal().sum().item() / max(1, pixels),
            "mean_iou": mean_iou(matrix),
        }


def dice_sums(logits: Tensor, masks: Tensor, each: bool = False) -> Tensor:
    """(3, K), or with `each` (3, B, K): Σpg, Σp and Σg over pixels, p probabilities, g one-hot truth.

    Args:
        logits: (B, K, H, W) float; masks: (B, H, W) int64.
    """
    probabilities = logits.softmax(1)
    truth = F.one_hot(masks, logits.shape[1]).permute(0, 3, 1, 2).to(probabilities.dtype)
    over = (2, 3) if each else (0, 2, 3)
    return torch.stack([(probabilities * truth).sum(over), probabilities.sum(over), truth.sum(over)])


def dice_of(sums: Tensor) -> Tensor:
    """1 − the mean over the classes that occur of 2·Σpg / (Σp + Σg), from `dice_sums`; a scalar, or (B,)."""
    shared, predicted, true = sums
    present = (true > 0).to(sums.dtype)
    return 1 - (present * 2 * shared / (predicted + true).clamp_min(1e-6)).sum(-1) / present.sum(-1)


def confusion(answers: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """(B, K, K) int64 pixels of each image by true class (row) and answered class (column).

    Args:
        answers, masks: (B, H, W) int64.
    """
    image = torch.arange(len(masks), device=masks.device)[:, None, None]
    cells = ((image * num_classes + masks) * num_classes + answers).flatten()
    if masks.device.type == "cpu":
        counts = torch.bincount(cells, minlength=len(masks) * num_classes**2)
    else:  # counting by bins would wait for the device
        counts = cells.new_zeros(len(masks) * num_classes**2).scatter_add_(0, cells, torch.ones_like(cells))
    return counts.view(-1, num_classes, num_classes)


def iou(matrix: Tensor) -> Tensor:
    """(K,) float64 intersection over union of each class; not a number for one that neither occurs nor is answered."""
    hits = matrix.diagonal().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal()).double()


def mean_iou(matrix: Tensor) -> float:
    """Mean over the classes that occur or are answered."""
    return iou(matrix).nanmean().item()
