"""Sample images: pixels survive the encoding, sizes fit the box, answers are ranked."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cnnlab.report.images import BOX, EmbeddedImage, channel_grid, embed, top_answers


def decoded(image: EmbeddedImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.uri.split(",")[1]))))


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (32, 32, 3), (64, 48, 3)])
def test_small_image_keeps_every_pixel_and_grows_by_a_whole_factor(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    shown = embed(image)
    assert np.array_equal(decoded(shown), image)
    assert shown.crisp
    assert shown.height % shape[0] == 0 and shown.width % shape[1] == 0
    assert BOX / 2 < max(shown.width, shown.height) <= BOX


def test_photograph_is_shrunk_into_the_box_in_proportion() -> None:
    image = embed(np.full((256, 128, 3), 90, dtype=np.uint8))
    assert (image.width, image.height, image.crisp) == (BOX // 2, BOX, False)
    assert abs(int(decoded(image)[0, 0, 0]) - 90) <= 2


def test_huge_image_does_not_make_a_huge_page() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 1500, 3), dtype=np.uint8)
    assert len(embed(noise).uri) < 150_000


@pytest.mark.parametrize(("shape", "dtype"), [((8, 8), "float32"), ((3, 8, 8), "uint8"), ((8,), "uint8")])
def test_other_shapes_and_types_are_refused(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(ValueError, match="uint8, got"):
        embed(np.zeros(shape, dtype=dtype))


def test_answers_are_the_five_most_probable_and_then_the_true_one() -> None:
    classes = list("abcdefgh")
    answers = top_answers(np.array([0.05, 0.3, 0.01, 0.2, 0.1, 0.25, 0.07, 0.02]), classes, true="c")
    assert "".join(answer.name for answer in answers) == "bfdegc"
    assert [answer.is_true for answer in answers] == [False] * 5 + [True]
    assert answers[-1].probability == pytest.approx(0.01)


def test_true_class_among_the_five_is_not_repeated() -> None:
    answers = top_answers(np.array([0.2, 0.8]), ["a", "b"], true="a")
    assert [(answer.name, answer.is_true) for answer in answers] == [("b", False), ("a", True)]


def test_each_channel_goes_from_black_to_white() -> None:
    maps = np.array([[[-1.0, 0.0], [1.0, 3.0]], [[5.0, 5.0], [5.0, 5.0]]])
    sheet = decoded(channel_grid(maps))
    assert sheet.shape == (64, 2 * 64 + 2)  # 32 pixels for each value, two between the tiles
    assert [sheet[0, 0], sheet[0, 40], sheet[40, 0], sheet[40, 40]] == [0, 64, 128, 255]
    assert (sheet[:, 66:] == 0).all()  # a channel that is the same everywhere


@pytest.mark.parametrize(("count", "side"), [(1, 1), (16, 7), (5, 300)])
def test_channels_of_any_size_make_a_small_sheet(count: int, side: int) -> None:
    maps = np.random.default_rng(0).normal(size=(count, side, side))
    maps[0, 0, 0] = np.inf
    image = channel_grid(maps)
    assert image.width <= 4 * 66 and image.height <= 4 * 66
    assert decoded(image).shape == (image.height, image.width)
