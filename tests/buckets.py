"""Buckets of the tests: an emulator of Google Cloud Storage, and a filesystem that can be watched and can fail."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Bucket:
    """One bucket of the emulator, asked by its JSON interface and not by what the code under test uses."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name, self.address = url, name, f"gs://{name}"
        self.environment = {"STORAGE_EMULATOR_HOST": url}

    def names(self, below: str = "") -> list[str]:
        query = urllib.parse.urlencode({"prefix": below})
        with urllib.request.urlopen(f"{self.url}/storage/v1/b/{self.name}/o?{query}", timeout=20) as answer:
            return sorted(item["name"] for item in json.load(answer).get("items", []))

    def read(self, name: str) -> bytes:
        path = urllib.parse.quote(name, safe="")
        with urllib.request.urlopen(f"{self.url}/storage/v1/b/{self.name}/o/{path}?alt=media", timeout=20) as answer:
            return bytes(answer.read())

    def write(self, name: str, content: bytes) -> None:
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        kind = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.url}/upload/storage/v1/b/{self.name}/o?{query}", content, kind)
        urllib.request.urlopen(request, timeout=20).close()

    def write_tree(self, folder: Path, below: str) -> None:
        for file in folder.rglob("*"):
            if file.is_file() and not file.name.startswith("."):
                self.write(f"{below}/{file.relative_to(folder).as_posix()}", file.read_bytes())

    def tree(self, below: str, to: Path) -> Path:
        """What lies below a name, as a folder here."""
        for name in self.names(f"{below}/"):
            file = to / name.removeprefix(f"{below}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.read(name))
        return to


@contextlib.contextmanager
def emulator(name: str) -> Iterator[Bucket]:
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with contextlib.redirect_stderr(io.StringIO()):  # it tells of each connection that is closed early
        server = create_server("127.0.0.1", port, in_memory=True, default_bucket=name)
        server.start()
        yield Bucket(f"http://127.0.0.1:{port}", name)
        server.stop()


class WatchedFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """watched://…: in memory. `before` is called with (verb, path) and may raise; `after` when it is done."""

    protocol = "watched"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    before: Callable[[str, str], None] = staticmethod(lambda verb, path: None)
    after: Callable[[str, str], None] = staticmethod(lambda verb, path: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("watched://")))

    def find(self, path: str, **options: Any) -> Any:
        type(self).before("find", path)
        return super().find(path, **options)

    def get_file(self, path: str, to: str, **options: Any) -> None:
        type(self).before("get", path)
        super().get_file(path, to, **options)
        type(self).after("get", to)

    def put_file(self, source: str, path: str, **options: Any) -> None:
        type(self).before("put", path.removesuffix(".tmp"))
        super().put_file(source, path, **options)

    def mv(self, path: str, to: str, **options: Any) -> None:
        super().mv(path, to, **options)
        type(self).after("put", to)

    @classmethod
    def contents(cls) -> dict[str, bytes]:
        return {path: file.getvalue() for path, file in cls.store.items()}

    @classmethod
    def fill(cls, contents: dict[str, bytes]) -> None:
        cls.store.clear()
        for path, content in contents.items():
            cls().pipe_file(path, content)


@contextlib.contextmanager
def watched() -> Iterator[type[WatchedFileSystem]]:
    """The filesystem, empty."""
    fsspec.register_implementation("watched", WatchedFileSystem, clobber=True)
    quiet = staticmethod(lambda verb, path: None)
    try:
        yield WatchedFileSystem
    finally:
        WatchedFileSystem.store.clear()
        WatchedFileSystem.before = WatchedFileSystem.after = quiet  # type: ignore[assignment]
