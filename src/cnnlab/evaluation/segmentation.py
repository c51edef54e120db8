"""One split through a model that classifies every pixel: metrics, and a row per image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.config import TestConfig
from cnnlab.data.data import Data
from cnnlab.evaluation.intervals import ratio_interval
from cnnlab.evaluation.outputs import PLAIN, Outputs, refuse_views
from cnnlab.finite import check_answers
from cnnlab.tasks import Task
from cnnlab.tasks.segmentation import PixelMetrics, iou, mean_iou
from cnnlab.training.forward import measure

TOLERANCE = 0.0075  # of the image's diagonal: so far apart two boundaries still match (Csurka et al. 2013, section 3)
ROW = ("pixel_accuracy", "mean_iou", "dice", "boundary_f1")


@dataclass(frozen=True)
class PixelOutputs(Outputs):
    """With ROW's metrics of each image."""

    rows: Sequence[tuple[float, ...]]

    def table(self) -> Iterator[Sequence[object]]:
        yield ["picture", *ROW]
        for name, row in zip(self.names, self.rows, strict=True):
            yield [name, *(f"{value:.6g}" for value in row)]


class SplitMetrics(PixelMetrics):
    """The metrics of training, and the F1 of the boundaries in each image."""

    def __init__(self, num_classes: int, dice_weight: float) -> None:
        super().__init__(num_classes, dice_weight)
        self._boundaries: list[Tensor] = []
        self._highest: list[Tensor] = []  # (B,) of each batch: no number where no class of some pixel has a number

    def update(self, logits: Tensor, targets: Tensor) -> None:
        super().update(logits, targets)
        highest = logits.amax(1).abs().amax((1, 2))
        if highest.device.type == "cpu":
            check_answers(highest[:, None])
        self._highest.append(highest)  # of an accelerator they are looked at once, in the end
        self._boundaries.append(boundary_f1(logits.argmax(1), targets, self.num_classes))

    @property
    def boundaries(self) -> list[float]:
        """Of each image. Raises ModelError where an answer was no number."""
        check_answers(torch.cat(self._highest)[:, None])
        return torch.cat(self._boundaries).tolist()  # type: ignore[no-any-return]


def evaluate_segmentation(
    task: Task, model: nn.Module, data: Data, split: str, settings: TestConfig = PLAIN, known: object = None
) -> PixelOutputs:
    """Metrics of a split, and a row per image.

    Returns:
        In `metrics`: loss (cross-entropy and Dice as in training), accuracy (of pixels), mean_iou, dice (mean over the
        classes), boundary_f1 (mean over images and their classes), each of accuracy and mean_iou with a 95 % interval
        (over the images), n images, per_class (class, n pixels, precision, recall, f1 = Dice, iou) and
        confusion_matrix (pixels, rows true).
    """
    refuse_views(settings)
    classes = data.classes
    measured = measure(model, data.evaluation_loader(split), SplitMetrics(len(classes), data.config.trainer.dice))
    boundaries, each, whole = measured.boundaries, measured.each, measured.matrix
    rows = [(*_row(matrix), boundary) for matrix, boundary in zip(each, boundaries, strict=True)]
    accuracy, overlap = _intervals(each)
    metrics = {
        "split": split,
        "task": task.name,
        **measured.compute(),
        "accuracy_interval": accuracy,
        "mean_iou_interval": overlap,
        "dice": _f1(whole).nanmean().item(),
        "boundary_f1": float(np.nanmean(boundaries)),
        "n": len(each),
        "per_class": per_class(whole, classes),
        "confusion_matrix": whole.tolist(),
    }
    return PixelOutputs(metrics, data.names(split), rows)


def per_class(matrix: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row per class, from (K, K) pixels; what is not defined is None."""
    hits = matrix.diagonal().double()
    columns = (matrix.sum(1), hits / matrix.sum(0), hits / matrix.sum(1), _f1(matrix), iou(matrix))
    return [
        {
            "class": name,
            "n": int(n),
            **dict(zip(("precision", "recall", "f1", "iou"), map(_known, values), strict=True)),
        }
        for name, n, *values in zip(classes, *columns, strict=True)
    ]


def _known(value: Tensor) -> float | None:
    return value.item() if value.isfinite() else None


def _f1(matrix: Tensor) -> Tensor:
    """(K,) Dice of each class."""
    return 2 * matrix.diagonal().double() / (matrix.sum(0) + matrix.sum(1)).double()


def _row(matrix: Tensor) -> tuple[float, float, float]:
    return matrix.diagonal().sum().item() / matrix.sum().item(), mean_iou(matrix), _f1(matrix).nanmean().item()


def _intervals(each: Tensor) -> tuple[list[float], list[float]]:
    """95 % intervals of pixel accuracy and mean IoU over the images, from (n, K, K) pixels."""
    hits = each.diagonal(dim1=1, dim2=2).double()
    union = (each.sum(1) + each.sum(2)).double() - hits
    accuracy = ratio_interval(hits.sum(1, keepdim=True), each.sum((1, 2))[:, None].double())
    return list(accuracy), list(ratio_interval(hits, union))


def boundary_f1(guesses: Tensor, masks: Tensor, num_classes: int, tolerance: int | None = None) -> Tensor:
    """(B,) F1 of the boundaries, the mean over the classes that are in the image or the answer.

    A boundary pixel of a class is one with a neighbour of another class. It is matched if the other's boundary of that
    class passes within `tolerance` pixels, along rows and columns (Csurka et al. 2013).

    Args:
        guesses, masks: (B, H, W) int64.
        tolerance: in pixels; None is 0.75 % of the diagonal, at least 1.
    """
    height, width = masks.shape[1:]
    reach = max(1, round(TOLERANCE * (height**2 + width**2) ** 0.5)) if tolerance is None else tolerance
    scores = []
    for number in range(num_classes):
        answer, truth = (_boundary((part == number)[:, None].float()) for part in (guesses, masks))
        near_answer, near_truth = (F.max_pool2d(part, 2 * reach + 1, 1, reach) for part in (answer, truth))
        matched = (answer * near_truth).sum(dim=(1, 2, 3)), (truth * near_answer).sum(dim=(1, 2, 3))
        sizes = answer.sum(dim=(1, 2, 3)), truth.sum(dim=(1, 2, 3))
        precision, recall = (m / s.clamp_min(1) for m, s in zip(matched, sizes, strict=True))
        f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-9)
        scores.append(torch.where(sizes[0] + sizes[1] > 0, f1, torch.nan))
    return torch.stack(scores).nanmean(0)


def _boundary(region: Tensor) -> Tensor:
    """(B, 1, H, W) of 0 and 1 → 1 where a pixel of the region has one beside it that is not; the border is no edge."""
    inside = -F.max_pool2d(-region, 3, 1, 1)  # padding counts as inside
    return region - inside
