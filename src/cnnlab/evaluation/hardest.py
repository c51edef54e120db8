"""The images that a model finds hardest, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnlab.evaluation.metrics import image_losses

COUNT = 20


def hardest_images(
    logits: Tensor, labels: Tensor, names: Sequence[str], classes: Sequence[str], count: int = COUNT
) -> dict[str, list[dict[str, Any]]]:
    """Those with the highest loss, and those with the smallest margin between the two best classes.

    Args:
        logits: (n, K) float; labels: (n,) int64; names: n; classes: K.

    Returns:
        by_loss, the worst first: picture, true, predicted, the probability of both, loss. by_margin, the closest first:
        the same with second, the class that nearly won, and margin, the difference of the two probabilities.
    """
    probabilities = logits.double().softmax(1)
    losses = image_losses(logits, labels)
    best = probabilities.topk(min(2, len(classes)))
    margins = best.values[:, 0] - best.values[:, -1]

    def facts(place: int) -> dict[str, Any]:
        true, guess = int(labels[place]), int(logits[place].argmax())
        return {
            "picture": names[place],
            "true": classes[true],
            "predicted": classes[guess],
            "probability_true": probabilities[place, true].item(),
            "probability_predicted": probabilities[place, guess].item(),
        }

    return {
        "by_loss": [
            facts(place) | {"loss": losses[place].item()} for place in first_places(losses, count, descending=True)
        ],
        "by_margin": [
            facts(place) | {"second": classes[int(best.indices[place, -1])], "margin": margins[place].item()}
            for place in first_places(margins, count)
        ],
    }


def first_places(values: Tensor, count: int, descending: bool = False) -> list[int]:
    """Where the first `count` of (n,) values lie when sorted; of equal ones the earlier first."""
    return torch.sort(values, stable=True, descending=descending).indices[:count].tolist()
