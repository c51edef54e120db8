"""A model over a whole split, the same way in validation, test and everywhere else: float32, evaluation mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnnlab.data.loader import Loader
from cnnlab.models.folding import fold_batch_norm


@torch.inference_mode()
def forward_all(model: nn.Module, loader: Loader) -> tuple[Tensor, Tensor]:
    """(n, K) float32 logits and (n,) labels of every picture of the split, in its order.

    The figures of a run are float32 whatever it was trained in: they are then the same for predict and for an export.
    """
    was_training = model.training
    model.eval()
    try:
        logits: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in loader.epoch():
            if not logits:
                quick = fold_batch_norm(model, batch.images[:2])
            logits.append(quick(batch.images).float())
            labels.append(batch.labels)
        if not logits:  # of several processes, one may have no picture of a small split
            return torch.empty(0, 1, device=loader.device), torch.empty(0, dtype=torch.int64, device=loader.device)
        return torch.cat(logits), torch.cat(labels)
    finally:
        model.train(was_training)
