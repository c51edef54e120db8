"""The one evaluation transform: file → resize → crop → normalise, worked out by hand, kept and read back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnnlab.data.decode import Layout
from cnnlab.data.preprocess import Preprocess
from cnnlab.errors import DataError

COLOUR = Preprocess(Layout(3, 4, "RGB"), (0.5, 0.25, 0.1), (0.2, 0.5, 0.125))
GREY = Preprocess(Layout(3, 4, "L"), (0.25,), (0.5,))
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)


def test_an_image_is_normalised_as_worked_out_by_hand(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    image = COLOUR(tmp_path / "a.png")
    assert image.shape == (3, 3, 4)
    assert image.dtype == torch.float32
    expected = (PIXELS / 255 - [0.5, 0.25, 0.1]) / [0.2, 0.5, 0.125]
    np.testing.assert_allclose(image.permute(1, 2, 0), expected, atol=1e-5)


def test_known_numbers() -> None:
    one = Preprocess(Layout(1, 1, "RGB"), (0.0, 0.2, 1.0), (1.0, 0.4, 0.5))
    assert one(Image.new("RGB", (9, 9), (255, 51, 0))).flatten().tolist() == pytest.approx([1, 0, -2], abs=1e-6)


def test_path_string_bytes_and_image_agree(tmp_path: Path) -> None:
    file = tmp_path / "ü.png"
    Image.fromarray(PIXELS).save(file)
    expected = COLOUR(file)
    for source in (str(file), file.read_bytes(), Image.open(file), Image.fromarray(PIXELS)):
        assert torch.equal(COLOUR(source), expected)


def test_a_pillow_image_is_turned_upright_as_its_file_is(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=tags)
    tall = Preprocess(Layout(4, 3, "RGB"), (0.0,) * 3, (1.0,) * 3)
    assert torch.equal(tall(Image.open(tmp_path / "a.png")), tall(tmp_path / "a.png"))
    np.testing.assert_allclose(tall(tmp_path / "a.png").permute(1, 2, 0) * 255, np.rot90(PIXELS, -1), atol=1e-3)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "I;16", "F", "YCbCr"])
@pytest.mark.parametrize("preprocess", [COLOUR, GREY])
def test_any_mode_of_image_fits_any_layout(mode: str, preprocess: Preprocess) -> None:
    image = Image.new(mode, (20, 30))
    tensor = preprocess(image)
    assert tensor.shape == (preprocess.layout.channels, 3, 4)
    assert torch.isfinite(tensor).all()


def test_a_colour_image_in_a_grey_layout_is_its_luma() -> None:
    level = float(GREY(Image.new("RGB", (8, 6), (200, 100, 50)))[0, 1, 1]) * 0.5 + 0.25
    assert level * 255 == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1)


def test_normalise_is_channels_last_and_ignores_the_fourth_byte() -> None:
    stored = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    before = stored.clone()
    images = COLOUR.normalise(stored)
    assert images.shape == (5, 3, 3, 4)
    assert images.is_contiguous(memory_format=torch.channels_last)
    other = stored.clone()
    other[..., 3] = 0
    assert torch.equal(COLOUR.normalise(other), images)
    assert torch.equal(stored, before)


@pytest.mark.parametrize("preprocess", [COLOUR, GREY])
def test_denormalise_undoes_normalise_to_the_level(preprocess: Preprocess) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    stored = levels.expand(256, 3, 4, preprocess.layout.stored_channels).contiguous()
    channels = preprocess.layout.channels
    assert torch.equal(preprocess.denormalise(preprocess.normalise(stored)), stored[..., :channels])


def test_denormalise_cuts_what_lies_beyond_black_and_white() -> None:
    assert COLOUR.denormalise(torch.full((1, 3, 1, 1), 1e6)).unique().tolist() == [255]
    assert COLOUR.denormalise(torch.full((1, 3, 1, 1), -1e6, dtype=torch.bfloat16)).unique().tolist() == [0]


def test_scale_and_shift_are_those_of_the_normalisation() -> None:
    scale, shift = COLOUR.scale_and_shift()
    for c in range(3):
        assert scale[c] * 200 + shift[c] == pytest.approx((200 / 255 - COLOUR.mean[c]) / COLOUR.std[c])


@pytest.mark.parametrize("preprocess", [COLOUR, GREY, Preprocess(Layout(7, 5, "L", "squash"), (1 / 3,), (2 / 3,))])
def test_it_is_the_same_after_json(preprocess: Preprocess) -> None:
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


NAN = float("nan")


@pytest.mark.parametrize(
    "change",
    [
        {"layout": None},
        {"layout": {}},
        {"layout": "RGB"},
        {"layout": {"height": 3, "width": 4, "mode": "RGB", "fit": "crop", "extra": 1}},
        {"layout": {"height": -3, "width": 4, "mode": "RGB"}},
        {"layout": {"height": 0, "width": 4, "mode": "RGB"}},
        {"layout": {"height": "3", "width": 4, "mode": "RGB"}},
        {"layout": {"height": 3, "width": 4, "mode": "XYZ"}},
        {"layout": {"height": 3, "width": 4, "mode": "RGB", "fit": "stretch"}},
        {"mean": None},
        {"mean": "abc"},
        {"mean": [0.5]},
        {"mean": [0.5, NAN, 0.5]},
        {"std": [0.2, 0.0, 0.2]},
        {"std": [0.2, -0.1, 0.2]},
        {"std": [NAN, NAN, NAN]},
        {"std": []},
    ],
)
def test_a_damaged_preprocess_is_refused_in_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        Preprocess.from_dict({**COLOUR.to_dict(), **change})
    assert "preprocess" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [{}, [], "text", None, {"layout": {"height": 3, "width": 4, "mode": "L"}}])
def test_what_is_no_preprocess_is_refused(values: Any) -> None:
    with pytest.raises(DataError, match="preprocess"):
        Preprocess.from_dict(values)


@pytest.mark.parametrize("source", [b"", b"no image", "no such file.png"])
def test_what_is_not_an_image_is_a_data_error(source: bytes | str) -> None:
    with pytest.raises(DataError):
        COLOUR(source)


def test_a_truncated_pillow_image_is_a_data_error() -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    lazy = Image.open(io.BytesIO(stream.getvalue()[:2000]))
    with pytest.raises(DataError):
        COLOUR(lazy)
