"""HTTP connections that are given up when nothing moves: uvicorn itself waits forever."""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for the line and the headers of a request to arrive, all together
SEND_SECONDS = 20.0  # for a client to take some of an answer that is too long for the buffers in between


class Connection(H11Protocol):
    """Closed `HEAD_SECONDS` after it was opened, or after the first byte of a further request, if that has no whole
    head by then; and `SEND_SECONDS` after its client ceased to take what it asked for. A body has a limit of its own
    (uploads.py)."""

    _head: asyncio.TimerHandle | None = None
    _send: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send is not None:
            self._send.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        if self._send is not None:
            self._send.cancel()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class Server(uvicorn.Server):
    """Says that it is there once it is, and from then on can be stopped in order."""

    def __init__(self, config: uvicorn.Config, says: str) -> None:
        super().__init__(config)
        self._says = says

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            gc.collect()
            gc.freeze()  # else the collector goes through all of torch every few thousand answers, and they wait for it
            print(self._says, flush=True)
