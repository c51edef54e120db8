"""What stands before every request: who may ask, and what an answer must never show."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cnnlab.deploy.metrics import Metrics
from cnnlab.deploy.uploads import Refused

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
        " media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
log = logging.getLogger("cnnlab")


def refusal(refused: Refused) -> JSONResponse:
    headers = {"Retry-After": str(refused.wait)} if refused.wait else {}
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": refused.sentence}, refused.status, headers)


class Guard:
    """Wraps the application.

    Args:
        token: asked of every path that is not in `free`; None asks for none.
        free: paths that need no token: the page itself, and the word that the server is alive.
        hosts: names under which the server may be called; None for any. A page elsewhere whose name is made to point at
            this machine is then refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        token: str | None = None,
        free: Sequence[str] = (),
        hosts: Sequence[str] | None = None,
    ) -> None:
        self.app, self.metrics, self.free, self.hosts = app, metrics, free, hosts
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = list(message.get("headers", ()))
                names = {name for name, _ in own}  # a page may have a policy of its own
                message["headers"] = [*own, *(pair for pair in RAW_HEADERS if pair[0] not in names)]
            await send(message)

        try:
            self._admit(scope)
            await self.app(scope, receive, finish)
        except Refused as refused:
            if not status:
                await refusal(refused)(scope, receive, finish)
        except asyncio.CancelledError:  # the server stops, and this has not ended in the time that is given for it
            if not status:
                await refusal(Refused(503, "The server is stopping.", 1))(scope, receive, finish)
        except Exception:
            log.exception("a request failed")
            if status:
                raise
            await refusal(Refused(500, "Something failed here; the server's log says what."))(scope, receive, finish)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or ("refused" if status in (401, 403, 503) else "other")
            self.metrics.request(path, status, time.perf_counter() - began)

    def _admit(self, scope: Scope) -> None:
        """Raises Refused."""
        headers = Headers(scope=scope)
        host = re.sub(r":\d+$", "", headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            raise Refused(403, "This server only accepts requests for its own host name.")
        if scope["method"] not in ("GET", "HEAD") and headers.get("sec-fetch-site", "same-origin") not in (
            "same-origin",
            "none",
        ):
            raise Refused(403, "Requests from other websites are not allowed.")
        if self.token is not None and scope["path"] not in self.free:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token):
                raise Refused(401, "This needs the token that the server was started with.")
