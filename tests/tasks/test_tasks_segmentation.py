"""A class for every pixel: the loss by hand, the counts by hand, and a U-Net that learns."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.config import TrainerConfig
from cnnlab.data.decode import Layout
from cnnlab.data.loader import Loader
from cnnlab.data.pixels import pack
from cnnlab.data.preprocess import Preprocess
from cnnlab.errors import ConfigError
from cnnlab.tasks.segmentation import Segmentation, confusion, dice_of, dice_sums, iou, mean_iou
from cnnlab.training.forward import measure


def task(num_classes: int = 2, **settings: object) -> Segmentation:
    return Segmentation(TrainerConfig(**settings), num_classes, torch.device("cpu"))  # type: ignore[arg-type]


def dice_loss(logits: Tensor, masks: Tensor, each: bool = False) -> Tensor:
    return dice_of(dice_sums(logits, masks, each))


def loss(chosen: Segmentation, logits: Tensor, masks: Tensor) -> float:
    found = chosen.loss(logits, masks)
    return found.value(found.sums).item()


def test_the_dice_loss_by_hand() -> None:
    masks = torch.tensor([[[0, 0, 1, 1]]])
    logits = torch.tensor([[[[50.0, 50, -50, 50]], [[-50.0, -50, 50, -50]]]])  # answers 0 0 1 0
    zero, one = 2 * 2 / (3 + 2), 2 * 1 / (1 + 2)
    assert dice_loss(logits, masks).item() == pytest.approx(1 - (zero + one) / 2, abs=1e-6)
    assert dice_loss(F.one_hot(masks, 2).permute(0, 3, 1, 2) * 100.0, masks).item() == pytest.approx(0, abs=1e-6)


def test_a_class_that_does_not_occur_takes_no_part_in_dice() -> None:
    masks = torch.zeros(1, 1, 4, dtype=torch.long)
    sure = torch.tensor([50.0, -50, -50])[None, :, None, None].expand(1, 3, 1, 4)
    assert dice_loss(sure, masks).item() == pytest.approx(0, abs=1e-6)


def test_dice_of_each_image_is_that_of_the_image_alone() -> None:
    logits, masks = torch.randn(4, 3, 5, 6), torch.randint(3, (4, 5, 6))
    masks[2] = 1  # two classes do not occur there
    alone = torch.stack([dice_loss(one[None], mask[None]) for one, mask in zip(logits, masks, strict=True)])
    torch.testing.assert_close(dice_loss(logits, masks, each=True), alone)


def test_dice_has_a_gradient_where_nothing_is_right() -> None:
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    dice_loss(logits, torch.ones(1, 4, 4).long()).backward()
    assert logits.grad is not None and (logits.grad[:, 1] < 0).all()


def test_the_loss_is_cross_entropy_and_dice() -> None:
    logits, masks = torch.randn(2, 3, 5, 5), torch.randint(3, (2, 5, 5))
    expected = F.cross_entropy(logits, masks)
    assert loss(task(3, dice=0.0), logits, masks) == pytest.approx(expected.item(), rel=1e-6)
    both = expected + 0.7 * dice_loss(logits, masks)
    assert loss(task(3, dice=0.7), logits, masks) == pytest.approx(both.item(), rel=1e-6)
    weighted = F.cross_entropy(logits, masks, torch.tensor([1.0, 2, 3]), label_smoothing=0.1)
    given = task(3, dice=0.0, class_weights=[1, 2, 3], label_smoothing=0.1)
    assert loss(given, logits, masks) == pytest.approx(weighted.item(), rel=1e-6)


def test_counts_by_hand() -> None:
    masks, guesses = torch.tensor([[[0, 0, 1], [1, 2, 2]]]), torch.tensor([[[0, 1, 1], [1, 1, 2]]])
    (matrix,) = confusion(guesses, masks, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert iou(matrix)[:3].tolist() == [1 / 2, 2 / 4, 1 / 2]
    assert iou(matrix)[3].isnan()
    assert mean_iou(matrix) == pytest.approx(0.5)
    logits = F.one_hot(guesses, 4).permute(0, 3, 1, 2).float()
    assert task(4).count_correct(logits, masks).item() == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"loss": "focal"}, "for classes of images; for pixels use cross_entropy"),
        ({"class_weights": "balanced"}, "give one number per class"),
        ({"class_weights": [1, 2, 3]}, "3 numbers for 2 classes"),
    ],
)
def test_what_is_for_images_alone_is_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        task(**settings)


class Threshold(nn.Module):
    """Class 1 where the first channel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), 20 * (x[:, 0] - 0.5)], dim=1)


def test_a_split_is_counted_whole_whatever_the_batch() -> None:
    random = np.random.default_rng(0)
    masks = random.integers(0, 2, (11, 6, 6)).astype(np.uint8)
    images = (masks * 200 + 20)[..., None].repeat(3, 3).astype(np.uint8)
    images[3] = 255 - images[3]  # answered wrongly throughout
    preprocess = Preprocess(Layout(6, 6, "RGB"), (0.0,) * 3, (1.0,) * 3)
    found = []
    for size in (4, 11):
        loader = Loader(pack(images, masks=masks), np.zeros(11, int), np.arange(11), preprocess, size, masked=True)
        found.append(measure(Threshold(), loader, task().metrics()))
    assert found[0].matrix.tolist() == found[1].matrix.tolist()
    assert found[0].matrix.sum() == 11 * 36
    assert found[0].matrix.diagonal().sum() == 10 * 36
    one, other = (metrics.compute() for metrics in found)
    assert one == pytest.approx(other, rel=1e-5)
    assert one["loss"] == pytest.approx(found[0].nll / (11 * 36) + found[0].dice / 11)
    assert one["accuracy"] == pytest.approx(10 / 11)
    assert one["mean_iou"] == pytest.approx(mean_iou(found[0].matrix))
    assert all(value is not None and math.isfinite(value) for value in one.values())


def test_parts_of_a_batch_have_the_loss_of_the_whole() -> None:
    logits, masks = torch.randn(4, 3, 5, 5), torch.randint(3, (4, 5, 5))
    chosen = task(3, dice=0.7, class_weights=[1, 2, 3])
    halves = [chosen.loss(logits[part], masks[part]) for part in (slice(0, 1), slice(1, 4))]
    whole = chosen.loss(logits, masks)
    torch.testing.assert_close(whole.value(halves[0].sums + halves[1].sums), whole.value(whole.sums))


def test_metrics_of_two_processes_are_those_of_all_images() -> None:
    logits, masks = torch.randn(5, 3, 4, 4), torch.randint(3, (5, 4, 4))
    whole, parts = task(3).metrics(), [task(3).metrics() for _ in range(2)]
    whole.update(logits, masks)
    for metrics, part in zip(parts, (slice(0, 2), slice(2, 5)), strict=True):
        metrics.update(logits[part], masks[part])
    sums = torch.tensor([[m.nll, m.dice, m.count] for m in parts], dtype=torch.float64).sum(0)
    matrix = parts[0].matrix + parts[1].matrix
    for metrics in parts:
        metrics.merge(SimpleNamespace(total=lambda values: sums if values.ndim == 1 else matrix))
        assert metrics.compute() == pytest.approx(whole.compute(), rel=1e-6)
