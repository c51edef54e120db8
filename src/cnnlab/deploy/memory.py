"""What an image takes while it is decoded, and what all of them together may take."""

from __future__ import annotations

import ctypes
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, ROWSPERSTRIP, SAMPLESPERPIXEL, TILELENGTH, TILEWIDTH

from cnnlab.data.decode import has_alpha, is_8_bit

SMALL_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}  # bytes per pixel; all others have 4
M_MMAP_THRESHOLD, LARGE_PIECE = -3, 1 << 20  # malloc.h; a packed tile of an image has as much and more
WEBP = 16  # bytes a pixel of libwebp: two canvases for animations, what was decoded, and the copy that Pillow is given


def give_back_large_pieces() -> None:
    """Let memory of more than LARGE_PIECE bytes go back to the system when it is freed. By itself glibc keeps what was
    freed once, for every thread anew: hundreds of megabytes after a few large images."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_PIECE)


class Memory:
    """Bytes that threads take and give back; who asks for more than is left waits, and later ones after it."""

    def __init__(self, size: int) -> None:
        self.size = self._left = size
        self._changed, self._turn = threading.Condition(), threading.Lock()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Within, `amount` bytes are taken; more than there are in all can never be had."""
        assert amount <= self.size
        with self._turn, self._changed:
            self._changed.wait_for(lambda: amount <= self._left)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


def needed(image: Image.Image, content: bytes) -> int:
    """Bytes that Pillow and `read_image` hold at the most for an image of which only the header was read.

    Args:
        content: of its file.
    """
    pixels, own = image.width * image.height, SMALL_MODES.get(image.mode, 4)
    turned = _may_be_turned(image)
    decoding = own + (own if turned and image.format == "TIFF" else 0)  # which Pillow turns at once
    grey = (own < 4 and not (image.mode == "P" or has_alpha(image))) or image.mode in ("I", "F")
    packed, result = (1, 1) if grey else (3, 4)
    if is_8_bit(image) and not turned:
        packed = 0
    steps = [decoding * pixels + _of_decoder(image, content)]
    steps += [(own + packed) * pixels, (packed + result) * pixels] if packed else []
    return max(*steps, 5 * pixels)  # grey and colour at once, as far as the network takes the other one


def _may_be_turned(image: Image.Image) -> bool:
    """By the header: a PNG can tell it after its pixels, and Pillow would decode them all to look there."""
    if image.format == "PNG" and "exif" not in image.info:
        return True
    return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)


def _of_decoder(image: Image.Image, content: bytes) -> int:
    """Bytes that a decoder has for itself."""
    pixels = image.width * image.height
    if image.format == "WEBP":
        return WEBP * pixels
    if image.format in ("JPEG", "MPO") and comes_in_scans(content):  # libjpeg keeps all coefficients, of 2 bytes
        layers = [(across, down) for _, across, down, _ in getattr(image, "layer", ())]
        most = max((across for across, _ in layers), default=1) * max((down for _, down in layers), default=1)
        return 2 * pixels * sum(across * down for across, down in layers) // most
    if image.format == "TIFF":  # libtiff reads a strip or a tile at a time
        tags = getattr(image, "tag_v2", {})
        columns = tags.get(TILEWIDTH, image.width)
        rows = min(tags.get(TILELENGTH) or tags.get(ROWSPERSTRIP, image.height), image.height)
        bits = max(tags.get(BITSPERSAMPLE, (8,))) * tags.get(SAMPLESPERPIXEL, 1)
        return min(int(columns) * int(rows), 4 * pixels) * int(bits) // 8
    if image.format == "BMP":  # what is compressed is put together in Python
        return 2 * pixels
    return 0


def comes_in_scans(content: bytes) -> bool:
    """Whether a JPEG file has to be read whole before a pixel is known: progressive, or one layer after the other."""
    place, layers = 2, 0
    while place + 4 <= len(content):
        marker, length = content[place + 1], struct.unpack_from(">H", content, place + 2)[0]
        if content[place] != 0xFF or marker in (0xC2, 0xC6, 0xCA, 0xCE):
            return True  # or nobody knows
        if marker == 0xFF:  # fills up
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and place + 9 < len(content):
            layers = content[place + 9]
        if marker == 0xDA:
            return place + 4 < len(content) and content[place + 4] < layers
        place += 2 + length
    return True
