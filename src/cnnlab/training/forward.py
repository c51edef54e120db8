"""A model over a whole split, the same way in validation, test and everywhere else: float32, evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from cnnlab.data.loader import WHOLE, Loader
from cnnlab.deterministic import deterministic_forms
from cnnlab.device import exact_float32
from cnnlab.models.folding import fold_batch_norm
from cnnlab.tasks import Accumulator

Metrics = TypeVar("Metrics", bound=Accumulator)


def measure(model: nn.Module, loader: Loader, metrics: Metrics, shard: tuple[int, int] = WHOLE) -> Metrics:
    """Take the answers to every image of a split, or of a process's shard of it, into `metrics`, which is returned."""
    for logits, targets in forward_each(model, loader, shard):
        with deterministic_forms():
            metrics.update(logits, targets)
    return metrics


def forward_all(model: nn.Module, loader: Loader) -> tuple[Tensor, Tensor]:
    """(n, K) float32 logits and (n,) labels of every image of the split, in its order."""
    pairs = list(forward_each(model, loader))
    return torch.cat([logits for logits, _ in pairs]), torch.cat([targets for _, targets in pairs])


def forward_each(model: nn.Module, loader: Loader, shard: tuple[int, int] = WHOLE) -> Iterator[tuple[Tensor, Tensor]]:
    """Float32 logits and targets of each batch, in order.

    The metrics of a run are float32 whatever it was trained in: they are then the same for predict and for an export.
    """
    was_training = model.training
    model.eval()
    quick: nn.Module | None = None
    try:
        for batch in loader.epoch(shard=shard):
            with torch.inference_mode(), exact_float32():
                if quick is None:
                    quick = fold_batch_norm(model, batch.images[:2])
                logits = quick(batch.images).float()
            yield logits, batch.targets
    finally:
        model.train(was_training)
