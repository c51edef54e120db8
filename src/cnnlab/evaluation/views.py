"""Test-time views: the same image mirrored and shifted, and the mean of what the model says of each."""

from __future__ import annotations

from bisect import bisect_left

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.data.loader import Loader
from cnnlab.device import exact_float32
from cnnlab.models.folding import fold_batch_norm


def views_of(images: Tensor, kind: str) -> list[tuple[float, Tensor]]:
    """The further views of (B, C, H, W) images and their weights; the image itself has the rest, 1 − their sum.

    mirror: left and right exchanged, 1/2. shift: by one pixel up and left, and down and right, 1/4 each, the border
    repeated. mirror_shift: all of these and the mirrored shifts (K. Jordan 2024, section 3.5).
    """
    views: list[tuple[float, Tensor]] = []
    if "shift" in kind:
        height, width = images.shape[2:]
        wide = F.pad(images, (1, 1, 1, 1), mode="replicate")
        views = [(0.25, wide[:, :, at : at + height, at : at + width]) for at in (0, 2)]
    if "mirror" in kind:
        straight = [(1 - sum(weight for weight, _ in views), images), *views]
        views = [(weight / 2, view) for weight, view in views]
        views += [(weight / 2, view.flip(3)) for weight, view in straight]
    return views


@torch.inference_mode()
@exact_float32()
def average_views(model: nn.Module, loader: Loader, logits: Tensor, kind: str, share: float = 1.0) -> Tensor:
    """(n, K) mean log-probabilities over the views of every image of the split, in its order.

    Args:
        logits: (n, K) of the images themselves, as `forward_all` gives them.
        kind: mirror, shift or mirror_shift.
        share: of the images that get further views: those whose two best classes are closest to each other.
    """
    answers = logits.log_softmax(1)
    best = answers.topk(min(2, answers.shape[1])).values
    margin = best[:, 0] - best[:, -1]
    chosen = margin.argsort()[: round(share * len(answers))].sort().values
    places = chosen.tolist()  # the only thing that is waited for
    was_training = model.training
    model.eval()
    try:
        done = 0
        for batch in loader.epoch():
            if not done:
                quick = fold_batch_norm(model, batch.images[:2])
            here = chosen[bisect_left(places, done) : bisect_left(places, done + len(batch.targets))]
            views = views_of(batch.images[here - done], kind) if len(here) else []
            if views:
                own = 1 - sum(weight for weight, _ in views)
                further = [weight * quick(view).float().log_softmax(1) for weight, view in views]
                answers[here] = own * answers[here] + torch.stack(further).sum(0)
            done += len(batch.targets)
    finally:
        model.train(was_training)
    return answers
