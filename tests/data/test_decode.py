"""Any image file comes out as the upright 8-bit pixels that were put into it, or is refused with its reason."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2.functional import resize

from cnnlab.data import decode
from cnnlab.data.decode import MAX_PIXELS, Layout, arrange, arrange_mask, kept_box, read_image, seen_box, upright
from cnnlab.data.preprocess import Preprocess
from cnnlab.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG put together by hand: `colour` 0 is grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def rgb(data: bytes) -> np.ndarray:
    return np.asarray(read_image(data).convert("RGB"))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_colour_comes_out_to_the_level(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    image = read_image(encoded(Image.fromarray(NOISE), format, **options))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), NOISE)


@pytest.mark.parametrize(("format", "tolerance"), [("JPEG", 4), ("WEBP", 6)])
def test_lossy_colour_comes_out_close(format: str, tolerance: int) -> None:
    flat = Image.new("RGB", (32, 24), (200, 60, 30))
    pixels = rgb(encoded(flat, format, quality=95)).astype(int)
    assert pixels.shape == (24, 32, 3)
    assert abs(pixels - [200, 60, 30]).max() <= tolerance


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_grey_stays_one_channel_with_its_values(format: str) -> None:
    image = read_image(encoded(Image.fromarray(NOISE[..., 0]), format))
    np.testing.assert_array_equal(np.asarray(image.convert("L")), NOISE[..., 0])
    assert image.mode == "L" or format in ("GIF", "BMP")  # these two keep grey as a palette


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_images_give_the_colours_of_the_palette(format: str) -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(rgb(encoded(image, format)), palette[indices])


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_the_transparent_index_of_a_palette_is_white(format: str) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 255])
    expected = [[[255, 255, 255], [255, 0, 0], [0, 0, 255]]]
    np.testing.assert_array_equal(rgb(encoded(image, format, transparency=0)), expected)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_lie_on_white(format: str) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 128, 255
    pixels[0, 1:, 0] = 200
    options = {"lossless": True} if format == "WEBP" else {}
    blended = 200 * 128 / 255 + 255 * 127 / 255
    result = rgb(encoded(Image.fromarray(pixels), format, **options)).astype(float)[0]
    assert abs(result - [[255, 255, 255], [blended, 127, 127], [200, 0, 0]]).max() <= 1


def test_grey_with_alpha_lies_on_white() -> None:
    rows = b"\0" + bytes([10, 0, 100, 255, 0, 128])  # (grey, alpha) three times
    assert abs(rgb(png(3, 1, 8, 4, rows)).astype(int)[0, :, 0] - [255, 100, 127]).max() <= 1


def test_a_transparent_colour_key_is_white_too() -> None:
    red_blue = b"\0" + bytes([255, 0, 0, 0, 0, 255])
    key = (b"tRNS", struct.pack(">HHH", 255, 0, 0))
    np.testing.assert_array_equal(rgb(png(2, 1, 8, 2, red_blue, key)), [[[255, 255, 255], [0, 0, 255]]])
    key = (b"tRNS", struct.pack(">H", 7))
    np.testing.assert_array_equal(rgb(png(2, 1, 8, 0, b"\0\7\x08", key))[0, :, 0], [255, 8])


INKS = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 255, 0, 0): (255, 0, 255)}
INKS |= {(0, 0, 255, 0): (255, 255, 0), (0, 0, 0, 255): (0, 0, 0), (0, 0, 0, 55): (200, 200, 200)}


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
@pytest.mark.parametrize("ink", INKS)
def test_cmyk_comes_out_in_its_colours_and_not_inverted(format: str, ink: tuple[int, ...]) -> None:
    pixels = rgb(encoded(Image.new("CMYK", (16, 16), ink), format)).astype(int)
    assert abs(pixels - INKS[ink]).max() <= (0 if format == "TIFF" else 4)


def test_16_bit_grey_is_scaled_not_cut() -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    for data in (png(4, 1, 16, 0, b"\0" + values.astype(">u2").tobytes()), encoded(Image.fromarray(values), "TIFF")):
        image = read_image(data)
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), [[0, 1, 128, 255]])


def test_16_bit_colour_is_scaled_not_cut() -> None:
    values = np.array([[[0, 32768, 65535], [257, 40000, 3]]], np.uint16)
    data = png(2, 1, 16, 2, b"\0" + values.astype(">u2").tobytes())
    assert abs(rgb(data).astype(float) - values * (255 / 65535)).max() <= 1


def test_floating_point_grey_is_scaled_from_0_to_1() -> None:
    data = encoded(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF")
    np.testing.assert_array_equal(np.asarray(read_image(data)), [[0, 128, 255]])


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_one_bit_images_are_black_and_white(format: str) -> None:
    bits = np.array([[0, 1, 1, 0, 1]], bool)
    np.testing.assert_array_equal(rgb(encoded(Image.fromarray(bits), format))[..., 0], bits * 255)


SHOWN = {  # what each value of the orientation tag does to the stored pixels (EXIF 2.3, section 4.6.4)
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_the_exif_orientation_is_applied(orientation: int, format: str) -> None:
    data = encoded(Image.fromarray(NOISE), format, exif=exif(orientation))
    np.testing.assert_array_equal(rgb(data), SHOWN[orientation](NOISE))


def test_a_rotated_photograph_is_upright() -> None:
    halves = np.zeros((16, 32, 3), np.uint8)
    halves[:, :16] = 255
    pixels = rgb(encoded(Image.fromarray(halves), "JPEG", exif=exif(6)))  # white left becomes white top
    assert pixels.shape == (32, 16, 3)
    assert pixels[:14].min() > 240
    assert pixels[18:].max() < 15


def test_a_16_bit_image_is_turned_upright_too() -> None:
    values = np.array([[0, 257, 65535]], np.uint16)
    image = read_image(encoded(Image.fromarray(values), "PNG", exif=exif(6)))
    np.testing.assert_array_equal(np.asarray(image), [[0], [1], [255]])


@pytest.mark.parametrize(
    "tags", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0", exif(99).tobytes()]
)
def test_broken_exif_does_not_make_an_image_unreadable(tags: bytes) -> None:
    assert read_image(encoded(Image.new("RGB", (16, 8), (10, 200, 30)), "JPEG", exif=tags)).size == (16, 8)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_many_frames_the_first_is_taken(format: str) -> None:
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if format == "WEBP" else {}
    pixels = rgb(encoded(red, format, save_all=True, append_images=[blue, blue], **options))
    np.testing.assert_array_equal(pixels, np.asarray(red))


def test_path_string_bytes_and_stream_give_the_same(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(NOISE), "PNG")
    file = tmp_path / "an image with the wrong ending, ü.jpg"
    file.write_bytes(data)
    with open(file, "rb") as stream:
        for source in (file, str(file), data, io.BytesIO(data), stream):
            np.testing.assert_array_equal(np.asarray(read_image(source)), NOISE)


def test_a_read_image_outlives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(NOISE).save(file)
    image = read_image(file)
    file.write_bytes(b"")
    np.testing.assert_array_equal(np.asarray(image), NOISE)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused_and_never_half_grey(format: str, share: float) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    with pytest.raises(DataError) as caught:
        read_image(data[: int(share * len(data))])
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"hello, I am a text file\n" * 20, b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8"]
)
def test_what_is_not_an_image_says_so(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "text.jpg"
    file.write_bytes(data)
    for source in (data, file):
        with pytest.raises(DataError, match=r"not an image|cannot identify"):
            read_image(source)


def test_a_format_outside_the_list_is_not_an_image() -> None:
    with pytest.raises(DataError, match="not an image"):
        read_image(encoded(Image.fromarray(NOISE), "ICO"))
    with pytest.raises(DataError, match="not an image"):
        read_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def test_a_missing_file_and_a_folder_are_data_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(DataError):
            read_image(path)


@pytest.mark.parametrize("side", [10_001, 20_000, 65_535])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    rows = b"\0" * (1 << 16)  # it would decode some rows; the refusal has to come before
    with pytest.raises(DataError) as caught:
        read_image(png(side, side, 8, 2, rows))
    assert "pixels" in str(caught.value)
    assert side * side > MAX_PIXELS


@given(st.data())
@settings(max_examples=120, deadline=None, derandomize=True)
def test_a_damaged_file_is_an_image_or_a_data_error_and_nothing_else(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM"]))
    content = bytearray(encoded(Image.fromarray(NOISE), format))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = read_image(bytes(content))
    except DataError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        assert image.mode in ("L", "RGB")


class Waiting(io.BytesIO):
    """Says when it is read for the first time, and then waits for an event."""

    def __init__(self, data: bytes, until: Event) -> None:
        super().__init__(data)
        self.begun, self.until = Event(), until

    def read(self, size: int | None = -1) -> bytes:
        self.begun.set()
        assert self.until.wait(10)
        return super().read(size)


def test_decoding_in_threads_leaves_the_warnings_of_the_program_alone() -> None:
    """The second image is begun while the first is read, and ends after it."""
    data, first_done = encoded(Image.fromarray(NOISE), "PNG"), Event()
    second = Waiting(data, first_done)
    first = Waiting(data, second.begun)
    before = list(warnings.filters)
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(read_image, first)
        assert first.begun.wait(10)
        also_reading = pool.submit(read_image, second)
        reading.result()
        first_done.set()
        also_reading.result()
    after = list(warnings.filters)
    warnings.filters[:] = before  # type: ignore[index]
    assert after == before


# arrange


def layout(height: int, width: int, mode: str = "RGB", fit: str = "crop") -> Layout:
    return Layout(height, width, mode, fit)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    stored = arrange(Image.fromarray(NOISE), layout(13, 17))
    assert stored.shape == (13, 17, 4)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored[..., :3], NOISE)
    np.testing.assert_array_equal(stored[..., 3], 0)


def test_grey_is_one_channel_and_colour_becomes_luma() -> None:
    stored = arrange(Image.fromarray(NOISE), layout(13, 17, "L"))
    assert stored.shape == (13, 17, 1)
    luma = NOISE @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert abs(stored[..., 0] - luma).max() <= 1


def test_grey_in_a_colour_layout_has_three_equal_channels() -> None:
    stored = arrange(Image.fromarray(NOISE[..., 0]), layout(13, 17))
    for channel in range(3):
        np.testing.assert_array_equal(stored[..., channel], NOISE[..., 0])


def thirds(height: int, width: int) -> Image.Image:
    """Red, green and blue from left to right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for i in range(3):
        pixels[:, i * width // 3 : (i + 1) * width // 3, i] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("scale", [1, 2, 7])
def test_crop_keeps_the_centre(scale: int) -> None:
    wide = arrange(thirds(10 * scale, 30 * scale), layout(10, 10))[..., :3]
    np.testing.assert_array_equal(wide[:, 1:-1], np.broadcast_to([0, 255, 0], (10, 8, 3)))
    tall = arrange(thirds(10 * scale, 30 * scale).rotate(90, expand=True), layout(10, 10))[..., :3]
    np.testing.assert_array_equal(tall[1:-1], np.broadcast_to([0, 255, 0], (8, 10, 3)))


def test_squash_keeps_everything() -> None:
    row = arrange(thirds(20, 60), layout(9, 9, fit="squash"))[4, :, :3]
    np.testing.assert_array_equal(row[[0, 1, 4, 7, 8]], np.eye(3)[[0, 0, 1, 2, 2]] * 255)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 254
    shrunk = arrange(Image.fromarray(stripes), layout(8, 8, "L"))
    assert abs(shrunk[:, 1:-1].astype(int) - 127).max() <= 1


@pytest.mark.parametrize("size", [(5, 9), (13, 17), (30, 40)])
def test_resizing_agrees_with_torchvision(size: tuple[int, int]) -> None:
    ours = arrange(Image.fromarray(NOISE), layout(*size, fit="squash"))[..., :3]
    theirs = resize(torch.from_numpy(NOISE).permute(2, 0, 1), list(size), antialias=True).permute(1, 2, 0).numpy()
    assert abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(40, 30), (64, 96), (17, 200)])
def test_a_canvas_is_a_squashed_image_but_for_one_level(size: tuple[int, int], mode: str) -> None:
    image = Image.fromarray(NOISE).convert(mode)
    squashed = arrange(image, Layout(*size, mode, "squash")).astype(int)
    canvas = arrange(image, Layout(*size, mode, "canvas")).astype(int)
    assert canvas.shape == squashed.shape
    assert np.abs(canvas - squashed).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
@pytest.mark.parametrize("fit", ["crop", "squash", "canvas"])
def test_the_thinnest_images_fit(size: tuple[int, int], fit: str) -> None:
    stored = arrange(Image.new("RGB", size, (1, 2, 3)), layout(7, 5, fit=fit))
    np.testing.assert_array_equal(stored, np.broadcast_to(np.array([1, 2, 3, 0], np.uint8), (7, 5, 4)))


# the box that a layout keeps

SIDES = np.arange(1, 4097)
SQUARES = (
    1,
    2,
    3,
    7,
    8,
    10,
    16,
    20,
    24,
    28,
    32,
    40,
    48,
    56,
    64,
    75,
    96,
    112,
    128,
    150,
    160,
    176,
    192,
    200,
    224,
    240,
    256,
)
TARGETS = [(side, side) for side in (*SQUARES, 300, 320, 384, 448, 512, 1000, 2048)]
TARGETS += [(224, 300), (300, 224), (7, 5), (1, 2048), (2048, 1), (480, 640)]


def old_box(width: int, height: int, layout: Layout) -> tuple[float, float, float, float]:
    """The arithmetic of versions whose stores and exports are still there."""
    scale = min(width / layout.width, height / layout.height)
    wide, high = layout.width * scale, layout.height * scale
    left, top = (width - wide) / 2, (height - high) / 2
    return left, top, left + wide, top + high


def exact_box(width: int, height: int, layout: Layout) -> tuple[Fraction, ...]:
    scale = min(Fraction(width, layout.width), Fraction(height, layout.height))
    left, top = (width - layout.width * scale) / 2, (height - layout.height * scale) / 2
    return left, top, width - left, height - top


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_the_kept_box_lies_in_the_image_whatever_its_size(target: tuple[int, int]) -> None:
    """Squares, which are tight on both axes, and long images both ways, which are tight on one."""
    assert len(TARGETS) == 40
    box_layout, refused_before = layout(*target), 0
    for length in (lambda side: side, lambda side: side * 4 // 3 + 1):
        sizes = [(int(side), int(length(side))) for side in SIDES]
        sizes += [(high, wide) for wide, high in sizes if wide != high]
        boxes = np.array([kept_box(size, box_layout) for size in sizes])  # (n, 4)
        wide, high = np.array(sizes, float).T
        left, top, right, bottom = boxes.T
        assert (left >= 0).all() and (top >= 0).all() and (right <= wide).all() and (bottom <= high).all()
        assert (left < right).all() and (top < bottom).all()
        scale = np.minimum(wide / target[1], high / target[0])
        np.testing.assert_allclose(right - left, target[1] * scale, rtol=1e-9)
        np.testing.assert_allclose(bottom - top, target[0] * scale, rtol=1e-9)
        old = np.array([old_box(*size, box_layout) for size in sizes])
        taken = (old[:, :2] >= 0).all(1)  # what worked gives the pixels that it gave: Pillow's boxes have 32 bits
        np.testing.assert_array_equal(boxes[taken].astype(np.float32), old[taken].astype(np.float32))
        refused_before += int((~taken).sum())
    assert refused_before > 100 or target not in ((28, 28), (112, 112), (224, 224), (448, 448), (300, 300), (240, 240))


@pytest.mark.parametrize("target", TARGETS[::3], ids=str)
def test_the_kept_box_is_the_exact_one_to_rounding(target: tuple[int, int]) -> None:
    numbers = np.random.default_rng(0).integers(1, 4097, (150, 2)).tolist()
    for width, height in [*numbers, (29, 29), (225, 225), (500, 333), (300, 200), (4032, 3024), (1000, 1000)]:
        box, exact = kept_box((width, height), layout(*target)), exact_box(width, height, layout(*target))
        for edge, exactly in zip(box, exact, strict=True):
            assert abs(Fraction(edge) - exactly) < Fraction(max(width, height), 1 << 50)


REFUSED_BEFORE = [(224, 225, 225), (28, 29, 40), (112, 116, 116), (448, 506, 506), (300, 500, 333), (176, 300, 200)]
REFUSED_BEFORE += [(176, 4032, 3024), (240, 1000, 1000), (224, 58, 232), (224, 239, 246)]


@pytest.mark.parametrize(("side", "width", "height"), REFUSED_BEFORE)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_image_is_arranged_whatever_its_size(side: int, width: int, height: int, mode: str) -> None:
    """As large as the box of the exact arithmetic gives it; its mask, too."""
    ramp = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    image, kept = Image.fromarray(ramp).convert(mode), layout(side, side, mode)
    box = [float(edge) for edge in exact_box(width, height, kept)]
    expected = image.resize((side, side), Image.Resampling.BILINEAR, box=box)  # type: ignore[arg-type]
    stored = arrange(image, kept)
    apart = np.abs(stored[..., : kept.channels].squeeze() - np.asarray(expected).astype(int))
    assert apart.max() <= 1 and apart.mean() < 0.01
    assert Preprocess(kept, (0.5,) * kept.channels, (0.5,) * kept.channels)(image).shape[1:] == (side, side)
    if mode == "RGB":
        arrange_mask(Image.fromarray(ramp % 3), image.size, kept, stored)
        assert set(np.unique(stored[..., 3])) == {0, 1, 2}
    left, top, right, bottom = seen_box(image, kept)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (65_000, 2), (20_000_003, 1)])
def test_the_seen_box_is_at_least_a_pixel_of_the_image(size: tuple[int, int], fit: str) -> None:
    for target in ((1, 2048), (2048, 1), (7, 5), (224, 224)):
        left, top, right, bottom = seen_box(Image.new("1", size), layout(*target, fit=fit))
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]


# large images, which are turned to 8 bits tile by tile


def large_images() -> dict[str, bytes]:
    """13 × 17 pixels in every mode that a file can have."""
    noise, random = Image.fromarray(NOISE), np.random.default_rng(3)
    grey = noise.convert("L")
    wide = random.integers(0, 65536, (13, 17), dtype=np.uint16)
    floats = {"0 to 1": 1.0, "0 to 255": 200.0, "0 to 65535": 60_000.0}
    files = {f"F {name}": Image.fromarray(random.random((13, 17), np.float32) * top) for name, top in floats.items()}
    spoiled = random.random((13, 17), np.float32) * 300
    spoiled[3, 4], spoiled[8, 1] = np.inf, -np.inf
    files |= {"F infinite": Image.fromarray(spoiled), "I": Image.fromarray(wide.astype(np.int32) - 1000)}
    files |= {"CMYK": noise.convert("CMYK"), "1 tiff": grey.convert("1"), "I;16 tiff": Image.fromarray(wide)}
    made = {name: encoded(image, "TIFF") for name, image in files.items()}
    rgba = Image.merge("RGBA", (*noise.split(), grey.rotate(180)))
    files = {
        "RGBA": rgba,
        "LA": Image.merge("LA", (grey, grey.rotate(180))),
        "P": noise.quantize(40),
        "1": grey.convert("1"),
    }
    files |= {"RGB": noise, "L": grey, "I;16": Image.fromarray(wide)}
    made |= {name: encoded(image, "PNG") for name, image in files.items()}
    made["P, transparent"] = encoded(noise.quantize(40), "PNG", transparency=bytes(range(40)))
    made["L, transparent"] = encoded(grey, "PNG", transparency=int(NOISE[0, 0, 0]))
    made["16-bit RGBA"] = png(3, 2, 16, 6, b"".join(b"\0" + random.bytes(24) for _ in range(2)))
    made["CMYK jpeg"] = encoded(noise.convert("CMYK"), "JPEG")
    made["GIF"] = encoded(noise.quantize(40), "GIF", save_all=True, append_images=[noise.rotate(90).quantize(9)])
    made["WebP"] = encoded(rgba, "WEBP", lossless=True)
    return made


@pytest.mark.parametrize("tile", [1, 5, 17, 40])
@pytest.mark.parametrize("name", list(large_images()))
def test_a_large_image_is_turned_to_8_bits_as_a_small_one(
    name: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_image(large_images()[name])
    monkeypatch.setattr(decode, "TILE", tile)
    image = read_image(large_images()[name])
    assert (image.mode, image.size) == (expected.mode, expected.size)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    np.testing.assert_array_equal(np.asarray(upright(image)), np.asarray(expected))


@pytest.mark.parametrize("tile", [3, 17, 40])
@pytest.mark.parametrize("orientation", SHOWN)
def test_a_large_image_is_turned_upright_as_a_small_one(
    orientation: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "TILE", tile)
    data = encoded(Image.fromarray(NOISE), "PNG", exif=exif(orientation))
    np.testing.assert_array_equal(rgb(data), SHOWN[orientation](NOISE))
    given = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(upright(given)), SHOWN[orientation](NOISE))
    np.testing.assert_array_equal(np.asarray(given), NOISE)  # an image of the user's stays as it is


def test_what_an_image_needs_beside_its_pixels_does_not_grow_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 16-bit values came as 32 bytes per pixel in between."""
    monkeypatch.setattr(decode, "TILE", 1 << 14)
    data = encoded(Image.fromarray(np.zeros((2000, 2000), np.uint16)), "PNG")
    read_image(data)
    tracemalloc.start()
    read_image(data)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2000 * 2000 * 2  # numpy's and the packed result; Pillow's own pixels are not seen here
