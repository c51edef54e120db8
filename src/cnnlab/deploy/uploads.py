"""What a stranger sends: read within bounds, or refused with one clear sentence."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator

from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from cnnlab.data.decode import FORMATS, read_picture
from cnnlab.deploy.service import MAX_BYTES, MAX_PIXELS
from cnnlab.errors import DataError

MAX_HELD = 128_000_000  # bytes of all uploads that are being read
MAX_SECONDS = 20.0  # for the whole body to arrive
FIELD = "picture"


class Refused(Exception):
    """An answer that is no result: HTTP status and one sentence; `wait` seconds before it is worth another try."""

    def __init__(self, status: int, sentence: str, wait: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.wait = status, sentence, wait


class Uploads:
    """Reads the bodies of requests; remembers how many bytes are held at the moment."""

    def __init__(self) -> None:
        self.held = 0

    async def read(self, request: Request) -> bytes:
        """The picture of a request: the field `picture` of a form, or the body itself. Raises Refused."""
        too_large = Refused(413, f"The picture is larger than {MAX_BYTES // 1_000_000} MB; send a smaller one.")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > MAX_BYTES:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(MAX_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    self.held += len(chunk)
                    if len(body) > MAX_BYTES:
                        raise too_large
                    if self.held > MAX_HELD:
                        raise Refused(503, "Too many pictures are being sent at once; try again in a moment.", 1)
        except TimeoutError:
            raise Refused(408, f"The picture did not arrive within {MAX_SECONDS:.0f} seconds.") from None
        except ClientDisconnect:
            raise Refused(400, "The connection was closed before the picture had arrived.") from None
        finally:
            self.held -= len(body)
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            return await _field(request, bytes(body))
        return bytes(body)


async def _field(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError):
        raise Refused(400, "The form cannot be read; send one file in the field picture.") from None
    picture = form.get(FIELD)
    if not isinstance(picture, UploadFile):
        await form.close()
        raise Refused(400, f"The form has no file in the field {FIELD}.")
    content = await picture.read()
    await form.close()
    return content


def decode(content: bytes) -> Image.Image:
    """Bytes → upright "L" or "RGB" picture; its size is looked at before a pixel is decoded. Raises Refused."""
    if not content:
        raise Refused(422, "The file is empty; send a picture.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            width, height = opened.size
        if width * height <= MAX_PIXELS:
            return read_picture(content)
    except Image.DecompressionBombError:
        width, height = 0, 0
    except (DataError, MemoryError) as error:
        raise Refused(422, f"This cannot be read as a picture: {_reason(error)}.") from None
    except Exception:  # a damaged file can make a decoder raise nearly anything
        raise Refused(422, f"This is not a picture that can be read ({', '.join(FORMATS)}).") from None
    size = f"{width} × {height}" if width else "too many"
    raise Refused(413, f"The picture has {size} pixels; at most {MAX_PIXELS // 1_000_000} million are taken.")


def _reason(error: BaseException) -> str:
    text = str(error)
    return "it is damaged" if not text or "<" in text or len(text) > 120 else text.rstrip(".")
