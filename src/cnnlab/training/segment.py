"""A class for every pixel: the loss, and what is counted over a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.config import TrainerConfig
from cnnlab.data.loader import Batch, Loader
from cnnlab.errors import ConfigError
from cnnlab.training.distributed import ALONE, Group


class Segmentation:
    """Cross-entropy over all pixels, plus `trainer.dice` times the Dice loss (Milletari et al. 2016, V-Net, section 3).

    Raises:
        ConfigError: a loss or weights that are for pictures alone.
    """

    def __init__(self, config: TrainerConfig, num_classes: int, device: torch.device, group: Group = ALONE) -> None:
        if config.loss != "cross_entropy":
            raise ConfigError(f"trainer.loss={config.loss} is for classes of pictures; for pixels use cross_entropy.")
        self.config, self.num_classes, self.group = config, num_classes, group
        self.weights: Tensor | None = None
        if config.class_weights == "balanced":
            raise ConfigError("trainer.class_weights=balanced counts pictures; for pixels give a number a class.")
        if config.class_weights is not None:
            if len(config.class_weights) != num_classes:
                raise ConfigError(
                    f"trainer.class_weights has {len(config.class_weights)} numbers for {num_classes} classes of"
                    " pixels."
                )
            self.weights = torch.tensor(list(config.class_weights), dtype=torch.float32, device=device)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """(B, K, H, W) logits → scalar."""
        assert batch.masks is not None
        logits = logits.float()
        value = F.cross_entropy(logits, batch.masks, self.weights, label_smoothing=self.config.label_smoothing)
        weight = batch.masks.numel() if self.weights is None else self.weights[batch.masks].sum().item()
        share = self.group.share(weight)
        value = value * share if weight else 0 * logits.sum()  # a mean over nothing is no number
        if self.config.dice:
            dice = dice_loss(logits, batch.masks, summed=self.group.summed)
            value = value + self.config.dice / self.group.size * dice
        return value

    def count_correct(self, logits: Tensor, batch: Batch) -> Tensor:
        assert batch.masks is not None
        return (logits.argmax(1) == batch.masks).double().mean(dim=(1, 2)).sum()

    def validate(self, model: nn.Module, loader: Loader) -> dict[str, float | None]:
        """Loss, pixel accuracy and mean IoU over all pixels of the loader's pictures."""
        counts = count_pixels(model, loader, self.num_classes).total(self.group)
        return {
            "loss": counts.loss(self.config.dice),
            "accuracy": counts.matrix.diagonal().sum().item() / counts.matrix.sum().item(),
            "mean_iou": mean_iou(counts.matrix),
        }


def dice_loss(
    logits: Tensor, masks: Tensor, each: bool = False, summed: Callable[[Tensor], Tensor] = lambda sums: sums
) -> Tensor:
    """1 − the mean over the classes that occur of 2·Σpg / (Σp + Σg), p probabilities, g one-hot truth.

    Args:
        logits: (B, K, H, W) float; masks: (B, H, W) int64.
        each: False: sums over the whole batch, a scalar; True: over each picture, (B,).
        summed: adds up the sums of several processes.
    """
    probabilities = logits.softmax(1)
    truth = F.one_hot(masks, logits.shape[1]).permute(0, 3, 1, 2).to(probabilities.dtype)
    over = (2, 3) if each else (0, 2, 3)
    sums = torch.stack([(probabilities * truth).sum(over), probabilities.sum(over), truth.sum(over)])
    shared, guessed, true = summed(sums)
    total = guessed + true
    present = (true > 0).to(probabilities.dtype)
    return 1 - (present * 2 * shared / total.clamp_min(1e-6)).sum(-1) / present.sum(-1)


@dataclass
class PixelCounts:
    """Over a split: (K, K) int64 pixels by true (row) and predicted class, and the sums that the loss is made of."""

    matrix: Tensor
    surprise: float = 0.0  # sum of the cross-entropy over all pixels
    dice: float = 0.0  # sum of the Dice loss over all pictures
    pictures: int = 0

    def total(self, group: Group) -> PixelCounts:
        """Those of all processes together."""
        sums = group.total(torch.tensor([self.surprise, self.dice, self.pictures], dtype=torch.float64)).tolist()
        return PixelCounts(group.total(self.matrix), sums[0], sums[1], int(sums[2]))

    def loss(self, weight: float) -> float:
        """Cross-entropy a pixel plus `weight` times the Dice loss, the mean over the pictures."""
        return self.surprise / max(1, int(self.matrix.sum())) + weight * self.dice / max(1, self.pictures)


@torch.inference_mode()
def count_pixels(model: nn.Module, loader: Loader, num_classes: int) -> PixelCounts:
    """Run a model over a split in float32, without keeping the logits: they can be larger than memory."""
    was_training = model.training
    model.eval()
    try:
        counts = PixelCounts(torch.zeros(num_classes, num_classes, dtype=torch.int64))
        for batch in loader.epoch():
            assert batch.masks is not None
            logits = model(batch.images).float()
            counts.matrix += confusion(logits.argmax(1), batch.masks, num_classes)
            counts.surprise += F.cross_entropy(logits, batch.masks, reduction="sum").item()
            counts.dice += dice_loss(logits, batch.masks, each=True).sum().item()
            counts.pictures += len(batch.masks)
        return counts
    finally:
        model.train(was_training)


def confusion(guesses: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """(K, K) int64 number of pixels of each true class (row) that got each class (column), on the processor."""
    both = masks.flatten() * num_classes + guesses.flatten()
    return torch.bincount(both, minlength=num_classes**2).view(num_classes, num_classes).cpu()


def iou(matrix: Tensor) -> Tensor:
    """(K,) float64 intersection over union of each class; not a number for one that neither occurs nor is answered."""
    hits = matrix.diagonal().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal()).double()


def mean_iou(matrix: Tensor) -> float:
    """Mean over the classes that occur or are answered."""
    return iou(matrix).nanmean().item()
