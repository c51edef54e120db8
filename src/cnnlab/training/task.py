"""What is learned: the loss by name, and the figures of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.config import TrainerConfig
from cnnlab.data.loader import Batch, Loader
from cnnlab.errors import ConfigError
from cnnlab.training.distributed import ALONE, Group
from cnnlab.training.forward import forward_all

OwnLoss = Callable[[Tensor, Tensor], Tensor]  # (B, K) logits, (B,) labels


class Task(Protocol):
    """What the loop asks of a task. Where several processes train, each asks with its share of a batch."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The scalar that training lowers; of several processes each has its share, and the sum is what is lowered."""

    def count_correct(self, logits: Tensor, batch: Batch) -> Tensor:
        """Pictures of the batch that are answered correctly; where pixels are, a picture counts by their share."""

    def validate(self, model: nn.Module, loader: Loader) -> dict[str, float | None]:
        """loss, accuracy and what else the task measures, over all pictures of a split, in float32.

        Where several processes train, `loader` gives each its share, and each gets the figures of all.
        """


class Classification:
    """One label a picture.

    Losses, of logits z and probabilities p = softmax(z):
        cross_entropy   −log p[label], with label smoothing (Szegedy et al. 2016, section 7)
        focal           −(1 − p[label])^γ · log p[label] (Lin et al. 2017, eq. 4)
        mse             Σ (p − one-hot)², the Brier score
        own             `own_loss(logits, labels)` of the user's: (B, K), (B,) → a mean over the batch, or (B,)
    """

    def __init__(
        self,
        config: TrainerConfig,
        class_counts: Sequence[int],
        device: torch.device,
        group: Group = ALONE,
        own_loss: OwnLoss | None = None,
    ) -> None:
        self.config, self.group = config, group
        self.weights = self._class_weights(config.class_weights, class_counts, device)
        if config.loss == "own" and own_loss is None:
            raise ConfigError(
                "trainer.loss=own is a function given from Python, cnnlab.fit(..., loss=...), which no command has; use"
                " cross_entropy, focal or mse here."
            )
        if own_loss is not None and config.label_smoothing:
            raise ConfigError("trainer.label_smoothing is of cnnlab's own losses; smooth in the loss that you give.")
        if isinstance(own_loss, nn.Module):
            if any(parameter.requires_grad for parameter in own_loss.parameters()):
                raise ConfigError("loss= has parameters, and only those of the model learn; make them the model's.")
            own_loss = own_loss.to(device)
        self.own_loss = own_loss

    @staticmethod
    def _class_weights(setting: object, counts: Sequence[int], device: torch.device) -> Tensor | None:
        if setting is None:
            return None
        if setting == "balanced":
            total = sum(counts)
            return torch.tensor([total / (len(counts) * max(1, n)) for n in counts], device=device)
        values = torch.tensor(list(setting), dtype=torch.float32, device=device)  # type: ignore[call-overload]
        if len(values) != len(counts):
            raise ConfigError(f"trainer.class_weights has {len(values)} numbers for {len(counts)} classes.")
        return values

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """(B, K) logits → the scalar that training lowers."""
        logits = logits.float()
        value = self._mean(logits, batch.labels, None if batch.share is None else batch.share)
        if batch.other is not None and batch.share is not None:
            value = value + self._mean(logits, batch.other, 1 - batch.share)
        return value

    def count_correct(self, logits: Tensor, batch: Batch) -> Tensor:
        return count_correct(logits, batch.labels)

    def validate(self, model: nn.Module, loader: Loader) -> dict[str, float | None]:
        """Loss and accuracy over all pictures of the loader."""
        logits, labels = forward_all(model, loader)
        sums = [self.validation_loss(logits, labels).double().sum(), count_correct(logits, labels)]
        loss, correct, count = self.group.total(torch.tensor([*map(float, sums), len(labels)], dtype=torch.float64))
        return {"loss": (loss / count).item(), "accuracy": (correct / count).item()}

    def validation_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,) the same loss a picture, without smoothing and class weights, so that runs can be compared."""
        return self._each(logits.float(), labels, smoothing=0.0)

    def _mean(self, logits: Tensor, labels: Tensor, share: Tensor | None) -> Tensor:
        each = self._each(logits, labels, self.config.label_smoothing)
        if self.own_loss is not None and each.stride() == (0,) and (share is not None or self.weights is not None):
            raise ConfigError(
                "mixup, cutmix and class weights weigh the loss of each picture, and loss= gives their mean; let it"
                " give (B,), as with reduction='none'."
            )
        weight = torch.ones_like(each) if self.weights is None else self.weights[labels]
        total = (each * weight) if share is None else each * weight * share
        return total.sum() / self.group.total(weight.sum()).clamp_min(1e-12)  # all of the batch may weigh 0

    def _each(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        if self.own_loss is not None:
            return self._own(self.own_loss(logits, labels), len(labels))
        if self.config.loss == "cross_entropy":
            return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        if self.config.loss == "focal":
            surprise = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
            chance = logits.softmax(1).gather(1, labels[:, None])[:, 0]
            return (1 - chance) ** self.config.focal_gamma * surprise
        target = F.one_hot(labels, logits.shape[1]).float()
        target = target * (1 - smoothing) + smoothing / logits.shape[1]
        return ((logits.softmax(1) - target) ** 2).sum(1)

    def _own(self, value: Tensor, count: int) -> Tensor:
        """(count,) what the user's loss gave; a mean stands for each picture."""
        if not isinstance(value, Tensor) or value.shape not in ((), (1,), (count,)):
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ConfigError(f"loss= must give a scalar tensor, the mean over the batch, or ({count},), got {what}.")
        return value if value.shape == (count,) else value.reshape(()).expand(count)


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of pictures whose highest logit is their label."""
    return (logits.argmax(1) == labels).sum()
