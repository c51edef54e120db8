"""Any image file → upright 8-bit pixels of one mode and size: Pillow alone, but for training's canvas."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from cnnlab.errors import DataError
from cnnlab.files import is_path

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
SHIFT = 0.15  # share of the side
TILE = 1 << 20  # pixels of a large image that are turned to 8 bits at once
TURNS = {  # by the orientation tag (EXIF 2.3, section 4.6.4)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [TURNS[tag] for tag in (5, 6, 7, 8)]
FROM_RIGHT = [TURNS[tag] for tag in (2, 3, 7, 8)]  # the last column comes first
FROM_BOTTOM = [TURNS[tag] for tag in (3, 4, 6, 7)]
MAX_PIXELS = 89_478_485  # Pillow's own bound; an image of more pixels is refused before it is decoded


@dataclass(frozen=True)
class Layout:
    """How an image lies in memory: (height, width, channels) of uint8, and how it is brought to that size.

    mode "L" is one channel; mode "RGB" is stored as four bytes per pixel, the last one unused, because a pixel can
    then be moved as one 32-bit word.
    fit "crop" resizes until the image covers height × width and cuts the centre; "squash" resizes each side freely;
    "canvas" does the same in half the time, at most one level off, for what is cut and resized again in training.
    rearrange is for experiments: "shift" moves each image by its own offset, "permute" the pixels of all in one way.
    """

    height: int
    width: int
    mode: str
    fit: str = "crop"
    rearrange: str = field(default="none", repr=False)

    @property
    def key(self) -> str:
        """Names the pixels that it gives: the same for the same ones, also across versions."""
        return f"{self}" if self.rearrange == "none" else f"{self} {self.rearrange}"

    def check(self) -> None:
        """Raise ValueError for values that make no layout."""
        whole = all(type(side) is int and 1 <= side <= 2048 for side in (self.height, self.width))
        known = self.mode in ("L", "RGB") and self.fit in ("crop", "squash", "canvas")
        if not whole or not known or self.rearrange not in ("none", "shift", "permute"):
            raise ValueError(str(self))

    @property
    def channels(self) -> int:
        return 1 if self.mode == "L" else 3

    @property
    def stored_channels(self) -> int:
        return 1 if self.mode == "L" else 4

    @property
    def bytes_per_image(self) -> int:
        return self.height * self.width * self.stored_channels


def keep_image_memory(images: int) -> None:
    """Let Pillow keep the memory of that many images for the next ones; fresh pages cost a fifth of decoding."""
    Image.core.set_blocks_max(images)  # type: ignore[attr-defined]


def read_image(file: str | Path | bytes | BinaryIO) -> Image.Image:
    """A file, its path or its bytes → upright "L" or "RGB" image of 8 bits (a GIF gives its first frame).

    Transparent pixels come out on white; 16-bit values are scaled, not cut.

    Raises:
        DataError: not an image of a known format, damaged, truncated, or of more than MAX_PIXELS pixels.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    with _one_line_errors(), Image.open(stream, formats=FORMATS) as image:
        return upright(image, consume=True)


def upright(image: Image.Image, *, consume: bool = False) -> Image.Image:
    """A Pillow image, loaded or not → turned as its EXIF data say, "L" or "RGB" of 8 bits. Raises DataError.

    Args:
        consume: give up the pixels of `image` before those of the result take memory.
    """
    with _one_line_errors():
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,}")
        image.load()
        turn = turn_of(image)
        if image.width * image.height > TILE and (turn is not None or not is_8_bit(image)):
            return _upright_in_tiles(image, turn, consume)
        return to_8_bit(image if turn is None else ImageOps.exif_transpose(image))  # which forgets its EXIF data


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What brings an image upright, by its EXIF data."""
    return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))


def _upright_in_tiles(image: Image.Image, turn: Image.Transpose | None, consume: bool) -> Image.Image:
    """The same pixels as from all of them at once. What a step needs beside image and result is as large as a tile;
    the result is kept packed, three bytes per pixel, until the image is given up."""
    size, white = image.size, white_of(image)
    packed: list[tuple[Box, bytes]] = []
    for box in _tiles(size):
        tile = to_8_bit(image.crop(box), white)
        packed.append((box, tile.tobytes()))
    mode = tile.mode
    if consume:
        image.close()
    whole = Image.new(mode, size[::-1] if turn in SIDEWAYS else size)
    while packed:
        (left, top, right, bottom), pixels = packed.pop()
        tile = Image.frombytes(mode, (right - left, bottom - top), pixels)
        if turn is not None:
            tile = tile.transpose(turn)
            far_x, far_y = size[0] - right, size[1] - bottom
            x, y = (far_x if turn in FROM_RIGHT else left), (far_y if turn in FROM_BOTTOM else top)
            left, top = (y, x) if turn in SIDEWAYS else (x, y)
        whole.paste(tile, (left, top))
    return whole


def _tiles(size: tuple[int, int]) -> Iterator[Box]:
    """Boxes of at most TILE pixels that cover (width, height), as wide as it goes."""
    columns = min(size[0], TILE)
    rows = max(1, TILE // columns)
    for top in range(0, size[1], rows):
        for left in range(0, size[0], columns):
            yield left, top, min(size[0], left + columns), min(size[1], top + rows)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """A damaged file can make a decoder raise nearly anything: all of it becomes a DataError of one line."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror  # without the path, which callers name
        elif "cannot identify" in reason:
            reason = "not an image file"
        raise DataError(reason.rstrip(".")) from error


def is_8_bit(image: Image.Image) -> bool:
    """Whether `to_8_bit` has nothing to do."""
    return image.mode in ("L", "RGB") and "transparency" not in image.info


def to_8_bit(image: Image.Image, white: float | None = None) -> Image.Image:
    """Any Pillow mode → "L" (grey) or "RGB".

    Args:
        white: the value that becomes 255; None: see `white_of`.
    """
    if is_8_bit(image):
        return image
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits a pixel
        values = np.asarray(image, dtype=np.float64)
        top = white_of(image) if white is None else white
        return Image.fromarray(np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8))
    if image.mode in ("1",):
        return image.convert("L")
    if has_alpha(image):
        image = image.convert("RGBA")
        white_page = Image.new("RGBA", image.size, (255, 255, 255, 255))
        white_page.alpha_composite(image)
        return white_page.convert("RGB")
    return image.convert("RGB")  # P, CMYK, YCbCr, LAB, HSV


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info


def white_of(image: Image.Image) -> float:
    """The value that becomes 255, for images of 16 or 32 bits a pixel; for floating point the largest tells it."""
    if image.mode != "F":
        return 65535.0
    largest = np.max([np.asarray(image.crop(box)).max(initial=0) for box in _tiles(image.size)])
    return 1.0 if largest <= 1 else 65535.0 if largest > 255 else 255.0


def arrange(image: Image.Image, layout: Layout, out: np.ndarray | None = None) -> np.ndarray:
    """Image → (height, width, stored channels) uint8, as `layout` says, into `out` if given.

    Resizing is bilinear and antialiased.
    """
    if image.mode != layout.mode:
        image = image.convert(layout.mode)
    pixels = _canvas(image, layout) if layout.fit == "canvas" else _pixels(_resized(image, layout))
    if out is None:
        out = np.empty_like(pixels)
    out[:] = pixels
    out[:, :, layout.channels :] = 0
    if layout.rearrange != "none":
        out[:] = rearranged(out, layout.rearrange)
    return out


def rearranged(pixels: np.ndarray, how: str) -> np.ndarray:
    """(H, W, C) uint8 → the same shape, with its pixels elsewhere; the same image always goes the same way.

    Args:
        how: "shift" moves the image by up to 15 % of its side each way, drawn from its content, and lengthens its
            border; "permute" gives every pixel another place, the same for all images of a size.
    """
    height, width = pixels.shape[:2]
    if how == "permute":
        return pixels.reshape(height * width, -1)[_permutation(height * width)].reshape(pixels.shape)
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(pixels.tobytes())))
    down, right = (int(draw.integers(-reach, reach + 1)) for reach in (round(SHIFT * height), round(SHIFT * width)))
    rows, columns = np.arange(height) - down, np.arange(width) - right
    return pixels[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]


@functools.cache
def _permutation(count: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(count)).permutation(count)


def check_mask(mask: Image.Image, size: tuple[int, int]) -> None:
    """Raise DataError if a mask has not the (width, height) of its image."""
    if mask.size != size:
        raise DataError(f"its mask has {mask.width}×{mask.height} pixels, the image {size[0]}×{size[1]}")


def arrange_mask(mask: Image.Image, size: tuple[int, int], layout: Layout, out: np.ndarray) -> None:
    """Put the class of each pixel into the fourth byte of `out` (height, width, 4), as `arrange` put its image there.

    Args:
        size: (width, height) of the image that the mask belongs to. Raises DataError if the mask has another.
    """
    check_mask(mask, size)
    wanted = (layout.width, layout.height)
    if mask.size != wanted:
        mask = mask.resize(wanted, Image.Resampling.NEAREST, box=kept_box(mask.size, layout))
    out[:, :, 3] = np.asarray(mask)


def _resized(image: Image.Image, layout: Layout) -> Image.Image:
    wanted = (layout.width, layout.height)
    if image.size == wanted:
        return image
    return image.resize(wanted, Image.Resampling.BILINEAR, box=kept_box(image.size, layout))


def kept_box(size: tuple[int, int], layout: Layout) -> tuple[float, float, float, float]:
    """What a layout keeps of an image: left, top, right, bottom in pixels, 0 ≤ left < right ≤ width.

    Args:
        size: (width, height) of the image.
    """
    wide, high = size
    if layout.fit != "crop":
        return 0.0, 0.0, float(wide), float(high)
    scale = min(wide / layout.width, high / layout.height)
    left, right = _middle(wide, layout.width * scale)
    top, bottom = _middle(high, layout.height * scale)
    return left, top, right, bottom


def _middle(side: int, length: float) -> tuple[float, float]:
    """Where a piece of `length` in the middle of a side begins and ends. 224·(225/224) is more than 225: where rounding
    makes a piece longer than the side, it is the side, since Pillow takes no box that begins at −1e-14."""
    left = max(0.0, (side - length) / 2)
    return left, min(float(side), left + length)


def seen_box(image: Image.Image, layout: Layout) -> tuple[int, int, int, int]:
    """The part of an image that a model with this layout sees: left, top, right, bottom in whole pixels."""
    left, top, right, bottom = (round(edge) for edge in kept_box(image.size, layout))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def seen_part(image: Image.Image, layout: Layout) -> Image.Image:
    """The part of an image that a model with this layout sees, in the image's own resolution."""
    return image.crop(seen_box(image, layout))


def _pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 1 or 4) uint8. Pillow keeps four bytes per pixel itself: handing them over whole costs a tenth of packing
    three and unpacking them."""
    packed = image.tobytes("raw", "L" if image.mode == "L" else "RGBX")
    return np.frombuffer(packed, np.uint8).reshape(image.height, image.width, -1)


def _canvas(image: Image.Image, layout: Layout) -> np.ndarray:
    """torch resizes bytes with vector instructions."""
    import torch
    import torch.nn.functional as F

    whole = torch.from_numpy(_pixels(image).copy())[None].permute(0, 3, 1, 2)  # torch wants memory it may write to
    resized = F.interpolate(whole, size=(layout.height, layout.width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def find_images(paths: Sequence[str]) -> Iterator[str]:
    """Files as they are; of a folder every image below it, sorted.

    Raises:
        DataError: nothing there, or a folder without images.
    """
    for path in map(Path, paths):
        if not is_path(path):
            raise DataError(f"{str(path)[:80]!r} cannot be the name of a file or folder.")
        if path.is_dir():
            found = sorted(_images_below(path))
            if not found:
                raise DataError(f"{path} holds no images ({', '.join(EXTENSIONS)}).")
            yield from map(str, found)
        elif path.is_file():
            yield str(path)
        elif path.exists():
            raise DataError(f"{path} is no file but a device or a pipe; give a file, or - for standard input.")
        else:
            raise DataError(f"there is no file or folder {path}.")


def _images_below(folder: Path) -> Iterator[Path]:
    """Links to folders are not followed, and a folder that may not be read, or is gone by now, is passed over."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(OSError):
                if path.suffix.lower() in EXTENSIONS and path.is_file():
                    yield path
