"""The plan of an epoch is a function of (seed, epoch) and of nothing else."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlab.config import AugmentConfig, compose
from cnnlab.data.augment import Augmentation
from cnnlab.data.plan import EpochPlan, plan_epoch, stream

COUNT = 500
EVERYTHING: dict[str, Any] = {
    "flip": "random",
    "crop": "pad",
    "rotation": 10,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "erasing": 0.5,
    "cutout": 0.25,
    "mixup": 0.4,
}


def plan(epoch: int = 0, seed: int = 0, count: int = COUNT, size: tuple[int, int] = (16, 16), **keys: Any) -> EpochPlan:
    return plan_epoch(count, Augmentation(AugmentConfig(**keys), *size), seed, epoch)


def equal(a: EpochPlan, b: EpochPlan) -> bool:
    return torch.equal(a.order, b.order) and a.draws.keys() == b.draws.keys() and all(
        torch.equal(a.draws[name], b.draws[name]) for name in a.draws
    )  # fmt: skip


@pytest.mark.parametrize("keys", [EVERYTHING, {"flip": "alternate", "crop": "resized", "cutmix": 1.0}])
def test_the_same_seed_and_epoch_give_the_same_plan_whatever_was_drawn_before(keys: dict[str, Any]) -> None:
    first = plan(epoch=3, seed=11, **keys)
    np.random.seed(99)
    torch.manual_seed(99)
    plan(epoch=1, seed=2, **keys)
    assert equal(first, plan(epoch=3, seed=11, **keys))


@pytest.mark.parametrize("other", [{"epoch": 4}, {"seed": 12}])
def test_another_seed_or_epoch_changes_the_order_and_every_draw(other: dict[str, int]) -> None:
    one = plan(epoch=3, seed=11, **EVERYTHING)
    two = plan(**{"epoch": 3, "seed": 11} | other, **EVERYTHING)
    assert not torch.equal(one.order, two.order)
    assert [name for name in one.draws if torch.equal(one.draws[name], two.draws[name])] == []


def test_the_random_numbers_of_torch_and_numpy_are_left_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(3), np.random.random(3)
    torch.manual_seed(0)
    np.random.seed(0)
    plan(**EVERYTHING)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.random(3), expected[1])


@pytest.mark.parametrize("added", EVERYTHING)
def test_one_more_kind_of_draw_leaves_the_others_as_they_were(added: str) -> None:
    without = plan(epoch=2, **{key: value for key, value in EVERYTHING.items() if key != added})
    everything = plan(epoch=2, **EVERYTHING)
    assert torch.equal(without.order, everything.order)
    assert len(without.draws) < len(everything.draws)
    for name, draw in without.draws.items():
        assert torch.equal(draw, everything.draws[name]), name


def test_the_order_visits_each_image_once_and_differs_each_epoch() -> None:
    orders = [plan(epoch=epoch).order for epoch in range(5)]
    for order in orders:
        assert order.dtype == torch.int64
        assert torch.equal(order.sort().values, torch.arange(COUNT))
    assert len({tuple(order.tolist()) for order in orders}) == 5


def test_without_augmentation_nothing_is_drawn() -> None:
    bare = plan_epoch(COUNT, None, 0, 0)
    assert bare.draws == {}
    assert torch.equal(bare.order, plan(**EVERYTHING).order)
    assert plan().draws == {}


@given(st.integers(1, 40), st.integers(0, 2**63), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_draws_have_a_row_for_each_image(count: int, seed: int, epoch: int) -> None:
    made = plan(epoch, seed, count, **EVERYTHING)
    assert len(made.order) == count
    assert {len(draw) for draw in made.draws.values()} == {count}


def test_streams_of_different_purposes_are_independent() -> None:
    purposes = [
        "order",
        "flip",
        "top",
        "left",
        "box",
        "erasing",
        "erasing box",
        "mix",
        "partner",
        "cutmix",
        "alternate",
    ]
    values = np.stack([stream(0, 0, purpose).random(4000) for purpose in purposes])
    correlation = np.corrcoef(values) - np.eye(len(purposes))
    assert abs(correlation).max() < 0.08  # five standard deviations


# what is drawn


def test_a_random_flip_mirrors_half_of_the_images() -> None:
    flips = torch.stack([plan(epoch=epoch, flip="random").draws["flip"] for epoch in range(20)])
    assert flips.dtype == torch.bool
    assert abs(flips.float().mean() - 0.5) < 0.025


def by_member(made: EpochPlan, name: str) -> torch.Tensor:
    """The draw of each image, in the order of the split."""
    values = torch.empty_like(made.draws[name])
    values[made.order] = made.draws[name]
    return values


def test_alternate_flip_changes_sides_every_epoch_and_starts_on_either_side() -> None:
    sides = [by_member(plan(epoch=epoch, flip="alternate"), "flip") for epoch in range(6)]
    for before, after in itertools.pairwise(sides):
        assert torch.equal(after, ~before)
    assert 0.4 < sides[0].float().mean() < 0.6
    other = by_member(plan(seed=1, flip="alternate"), "flip")
    assert not torch.equal(other, sides[0])


def test_alternate_flip_of_an_image_drawn_twice_is_the_same_side() -> None:
    augmentation = Augmentation(AugmentConfig(flip="alternate"), 8, 8)
    sides: list[dict[int, bool]] = []
    for epoch in range(2):
        made = plan_epoch(50, augmentation, 0, epoch, np.r_[np.ones(25), np.full(25, 9.0)])
        pairs = set(zip(made.order.tolist(), made.draws["flip"].tolist(), strict=True))
        assert len(pairs) == len({member for member, _ in pairs})
        sides.append(dict(pairs))
    shared = sides[0].keys() & sides[1].keys()
    assert len(shared) > 5
    assert all(sides[0][member] != sides[1][member] for member in shared)


def test_a_padded_crop_moves_up_to_the_border_both_ways() -> None:
    draws = plan(crop="pad", padding=0.125, size=(16, 32), count=4000).draws
    for name, border in (("top", 2), ("left", 4)):
        values, times = draws[name].unique(return_counts=True)
        assert values.tolist() == list(range(-border, border + 1))
        assert abs(times / 4000 - 1 / len(values)).max() < 0.03


def test_resized_crops_lie_inside_with_area_and_aspect_as_asked() -> None:
    keys = {"crop": "resized", "scale": [0.25, 0.5], "ratio": [0.8, 1.25]}
    top, left, height, width = plan(count=4000, **keys).draws["box"].unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6
    area, ratio = height * width, width / height
    assert 0.25 - 1e-5 <= area.min() < 0.26
    assert 0.49 < area.max() <= 0.5 + 1e-5
    assert abs(area.mean() - 0.375) < 0.01
    assert 0.8 - 1e-4 <= ratio.min() < 0.82
    assert 1.22 < ratio.max() <= 1.25 + 1e-4
    assert abs(ratio.log().mean()) < 0.01
    free = (height < 0.9) & (width < 0.9)
    assert abs((top / (1 - height))[free].mean() - 0.5) < 0.03


def test_boxes_longer_than_the_image_are_cut_to_it() -> None:
    boxes = plan(count=2000, crop="resized", scale=[0.9, 1.0], ratio=[0.5, 2.0]).draws["box"]
    assert boxes[:, 2:].max() <= 1
    assert ((boxes[:, :2] + boxes[:, 2:]) <= 1 + 1e-6).all()


def pixel_matrices(size: tuple[int, int], **keys: float) -> np.ndarray:
    """(n, 2, 2) of the affine draws, in pixels instead of shares of the sides."""
    height, width = size
    matrices = plan(size=size, count=2000, **keys).draws["affine"].numpy().astype(float)[:, :, :2]
    to_pixels = np.diag([width / 2, height / 2])
    return to_pixels @ matrices @ np.linalg.inv(to_pixels)


@pytest.mark.parametrize("size", [(16, 16), (16, 48), (48, 16)])
def test_a_rotation_is_a_rotation_in_pixels_up_to_its_angle(size: tuple[int, int]) -> None:
    matrices = pixel_matrices(size, rotation=30)
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), np.tile(np.eye(2), (2000, 1, 1)), atol=1e-5)
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert -30 <= angles.min() < -29
    assert 29 < angles.max() <= 30
    assert abs(angles.mean()) < 2


@pytest.mark.parametrize("size", [(16, 16), (16, 48), (48, 16)])
def test_a_shear_leans_by_its_angle_in_pixels(size: tuple[int, int]) -> None:
    matrices = pixel_matrices(size, shear=20)
    np.testing.assert_allclose(matrices[:, [0, 1], [0, 1]], 1, atol=1e-6)
    angles = np.degrees(np.arctan(matrices[:, 0, 1]))
    assert -20.001 <= angles.min() < -19
    assert 19 < angles.max() <= 20.001


def test_a_zoom_scales_both_sides_alike() -> None:
    matrices = pixel_matrices((16, 24), zoom=0.2)
    scale = 1 / matrices[:, 0, 0]  # the matrix leads from the new image to the old one
    np.testing.assert_allclose(matrices[:, 0, 0], matrices[:, 1, 1], rtol=1e-5)
    assert 0.8 - 1e-5 <= scale.min() < 0.81
    assert 1.19 < scale.max() <= 1.2 + 1e-5


def test_a_shift_is_a_share_of_the_side() -> None:
    shift = plan(count=2000, translate=0.1).draws["affine"][:, :, 2] / 2  # coordinates run from −1 to 1
    assert shift.abs().max() <= 0.1 + 1e-6
    assert (shift.abs().amax(0) > 0.099).all()


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_factors_lie_around_1_and_never_below_0(name: str) -> None:
    factors = plan(count=2000, **{name: 0.4}).draws[name]
    assert 0.6 - 1e-6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4 + 1e-6
    assert plan(count=2000, **{name: 3.0}).draws[name].min() == 0


def test_erasing_hits_as_often_as_asked() -> None:
    boxes = plan(count=4000, erasing=0.25).draws["erasing"]
    hit = boxes[:, 2] > 0
    assert abs(hit.float().mean() - 0.25) < 0.035
    area = boxes[hit, 2] * boxes[hit, 3]
    assert 0.01 < area.min() < area.max() < 0.34


def test_a_cutout_is_a_square_of_its_side_around_any_pixel() -> None:
    boxes = plan(count=2000, cutout=0.5).draws["cutout"]
    assert torch.equal(boxes[:, 2:], torch.full((2000, 2), 0.5))
    centre = boxes[:, :2] + 0.25
    assert 0 <= centre.min() < 0.01
    assert 0.99 < centre.max() <= 1


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
def test_the_mix_is_a_beta_distribution_and_each_image_is_a_partner_once(key: str) -> None:
    draws = plan(count=4000, **{key: 0.5}).draws
    share = draws["mix"].double()
    assert abs(share.mean() - 0.5) < 0.03
    assert abs(share.var() - 0.125) < 0.01  # Beta(a, a) has the variance 1 / (4 (2 a + 1))
    assert torch.equal(draws["partner"].sort().values, torch.arange(4000))


def test_a_cutmix_box_has_the_area_of_the_other_image_unless_the_border_cuts_it() -> None:
    draws = plan(count=4000, cutmix=1.0).draws
    box, share = draws["cutmix"], draws["mix"]
    assert box[:, :2].min() >= 0
    assert (box[:, :2] + box[:, 2:]).max() <= 1 + 1e-6
    area = box[:, 2] * box[:, 3]
    assert (area <= 1 - share + 1e-5).all()
    inside = (box[:, :2] > 0).all(1) & (box[:, :2] + box[:, 2:] < 1).all(1)
    assert inside.sum() > 500
    torch.testing.assert_close(area[inside], 1 - share[inside], rtol=1e-3, atol=1e-4)


def test_weights_choose_how_often_an_image_comes() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    weights = 1 / np.bincount(labels)[labels]
    orders = [plan_epoch(1000, None, 0, epoch, weights).order for epoch in range(5)]
    shares = np.bincount(np.concatenate([labels[order] for order in orders]), minlength=3) / 5000
    assert abs(shares - 1 / 3).max() < 0.035
    assert len(orders[0]) == 1000
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], plan_epoch(1000, None, 0, 0, weights).order)


def test_an_image_of_weight_0_never_comes() -> None:
    order = plan_epoch(100, None, 0, 0, np.r_[0.0, np.ones(99)]).order
    assert 0 not in order


@pytest.mark.parametrize("name", ["none", "light", "standard", "strong"])
@pytest.mark.parametrize("size", [(8, 8), (64, 96), (1, 1)])
def test_every_shipped_augmentation_plans_finite_numbers(name: str, size: tuple[int, int]) -> None:
    made = plan_epoch(64, Augmentation(compose([f"augment={name}"]).augment, *size), 0, 0)
    assert bool(made.draws) == (name != "none")
    for draw in made.draws.values():
        assert torch.isfinite(draw.double()).all()
    assert ("box" in made.draws) == (name in ("standard", "strong") and min(size) >= 64)


def test_the_angle_is_in_degrees() -> None:
    matrices = pixel_matrices((8, 8), rotation=90)
    assert abs(matrices[:, 0, 0]).max() <= 1 + 1e-6
    assert matrices[:, 0, 0].min() > -math.sin(math.radians(1))
