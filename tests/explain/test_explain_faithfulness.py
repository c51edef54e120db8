"""Deletion and insertion on a model whose answer depends on known pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cnnlab.explain.faithfulness import blur, deletion_insertion, random_maps


class Corner(nn.Module):
    """Class 1 is as likely as the upper left quarter is bright; nothing else matters."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, :, :8, :8].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(bright), 8 * bright - 4], dim=1)


def quarter(top: int, left: int) -> Tensor:
    heat = torch.zeros(1, 16, 16)
    heat[:, top : top + 8, left : left + 8] = 1
    return heat


def test_the_map_of_the_pixels_that_matter_is_the_most_faithful() -> None:
    images, targets = torch.ones(1, 3, 16, 16), torch.tensor([1])
    right = deletion_insertion(Corner(), images, quarter(0, 0), targets)
    wrong = deletion_insertion(Corner(), images, quarter(8, 8), targets)
    chance = deletion_insertion(Corner(), images.expand(20, -1, -1, -1), random_maps(20, 16, 16, 0), targets.expand(20))
    assert right["deletion"].item() < chance["deletion"].mean().item() < wrong["deletion"].item()
    # By hand: the quarter is gone after 4 of 16 steps, falling evenly from sigmoid(4) to sigmoid(-4).
    points = torch.sigmoid(torch.tensor([4.0, 2.0, 0.0, -2.0, *[-4.0] * 13]))
    assert right["deletion"].item() == pytest.approx(torch.trapezoid(points, dx=1 / 16).item(), abs=1e-6)


def test_insertion_begins_with_the_blurred_image_and_ends_with_the_image() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[:, :, :8, :8] = 1
    right = deletion_insertion(Corner(), images, quarter(0, 0), torch.tensor([1]))
    wrong = deletion_insertion(Corner(), images, quarter(8, 8), torch.tensor([1]))
    assert right["insertion"].item() > wrong["insertion"].item()
    assert 0 <= wrong["insertion"].item() <= right["insertion"].item() <= 1


def test_equal_values_go_in_random_order_not_from_the_top() -> None:
    images, targets = torch.ones(1, 3, 16, 16), torch.tensor([1])
    flat = deletion_insertion(Corner(), images, torch.zeros(1, 16, 16), targets)["deletion"].item()
    from_top = torch.linspace(1, 0, 256).view(1, 16, 16)
    assert flat == pytest.approx(0.5, abs=0.1)
    assert deletion_insertion(Corner(), images, from_top, targets)["deletion"].item() < flat - 0.1


def test_each_image_is_judged_by_itself() -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.3
    maps, targets = random_maps(3, 16, 16, 4), torch.tensor([1, 0, 1])
    together = deletion_insertion(Corner(), images, maps, targets)
    for i in range(3):
        alone = deletion_insertion(Corner(), images[i : i + 1], maps[i : i + 1], targets[i : i + 1])
        for name in ("deletion", "insertion"):
            assert together[name][i].item() == pytest.approx(alone[name].item(), abs=1e-6)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        deletion_insertion(Corner(), torch.ones(2, 3, 16, 16), torch.ones(2, 8, 8), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="do not fit"):
        deletion_insertion(Corner(), torch.ones(2, 3, 16, 16), torch.ones(2, 16, 16), torch.tensor([1]))


def test_a_blur_keeps_the_mean_of_a_plain_image_and_spreads_a_point() -> None:
    torch.testing.assert_close(blur(torch.full((1, 3, 12, 9), 0.7), 2.0), torch.full((1, 3, 12, 9), 0.7))
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    spread = blur(point, 2.0)
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    assert spread[0, 0, 10, 12] / spread[0, 0, 10, 10] == pytest.approx(torch.exp(torch.tensor(-0.5)).item(), rel=1e-4)


def test_random_maps_are_the_seeds_own_and_smooth() -> None:
    maps = random_maps(4, 32, 32, 7)
    assert maps.shape == (4, 32, 32)
    assert maps.amin() >= 0 and maps.amax() <= 1
    torch.testing.assert_close(maps, random_maps(4, 32, 32, 7))
    assert not torch.allclose(maps, random_maps(4, 32, 32, 8))
    assert (maps[:, 1:] - maps[:, :-1]).abs().amax() < 0.3
