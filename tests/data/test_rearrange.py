"""data.rearrange: shifted and permuted images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cnnlab
from cnnlab.data.decode import Layout, arrange, rearranged
from cnnlab.data.preprocess import Preprocess
from cnnlab.errors import ConfigError, DataError

RANDOM = np.random.Generator(np.random.PCG64(0))


def image(height: int = 20, width: int = 30, channels: int = 1) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 4])
def test_permuted_pixels_are_the_same_ones_in_the_same_new_places(channels: int) -> None:
    one, two = image(channels=channels), image(channels=channels)
    moved = rearranged(one, "permute")
    assert moved.shape == one.shape and not np.array_equal(moved, one)
    assert sorted(map(tuple, moved.reshape(-1, channels))) == sorted(map(tuple, one.reshape(-1, channels)))
    places = np.arange(20 * 30).reshape(20, 30, 1)
    order = rearranged(places, "permute").ravel()  # type: ignore[arg-type]
    for before in (one, two):
        assert np.array_equal(rearranged(before, "permute").reshape(-1, channels), before.reshape(-1, channels)[order])


def test_a_shift_moves_the_whole_image_by_at_most_15_per_cent() -> None:
    offsets = set()
    for number in range(60):
        pixels = np.zeros((20, 40, 1), np.uint8)
        pixels[10, 20] = 100 + number
        moved = rearranged(pixels, "shift")
        row, column = (int(place[0]) for place in np.nonzero(moved[..., 0]))
        assert moved.sum() == pixels.sum() and np.array_equal(moved, rearranged(pixels, "shift"))
        offsets.add((row - 10, column - 20))
    rows, columns = zip(*offsets, strict=True)
    assert len(offsets) > 30
    assert (min(rows), max(rows), min(columns), max(columns)) == (-3, 3, -6, 6)


def test_the_border_is_lengthened() -> None:
    pixels = np.full((20, 20, 1), 7, np.uint8)
    assert (rearranged(pixels, "shift") == 7).all()


def test_train_and_a_single_image_are_rearranged_alike() -> None:
    plain = cnnlab.load_data("digits", augment="none")
    data = cnnlab.load_data("digits", augment="none", rearrange="permute")
    images, labels = next(iter(data.test))
    original, _ = next(iter(plain.test))
    assert not torch.equal(images, original)
    shown = plain.preprocess.denormalise(original)[0, ..., 0].numpy()
    again = Preprocess.from_dict(data.preprocess.to_dict())(Image.fromarray(shown))
    assert torch.allclose(again, images[0], atol=1e-6)
    assert labels.shape == (len(images),)


def test_layouts_of_before_keep_their_stores() -> None:
    """The name of a store comes from this key."""
    assert Layout(8, 8, "L").key == "Layout(height=8, width=8, mode='L', fit='crop')"
    assert len({Layout(8, 8, "L", "crop", how).key for how in ("none", "shift", "permute")}) == 3


def test_a_run_of_before_can_be_read() -> None:
    values = {"layout": {"height": 8, "width": 8, "mode": "L", "fit": "crop"}, "mean": [0.5], "std": [0.5]}
    assert Preprocess.from_dict(values).layout.rearrange == "none"
    values["layout"]["rearrange"] = "twist"  # type: ignore[index]
    with pytest.raises(DataError, match="damaged"):
        Preprocess.from_dict(values)


def test_arrange_rearranges_last() -> None:
    small = Image.fromarray(image(16, 16)[..., 0])
    plain, permuted = (arrange(small, Layout(8, 8, "RGB", "crop", how)) for how in ("none", "permute"))
    assert np.array_equal(rearranged(plain, "permute"), permuted) and (permuted[..., 3] == 0).all()


def test_what_takes_neighbours_for_granted_is_refused() -> None:
    with pytest.raises(DataError, match=r"leaves no neighbours to move; set augment=none"):
        cnnlab.load_data("digits", augment="light", rearrange="permute")
    with pytest.raises(ConfigError, match=r"data.rearrange must be one of none, shift, permute"):
        cnnlab.load_data("digits", rearrange="twist")


def test_masks_are_refused(tmp_path: Path) -> None:
    from small_sets import write_mnist

    write_mnist(tmp_path)
    with pytest.raises(DataError, match="leaves the classes of pixels behind"):
        cnnlab.load_data("mnist_m_seg", root=tmp_path, rearrange="shift", augment="none", download=False)
