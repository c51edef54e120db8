"""Any picture file → upright 8-bit pixels of one mode and size: Pillow alone, but for training's canvas."""

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
SHIFT = 0.15  # share of the side
MAX_PIXELS = 89_478_485  # Pillow's own bound; a picture of more pixels is refused before it is decoded


@dataclass(frozen=True)
class Layout:
    """How a picture lies in memory: (height, width, channels) of uint8, and how it is brought to that size.

    mode "L" is one channel; mode "RGB" is stored as four bytes a pixel, the last one unused, because a whole pixel can
    then be moved as one 32-bit word.
    fit "crop" resizes until the picture covers height × width and cuts the centre; "squash" resizes each side freely;
    "canvas" does the same in half the time, at most one level off, for what is cut and resized again in training.
    rearrange is for experiments: "shift" moves each picture by its own offset, "permute" the pixels of all in one way.
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
    def bytes_per_picture(self) -> int:
        return self.height * self.width * self.stored_channels


def keep_picture_memory(pictures: int) -> None:
    """Let Pillow keep the memory of that many pictures for the next ones; fresh pages cost a fifth of decoding."""
    Image.core.set_blocks_max(pictures)  # type: ignore[attr-defined]


def read_picture(file: str | Path | bytes | BinaryIO) -> Image.Image:
    """A file, its path or its bytes → upright "L" or "RGB" picture of 8 bits (a GIF gives its first frame).

    Transparent pixels come out on white; 16-bit values are scaled, not cut.

    Raises:
        DataError: not a picture of a known format, damaged, truncated, or of more than MAX_PIXELS pixels.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    with _one_line_errors(file), Image.open(stream, formats=FORMATS) as picture:
        return upright(picture)


def upright(picture: Image.Image) -> Image.Image:
    """A Pillow picture, loaded or not → turned as its EXIF data say, "L" or "RGB" of 8 bits. Raises DataError."""
    with _one_line_errors(None):
        if picture.width * picture.height > MAX_PIXELS:
            raise DataError(f"{picture.width}×{picture.height} pixels are more than {MAX_PIXELS:,}")
        picture.load()
        if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else a whole copy would be made
            picture = ImageOps.exif_transpose(picture)
        return to_8_bit(picture)


@contextlib.contextmanager
def _one_line_errors(file: object) -> Iterator[None]:
    """A damaged file can make a decoder raise nearly anything: all of it becomes a DataError of one line."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(file, bytes) and "cannot identify" in reason:
            reason = "not a picture file"
        raise DataError(reason.rstrip(".")) from error


def to_8_bit(picture: Image.Image) -> Image.Image:
    """Any Pillow mode → "L" (grey) or "RGB"."""
    if picture.mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 or 32 bits a pixel
        values = np.asarray(picture, dtype=np.float64)
        top = 1.0 if picture.mode == "F" and values.max(initial=0) <= 1 else 255.0
        top = 65535.0 if picture.mode.startswith("I") or values.max(initial=0) > 255 else top
        return Image.fromarray(np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8))
    if picture.mode in ("1",):
        return picture.convert("L")
    if picture.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        white.alpha_composite(picture)
        return white.convert("RGB")
    return picture.convert("RGB")  # P, CMYK, YCbCr, LAB, HSV


def arrange(picture: Image.Image, layout: Layout, out: np.ndarray | None = None) -> np.ndarray:
    """Picture → (height, width, stored channels) uint8, as `layout` says, into `out` if given.

    Resizing is bilinear and antialiased.
    """
    if picture.mode != layout.mode:
        picture = picture.convert(layout.mode)
    pixels = _canvas(picture, layout) if layout.fit == "canvas" else _pixels(_resized(picture, layout))
    if out is None:
        out = np.empty_like(pixels)
    out[:] = pixels
    out[:, :, layout.channels :] = 0
    if layout.rearrange != "none":
        out[:] = rearranged(out, layout.rearrange)
    return out


def rearranged(pixels: np.ndarray, how: str) -> np.ndarray:
    """(H, W, C) uint8 → the same shape, with its pixels elsewhere; the same picture always goes the same way.

    Args:
        how: "shift" moves the picture by up to 15 % of its side each way, drawn from its content, and lengthens its
            border; "permute" gives every pixel another place, the same for all pictures of a size.
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
    """Raise DataError if a mask has not the (width, height) of its picture."""
    if mask.size != size:
        raise DataError(f"its mask has {mask.width}×{mask.height} pixels, the picture {size[0]}×{size[1]}")


def arrange_mask(mask: Image.Image, size: tuple[int, int], layout: Layout, out: np.ndarray) -> None:
    """Put the class of each pixel into the fourth byte of `out` (height, width, 4), as `arrange` put its picture there.

    Args:
        size: (width, height) of the picture that the mask belongs to. Raises DataError if the mask has another.
    """
    check_mask(mask, size)
    target = (layout.width, layout.height)
    if mask.size != target:
        mask = mask.resize(target, Image.Resampling.NEAREST, box=_kept(mask, layout))
    out[:, :, 3] = np.asarray(mask)


def _resized(picture: Image.Image, layout: Layout) -> Image.Image:
    target = (layout.width, layout.height)
    if picture.size == target:
        return picture
    return picture.resize(target, Image.Resampling.BILINEAR, box=_kept(picture, layout))


def _kept(picture: Image.Image, layout: Layout) -> tuple[float, float, float, float]:
    """What a layout keeps of a picture: left, top, right, bottom in pixels."""
    if layout.fit != "crop":
        return 0, 0, picture.width, picture.height
    scale = min(picture.width / layout.width, picture.height / layout.height)
    width, height = layout.width * scale, layout.height * scale
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    return left, top, left + width, top + height


def seen_box(picture: Image.Image, layout: Layout) -> tuple[int, int, int, int]:
    """The part of a picture that a model with this layout sees: left, top, right, bottom in whole pixels."""
    left, top, right, bottom = (round(edge) for edge in _kept(picture, layout))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def seen_part(picture: Image.Image, layout: Layout) -> Image.Image:
    """The part of a picture that a model with this layout sees, in the picture's own resolution."""
    return picture.crop(seen_box(picture, layout))


def _pixels(picture: Image.Image) -> np.ndarray:
    """(H, W, 1 or 4) uint8. Pillow keeps four bytes a pixel itself: handing them over whole costs a tenth of packing
    three and unpacking them."""
    packed = picture.tobytes("raw", "L" if picture.mode == "L" else "RGBX")
    return np.frombuffer(packed, np.uint8).reshape(picture.height, picture.width, -1)


def _canvas(picture: Image.Image, layout: Layout) -> np.ndarray:
    """torch resizes bytes with vector instructions."""
    import torch
    import torch.nn.functional as F

    whole = torch.from_numpy(_pixels(picture).copy())[None].permute(0, 3, 1, 2)  # torch wants memory it may write to
    resized = F.interpolate(whole, size=(layout.height, layout.width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def find_pictures(paths: Sequence[str]) -> Iterator[str]:
    """Files as they are; of a folder every picture below it, sorted.

    Raises:
        DataError: nothing there, or a folder without pictures.
    """
    for path in map(Path, paths):
        if not is_path(path):
            raise DataError(f"{str(path)[:80]!r} cannot be the name of a file or folder.")
        if path.is_dir():
            found = sorted(_pictures_below(path))
            if not found:
                raise DataError(f"{path} holds no pictures ({', '.join(EXTENSIONS)}).")
            yield from map(str, found)
        elif path.is_file():
            yield str(path)
        elif path.exists():
            raise DataError(f"{path} is no file but a device or a pipe; give a file, or - for standard input.")
        else:
            raise DataError(f"there is no file or folder {path}.")


def _pictures_below(folder: Path) -> Iterator[Path]:
    """Links to folders are not followed, and a folder that may not be read, or is gone by now, is passed over."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(OSError):
                if path.suffix.lower() in EXTENSIONS and path.is_file():
                    yield path
