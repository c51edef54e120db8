"""What a stranger sends: read within bounds, or refused with one clear sentence."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import IO

from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from cnnlab.data.decode import FORMATS, read_image
from cnnlab.deploy.memory import Memory, needed
from cnnlab.deploy.service import MAX_BYTES, MAX_PIXELS
from cnnlab.errors import DataError

MAX_HELD = 128_000_000  # bytes of all uploads that are being read or wait for their turn
MAX_SECONDS = 20.0  # for the whole body to arrive
IN_MEMORY = 1 << 16  # bytes of an upload; what is longer lies in a temporary file, so that slow ones take no memory
DECODING = 7 * MAX_PIXELS  # bytes of all images that are being decoded: one of the largest, whatever its mode
FIELD = "picture"


class Refused(Exception):
    """An answer that is no result: HTTP status and one sentence; `wait` seconds before it is worth another try."""

    def __init__(self, status: int, sentence: str, wait: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.wait = status, sentence, wait


@dataclass(eq=False)
class _Body:
    """A body that is being read: its bytes so far, and what ends it early."""

    file: IO[bytes]
    limit: asyncio.Timeout
    size: int = 0
    given_up: bool = False


class Uploads:
    """Reads the bodies of requests, and bounds what they hold and how many are worked on.

    A request counts against `at_once` from when its body is there until its answer is, so a client that sends slowly,
    or takes its answer slowly, keeps nobody out. Where the bodies that are held become too many bytes, the one goes
    that has been on its way for longest.

    Args:
        at_once: requests that may be worked on.
    """

    def __init__(self, at_once: int) -> None:
        self.held, self.working, self.at_once = 0, 0, at_once
        self.memory = Memory(DECODING)
        self._arriving: dict[_Body, None] = {}  # the oldest first
        self._spool = IN_MEMORY if _has_disk() else 0  # 0 keeps all in memory

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[IO[bytes]]:
        """Within, the image of a request: the field `picture` of a form, or the body itself. Raises Refused."""
        with tempfile.SpooledTemporaryFile(self._spool) as file:
            size = await self._read(request, file)
            try:
                if self.working >= self.at_once:
                    raise Refused(503, "The server is busy; try again in a moment.", 1)
                self.working += 1
                try:
                    file.seek(0)
                    if request.headers.get("content-type", "").lower().startswith("multipart/"):
                        async with _field(request, file) as part:
                            yield part
                    else:
                        yield file
                finally:
                    self.working -= 1
            finally:
                self.held -= size

    async def _read(self, request: Request, file: IO[bytes]) -> int:
        """The body into a file; gives its size, which is held from now on. Raises Refused."""
        too_large = Refused(413, f"The image is larger than {MAX_BYTES // 1_000_000} MB; send a smaller one.")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > MAX_BYTES:
            raise too_large
        body = _Body(file, asyncio.timeout(MAX_SECONDS))
        try:
            async with body.limit:
                self._arriving[body] = None
                async for chunk in request.stream():
                    if body.size + len(chunk) > MAX_BYTES:
                        raise too_large
                    if body.given_up:
                        raise TimeoutError
                    self._make_room(len(chunk), body)
                    body.size += len(chunk)
                    self.held += len(chunk)
                    file.write(chunk)
        except BaseException as error:
            if not body.given_up:
                self.held -= body.size
            raise self._refusal(error, body) from None
        finally:
            self._arriving.pop(body, None)
        return body.size

    def _make_room(self, size: int, body: _Body) -> None:
        """Give up the bodies that have been on their way for longest, where too many bytes are held."""
        while self.held + size > MAX_HELD:
            oldest = next(iter(self._arriving))
            if oldest is body:
                raise _crowded()
            oldest.given_up = True
            oldest.limit.reschedule(asyncio.get_running_loop().time())
            self.held -= oldest.size
            del self._arriving[oldest]

    @staticmethod
    def _refusal(error: BaseException, body: _Body) -> BaseException:
        if isinstance(error, TimeoutError) and body.given_up:
            return _crowded()
        if isinstance(error, TimeoutError):
            return Refused(408, f"The image did not arrive within {MAX_SECONDS:.0f} seconds.")
        if isinstance(error, ClientDisconnect):
            return Refused(400, "The connection was closed before the image had arrived.")
        if isinstance(error, OSError):  # the disk is full
            return _crowded()
        return error

    @contextmanager
    def decoded(self, file: IO[bytes]) -> Iterator[Image.Image]:
        """Within, the upright "L" or "RGB" image of a file; its size is looked at before a pixel is decoded. Waits
        while other images take the memory that it needs. Raises Refused."""
        content = file.read()
        need = checked(content)
        with self.memory.take(need):
            try:
                image = read_image(content)
            except (DataError, MemoryError) as error:
                raise Refused(422, f"This cannot be read as an image: {_reason(error)}.") from None
            del content
            yield image


def _crowded() -> Refused:
    return Refused(503, "Too many images are being sent at once; try again in a moment.", 1)


def _has_disk() -> bool:
    try:
        tempfile.TemporaryFile().close()
    except OSError:
        return False
    return True


class _Form(MultiPartParser):
    spool_max_size = IN_MEMORY


@asynccontextmanager
async def _field(request: Request, body: IO[bytes]) -> AsyncIterator[IO[bytes]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        while chunk := body.read(IN_MEMORY):
            yield chunk
        yield b""

    try:
        form = await _Form(request.headers, stream(), max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError):
        raise Refused(400, "The form cannot be read; send one file in the field image.") from None
    try:
        image = form.get(FIELD)
        if not isinstance(image, UploadFile):
            raise Refused(400, f"The form has no file in the field {FIELD}.")
        yield image.file
    finally:
        await form.close()


def checked(content: bytes) -> int:
    """Bytes of memory that the decoding of an image takes, by its header. Raises Refused for what may not be."""
    if not content:
        raise Refused(422, "The file is empty; send an image.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            width, height = opened.size
            need = needed(opened, content)
    except Image.DecompressionBombError:
        raise _too_many("too many", MAX_PIXELS) from None
    except Exception:  # a damaged file can make a decoder raise nearly anything
        raise Refused(422, f"This is not an image that can be read ({', '.join(FORMATS)}).") from None
    pixels = width * height
    if pixels > MAX_PIXELS:
        raise _too_many(f"{width} × {height}", MAX_PIXELS)
    if need > DECODING:
        raise _too_many(f"{width} × {height}", pixels * DECODING // need, " stored in this way")
    return need


def _too_many(size: str, most: int, how: str = "") -> Refused:
    return Refused(413, f"The image has {size} pixels{how}; at most {most // 1_000_000} million are allowed.")


def _reason(error: BaseException) -> str:
    text = str(error)
    return "it is damaged" if not text or "<" in text or len(text) > 120 else text.rstrip(".")
