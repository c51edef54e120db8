"""`cnnlab demo`: bind, say where, serve until stopped."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from pathlib import Path

from cnnlab.deploy.exported import missing_extra
from cnnlab.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NAMES = ("127.0.0.1", "localhost", "[::1]")  # as a browser on this machine calls it


def serve(
    run: str | Path, host: str = "127.0.0.1", port: int = 8000, token: str | None = None, trust_code: bool = False
) -> None:
    """Serve the page and the interface of a run.

    Args:
        host: address to listen on; others than this machine's own can be reached from outside.
        port: 0 takes a free one.
        token: asked of every question; None asks for none.

    Raises:
        ExportError: the extra is not installed. ConfigError: the address cannot be had. RunError: no trained model.
    """
    try:
        import uvicorn

        from cnnlab.deploy.app import create_app
        from cnnlab.deploy.connections import Connection, Server
        from cnnlab.deploy.memory import give_back_large_pieces
        from cnnlab.deploy.service import Service
    except ImportError:
        raise missing_extra("demo") from None
    if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError("--token must be of printable ASCII characters without spaces.")
    listening = bind(host, port)
    give_back_large_pieces()
    try:
        app = create_app(Service.from_run(run, trust_code), token, NAMES if host in LOOPBACK else None)
    except BaseException:
        listening.close()
        raise
    name, number = listening.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    if host not in LOOPBACK and token is None:
        print(f"anyone who reaches {shown}:{number} can use this model; --token T requires a token.")
    logging.getLogger("cnnlab").addHandler(logging.StreamHandler())
    config = uvicorn.Config(
        app,
        http=Connection,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        backlog=256,
    )
    Server(config, f"http://{shown}:{number}   Ctrl-C stops it").run(sockets=[listening])


def port_of(environment: Mapping[str, str]) -> int:
    """PORT, as a platform for containers sets it, or 8000. Raises ConfigError."""
    named = environment.get("PORT") or "8000"
    if not named.isdecimal():
        raise ConfigError(f"PORT={named!r} of the environment is no number; give --port or unset it.")
    return int(named)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port must be from 0 to 65535, got {port}.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends at once (TCP_NODELAY) only where the protocol is named; else a client that keeps its connection
        # waits 40 ms for the second part of an answer.
        listening = socket.socket(family, kind, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(256)  # who comes before the model is loaded waits
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such address"
        raise ConfigError(f"cannot listen on {host[:80]}:{port} ({reason}); give another --port or --host.") from None
    return listening
