"""Each transform against a slow oracle, torchvision, or numbers worked out by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from cnnlab.config import AugmentConfig
from cnnlab.data.augment import (
    Augmentation,
    affine,
    affine_axes,
    batched_crop,
    box_axes,
    box_mask,
    brightness,
    contrast,
    crop_axes,
    grey,
    reflect,
    resized_crop,
    saturation,
    shift_axes,
    take_pixels,
    windows,
)
from cnnlab.errors import ConfigError


def random_images(count: int, height: int, width: int, channels: int, seed: int = 0) -> Tensor:
    """Random stored images; the fourth byte is not 0, to see that it does no harm."""
    values = np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    return torch.from_numpy(values)


def shifted(images: Tensor, rows: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding_mode: str) -> Tensor:
    height, width = images.shape[1:3]
    return take_pixels(images, shift_axes(rows, top, left, flip, height, width, padding_mode))


def cropped(images: Tensor, rows: Tensor, boxes: Tensor, flip: Tensor, height: int, width: int) -> Tensor:
    full_height, full_width = images.shape[1:3]
    return resized_crop(images, rows, windows(boxes, full_height, full_width), flip, height, width)


def turned_by(images: Tensor, matrices: Tensor, padding_mode: str) -> Tensor:
    height, width = images.shape[2:]
    y, x = affine_axes(matrices, height, width)
    return affine(images, y[:, :, None] + x[:, None], padding_mode)


def mirrored(position: int, size: int) -> int:
    """The pixel that an image mirrored at its first and last pixel shows at `position`."""
    if size == 1:
        return 0
    position %= 2 * size - 2
    return position if position < size else 2 * size - 2 - position


def slow_take(
    images: np.ndarray, rows: list[int], top: list[int], left: list[int], flip: list[bool], padding_mode: str
) -> np.ndarray:
    """Pixel by pixel: pad, cut the window out, mirror the window."""
    _, height, width, channels = images.shape
    out = np.zeros((len(rows), height, width, channels), np.uint8)
    for i, row in enumerate(rows):
        for y, x in itertools.product(range(height), range(width)):
            from_y, from_x = top[i] + y, left[i] + (width - 1 - x if flip[i] else x)
            inside = 0 <= from_y < height and 0 <= from_x < width
            if inside:
                out[i, y, x] = images[row, from_y, from_x]
            elif padding_mode == "reflect":
                out[i, y, x] = images[row, mirrored(from_y, height), mirrored(from_x, width)]
    return out


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_take_pixels_equals_a_slow_per_pixel_oracle(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    images = random_images(4, height, width, data.draw(st.sampled_from([1, 4])), data.draw(st.integers(0, 9)))
    batch = data.draw(st.integers(1, 5))

    def several(values: st.SearchStrategy) -> list:  # type: ignore[type-arg]
        return data.draw(st.lists(values, min_size=batch, max_size=batch))

    rows = several(st.integers(0, 3))
    top = several(st.integers(-(height - 1), height - 1))
    left = several(st.integers(-(width - 1), width - 1))
    flip = several(st.booleans())
    mode = data.draw(st.sampled_from(["reflect", "zero"]))
    taken = shifted(images, torch.tensor(rows), torch.tensor(top), torch.tensor(left), torch.tensor(flip), mode)
    assert taken.dtype == torch.uint8
    np.testing.assert_array_equal(taken.numpy(), slow_take(images.numpy(), rows, top, left, flip, mode))


def test_take_pixels_on_a_ramp() -> None:
    ramp = torch.arange(4, dtype=torch.uint8).view(1, 1, 4, 1)
    still, row = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)

    def taken(left: int, flip: bool, mode: str) -> list[int]:
        return shifted(ramp, row, still, torch.tensor([left]), torch.tensor([flip]), mode).flatten().tolist()

    assert taken(0, False, "zero") == [0, 1, 2, 3]
    assert taken(0, True, "zero") == [3, 2, 1, 0]
    assert taken(-2, False, "zero") == [0, 0, 0, 1]
    assert taken(2, False, "zero") == [2, 3, 0, 0]
    assert taken(-2, False, "reflect") == [2, 1, 0, 1]
    assert taken(2, False, "reflect") == [2, 3, 2, 1]
    assert taken(2, True, "reflect") == [1, 2, 3, 2]


def test_a_shift_beyond_the_image_is_black_or_stays_inside_it() -> None:
    images = random_images(1, 3, 3, 4)
    far = torch.tensor([-50])
    arguments = images, torch.tensor([0]), far, far, torch.tensor([False])
    assert not shifted(*arguments, "zero").any()
    assert shifted(*arguments, "reflect").shape == images.shape


def test_take_pixels_reads_a_memory_map(tmp_path: Path) -> None:
    images = random_images(5, 6, 7, 4)
    images.numpy().tofile(tmp_path / "pixels.u8")
    mapped = torch.from_numpy(np.memmap(tmp_path / "pixels.u8", np.uint8, "r+", shape=(5, 6, 7, 4)))
    arguments = (
        torch.tensor([4, 0, 2]),
        torch.tensor([1, -1, 0]),
        torch.tensor([0, 2, -2]),
        torch.tensor([True, False, True]),
    )
    assert torch.equal(shifted(mapped, *arguments, "reflect"), shifted(images, *arguments, "reflect"))


def test_reflect_is_that_of_numpy() -> None:
    for size in range(1, 8):
        border = size - 1
        padded = np.pad(np.arange(size), border, mode="reflect")
        assert reflect(torch.arange(-border, size + border), size).tolist() == padded.tolist()


# random resized crop


def crop_by_torchvision(image: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """(H, W, C) uint8 → (h, w, C) uint8; box in pixels."""
    return vision.resized_crop(image.permute(2, 0, 1), *box, list(size), antialias=True).permute(1, 2, 0)


BOXES = [(0, 0, 40, 60), (0, 0, 20, 30), (5, 7, 33, 20), (39, 59, 1, 1), (10, 0, 3, 60), (0, 11, 40, 2)]


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("size", [(16, 16), (24, 50), (7, 90)])
def test_resized_crop_agrees_with_torchvision_to_a_level(channels: int, size: tuple[int, int]) -> None:
    images = random_images(len(BOXES), 40, 60, channels)
    shares = torch.tensor(BOXES) / torch.tensor([40, 60, 40, 60])
    rows = torch.arange(len(BOXES)).flip(0)
    flip = torch.arange(len(BOXES)) % 2 == 1
    ours = cropped(images, rows, shares, flip, *size)
    assert ours.shape == (len(BOXES), *size, channels)
    assert ours.dtype == torch.uint8
    for i, box in enumerate(BOXES):
        theirs = crop_by_torchvision(images[rows[i]], box, size)
        theirs = theirs.flip(1) if flip[i] else theirs
        assert (ours[i].int() - theirs.int()).abs().max() <= 1


def test_the_whole_image_at_its_own_size_is_the_image() -> None:
    images = random_images(3, 12, 9, 4)
    whole = torch.tensor([[0.0, 0, 1, 1]]).expand(3, 4)
    still = torch.zeros(3, dtype=torch.bool)
    assert torch.equal(cropped(images, torch.arange(3), whole, still, 12, 9), images)
    assert torch.equal(cropped(images, torch.arange(3), whole, ~still, 12, 9), images.flip(2))


def test_a_box_of_nothing_is_still_a_pixel() -> None:
    images = random_images(1, 10, 10, 4)
    for corner in (0.0, 0.999, 1.0):
        box = torch.tensor([[corner, corner, 0.0, 0.0]])
        cut = cropped(images, torch.tensor([0]), box, torch.tensor([False]), 4, 4)
        place = min(9, round(10 * corner))
        assert (cut == images[0, place, place]).all()


def test_resized_crop_leaves_its_arguments_alone() -> None:
    images, boxes = random_images(2, 10, 10, 4), torch.tensor([[0.11, 0.2, 0.5, 0.7], [0.0, 0.0, 1, 1]])
    before = images.clone(), boxes.clone()
    cropped(images, torch.arange(2), boxes, torch.tensor([True, False]), 5, 5)
    assert torch.equal(images, before[0])
    assert torch.equal(boxes, before[1])


@pytest.mark.parametrize("size", [(16, 16), (24, 50), (7, 90), (40, 60)])
def test_the_crop_for_accelerators_gives_the_same_pixels(size: tuple[int, int]) -> None:
    """But for levels that are rounded the other way: the processor's weights are whole numbers."""
    images = random_images(len(BOXES), 40, 60, 4)
    shares = torch.tensor(BOXES) / torch.tensor([40, 60, 40, 60])
    flip = torch.arange(len(BOXES)) % 2 == 1
    ours = cropped(images, torch.arange(len(BOXES)), shares, flip, *size)
    batched = batched_crop(images, crop_axes(torch.arange(len(BOXES)), windows(shares, 40, 60), flip, (40, 60), *size))
    assert batched.dtype == torch.uint8 and batched.shape == ours.shape
    difference = (batched.int() - ours.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.05


# affine


def floats(count: int = 2, channels: int = 3, height: int = 9, width: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, height, width, generator=generator)


@pytest.mark.parametrize("padding_mode", ["zero", "reflect"])
def test_the_identity_changes_nothing(padding_mode: str) -> None:
    images = floats(height=7, width=10)
    identity = torch.eye(2, 3).expand(2, 2, 3)
    torch.testing.assert_close(turned_by(images, identity, padding_mode), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(5, 8), (1, 3)])
def test_the_places_are_those_of_affine_grid(size: tuple[int, int]) -> None:
    matrices = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    y, x = affine_axes(matrices, *size)
    theirs = F.affine_grid(matrices, [4, 1, *size], align_corners=False)
    torch.testing.assert_close(y[:, :, None] + x[:, None], theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_is_rot90(turns: int) -> None:
    images = floats()
    cos, sin = round(np.cos(turns * np.pi / 2)), round(np.sin(turns * np.pi / 2))
    matrices = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(2, 2, 3)
    turned = turned_by(images, matrices, "zero")
    # the matrix leads from the new image to the old one: the upper right corner (1, −1) shows the old (1, 1)
    torch.testing.assert_close(turned, torch.rot90(images, turns, (2, 3)), atol=1e-5, rtol=0)


def test_each_image_has_its_own_matrix() -> None:
    images = floats()
    matrices = torch.stack([torch.eye(2, 3), torch.tensor([[-1.0, 0, 0], [0, 1, 0]])])
    moved = turned_by(images, matrices, "zero")
    torch.testing.assert_close(moved[0], images[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[1], images[1].flip(2), atol=1e-5, rtol=0)


def test_a_shift_fills_with_zero_or_with_the_mirror_image() -> None:
    ramp = torch.arange(1.0, 5).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    by_one = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]])  # half a unit of 2/4: one pixel to the right in the old image
    torch.testing.assert_close(
        turned_by(ramp, by_one, "zero")[0, 0, 0], torch.tensor([2.0, 3, 4, 0]), atol=1e-5, rtol=0
    )
    mirror = turned_by(ramp, by_one, "reflect")[0, 0, 0]
    torch.testing.assert_close(mirror[:3], torch.tensor([2.0, 3, 4]), atol=1e-5, rtol=0)
    assert mirror[3] >= 3 - 1e-5


# colours


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.4])
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_operations_agree_with_torchvision(factor: float, channels: int) -> None:
    images = floats(channels=channels)
    factors = torch.full((2,), factor)
    pairs = [
        (brightness, vision.adjust_brightness),
        (contrast, vision.adjust_contrast),
        (saturation, vision.adjust_saturation),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours(images, factors), theirs(images, factor), atol=1e-3, rtol=0)


@pytest.mark.parametrize("change", [brightness, contrast, saturation])
def test_each_image_has_its_own_factor_and_stays_in_range(change: object) -> None:
    images = floats(3)
    assert callable(change)
    changed = change(images, torch.tensor([1.0, 3.0, 0.0]))
    torch.testing.assert_close(changed[0], images[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(changed[1:2], change(images[1:2], torch.tensor([3.0])))
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.equal(changed[1], images[1])


def test_grey_is_the_luma_of_bt_601() -> None:
    primaries = torch.eye(3).view(3, 3, 1, 1)
    torch.testing.assert_close(grey(primaries).flatten(), torch.tensor([0.299, 0.587, 0.114]))
    one = floats(channels=1)
    assert torch.equal(grey(one), one)


# boxes


def test_a_box_holds_the_pixels_whose_centre_is_inside() -> None:
    boxes = torch.tensor(
        [[0.25, 0.5, 0.5, 0.25], [0, 0, 1, 1], [0, 0, 0, 0], [-0.25, 0.75, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]]
    )
    masks = box_mask(*box_axes(boxes, 4, 8))
    assert masks.shape == (5, 1, 4, 8)
    expected = torch.zeros(5, 1, 4, 8, dtype=torch.bool)
    expected[0, 0, 1:3, 4:6] = True
    expected[1] = True
    expected[3, 0, :1, 6:] = True
    expected[4, 0, 0, 1] = True  # centres: rows 0.125, 0.375, …; columns 0.0625, 0.1875, …
    assert torch.equal(masks, expected)


def test_the_area_of_a_mask_is_that_of_the_box() -> None:
    boxes = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    area = box_mask(*box_axes(boxes, 200, 300)).float().mean((1, 2, 3))
    torch.testing.assert_close(area, boxes[:, 2] * boxes[:, 3], atol=0.006, rtol=0)


# settings


@pytest.mark.parametrize(("side", "crop"), [(8, "pad"), (63, "pad"), (64, "resized"), (128, "resized")])
def test_auto_pads_small_images_and_resizes_large_ones(side: int, crop: str) -> None:
    assert Augmentation(AugmentConfig(crop="auto"), side, 200).crop == crop
    assert Augmentation(AugmentConfig(crop="none"), side, side).crop == "none"


def test_the_border_is_a_share_of_the_side_and_a_pixel_at_least() -> None:
    assert Augmentation(AugmentConfig(padding=0.125), 32, 64).border == (4, 8)
    assert Augmentation(AugmentConfig(padding=0.125), 3, 2).border == (1, 1)


def test_cutting_out_and_masking_agree_on_where_a_box_is() -> None:
    images = torch.zeros(1, 8, 8, 1, dtype=torch.uint8)
    images[0, 2:4, 4:8] = 255
    box = torch.tensor([[0.25, 0.5, 0.25, 0.5]])
    cut = cropped(images, torch.tensor([0]), box, torch.tensor([False]), 4, 4)
    assert (cut == 255).all()
    assert torch.equal(box_mask(*box_axes(box, 8, 8))[0, 0], images[0, :, :, 0] == 255)


# ---- images that grow


@pytest.mark.parametrize(
    ("progress", "sides"), [(0.0, (64, 32)), (0.3, (80, 40)), (0.75, (112, 56)), (0.9, (112, 56)), (1.0, (112, 56))]
)
def test_images_grow_in_eighths_over_three_quarters_of_the_training(progress: float, sides: tuple[int, int]) -> None:
    grown = Augmentation(AugmentConfig(start_size=0.5, end_size=0.875), 128, 64).at(progress)
    assert (grown.height, grown.width) == sides


def test_images_that_begin_small_are_cropped_as_the_full_size_is() -> None:
    augmentation = Augmentation(AugmentConfig(crop="auto", start_size=0.5), 96, 96)
    assert augmentation.at(0.0).height == 48  # alone, it would be padded
    assert augmentation.at(0.0).crop == augmentation.crop == "resized"


def test_by_default_images_keep_their_size() -> None:
    augmentation = Augmentation(AugmentConfig(), 30, 7)
    assert augmentation.at(0.0) == augmentation.at(1.0) == augmentation


@pytest.mark.parametrize("key", ["start_size", "end_size"])
@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_of_the_side_is_an_eighth_to_one(key: str, share: float) -> None:
    with pytest.raises(ConfigError, match=f"augment.{key} must be from 0.125 to 1"):
        AugmentConfig(**{key: share})  # type: ignore[arg-type]
