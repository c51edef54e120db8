"""A batch is drawn as it is: each image with its own label, in its own colours, also with awkward names."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from cnnlab.data.decode import Layout
from cnnlab.data.load import load_data
from cnnlab.data.preprocess import Preprocess
from cnnlab.data.show import show_batch


def batch(count: int = 5, channels: int = 3, side: int = 8) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def drawn(figure: Figure) -> list[tuple[str, np.ndarray]]:
    """(title, pixels) of each place that shows an image."""
    return [(axis.get_title(), np.asarray(axis.images[0].get_array())) for axis in figure.axes if axis.images]


def test_each_image_has_its_label() -> None:
    shown = drawn(show_batch(batch(), torch.tensor([2, 0, 1, 1, 2]), ["ant", "bee", "cat"]))
    assert [title for title, _ in shown] == ["cat", "ant", "bee", "bee", "cat"]
    assert [title for title, _ in drawn(show_batch(batch(3), [7, 8, 9]))] == ["7", "8", "9"]


def test_the_normalisation_is_undone() -> None:
    preprocess = Preprocess(Layout(8, 8, "RGB"), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    stored = torch.randint(0, 256, (3, 8, 8, 4), dtype=torch.uint8)
    shown = drawn(show_batch(preprocess.normalise(stored), [0, 1, 2], preprocess=preprocess))
    for (_, pixels), original in zip(shown, stored, strict=True):
        np.testing.assert_array_equal(pixels, original[..., :3])


def test_without_a_preprocess_each_image_is_stretched_to_its_own_range() -> None:
    images = batch(3) * torch.tensor([1.0, 100, 1e-3]).view(3, 1, 1, 1) - 5
    for (_, pixels), image in zip(drawn(show_batch(images, [0, 1, 2])), images, strict=True):
        assert (pixels.min(), pixels.max()) == (0, 255)
        place = np.unravel_index(int(image.permute(1, 2, 0).reshape(-1).argmax()), (8, 8, 3))
        assert pixels[place] == 255


def test_grey_images_are_drawn_grey_from_black_to_white() -> None:
    preprocess = Preprocess(Layout(8, 8, "L"), (0.5,), (0.2,))
    stored = torch.randint(100, 120, (2, 8, 8, 1), dtype=torch.uint8)
    figure = show_batch(preprocess.normalise(stored), [0, 1], preprocess=preprocess)
    for axis, original in zip(figure.axes, stored, strict=True):
        image = axis.images[0]
        np.testing.assert_array_equal(image.get_array(), original[..., 0])
        assert image.get_cmap().name == "gray"
        assert image.get_clim() == (0, 255)


@pytest.mark.parametrize(("count", "columns", "places"), [(1, 8, 1), (5, 8, 5), (9, 8, 16), (7, 3, 9), (8, 1, 8)])
def test_the_grid_has_room_for_all_and_no_frame_around_nothing(count: int, columns: int, places: int) -> None:
    figure = show_batch(batch(count), list(range(count)), columns=columns)
    assert len(figure.axes) == places
    assert len(drawn(figure)) == count
    assert not any(axis.axison for axis in figure.axes)


def test_at_most_the_limit_is_drawn() -> None:
    assert len(drawn(show_batch(batch(70), list(range(70))))) == 64
    shown = drawn(show_batch(batch(70), list(range(70)), limit=3))
    assert [title for title, _ in shown] == ["0", "1", "2"]


def test_an_empty_batch_is_an_empty_figure() -> None:
    assert drawn(show_batch(batch(0), [])) == []


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_it_is_saved_where_asked(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"ü grid.{ending}"
    show_batch(batch(), [0, 1, 2, 0, 1], ["a", "b", "c"], path=path)
    start = path.read_bytes()[:5]
    assert start == {"png": b"\x89PNG\r", "svg": b"<?xml", "pdf": b"%PDF-"}[ending]
    if ending == "png":
        assert np.asarray(Image.open(path).convert("L")).std() > 10


NAMES = ["cash$_{$", "a_b^c", r"\frac", "$$", "<b>&amp;", "two\nlines", "", "日本", "x" * 80, "100 %"]


@pytest.mark.parametrize("name", NAMES)
def test_any_class_name_can_be_drawn_as_it_is(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sign that the font lacks is drawn as a box
        figure = show_batch(batch(2), [0, 1], [name, "plain"], path=tmp_path / "grid.png")
    title = drawn(figure)[0][0]
    assert title == name or title.split("\n") == ["x" * 18] * 3 + ["x" * 17 + "…"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("cat", ["cat"]),
        ("yellow_shafted_flicker_male", ["yellow_shafted_", "flicker_male"]),
        ("American Staffordshire-Terrier", ["American", "Staffordshire-", "Terrier"]),
        ("Donaudampfschifffahrtsgesellschaft", ["Donaudampfschifffa", "hrtsgesellschaft"]),
    ],
)
def test_long_class_names_take_several_lines_and_lose_nothing(name: str, lines: list[str]) -> None:
    assert drawn(show_batch(batch(2), [0, 1], [name, "plain"]))[0][0].split("\n") == lines


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_floating_point_type_is_drawn(dtype: torch.dtype) -> None:
    ((_, pixels),) = drawn(show_batch(batch(1).to(dtype), [0]))
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_a_batch_that_needs_a_gradient_is_drawn_and_left_as_it_is() -> None:
    images = batch(2).requires_grad_()
    before = images.detach().clone()
    assert len(drawn(show_batch(images, [0, 1]))) == 2
    assert torch.equal(images, before)


def test_a_flat_image_is_drawn() -> None:
    ((_, pixels),) = drawn(show_batch(torch.full((1, 3, 4, 4), 7.0), [0]))
    assert len(np.unique(pixels)) == 1


def test_one_augmented_batch_of_digits(tmp_path: Path) -> None:
    data = load_data("digits", limit=40, batch_size=16)
    images, labels = next(iter(data.train))
    figure = show_batch(images, labels, data.classes, data.preprocess, tmp_path / "batch.png")
    assert [title for title, _ in drawn(figure)] == [data.classes[int(label)] for label in labels]
    expected = data.preprocess.denormalise(images)[..., 0]
    for (_, pixels), original in zip(drawn(figure), expected, strict=True):
        np.testing.assert_array_equal(pixels, original)


def test_a_notebook_shows_the_figure_by_itself() -> None:
    figure = show_batch(torch.rand(2, 1, 8, 8), [0, 1])
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
