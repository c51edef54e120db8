"""Places outside this machine: gs://bucket/photos, s3://…, https://… and whatever else fsspec reaches.

Files come and go whole: a download has a temporary name until its size and its checksum are right. A failure is one
`RemoteError` that names the address, says why, and how to fix it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

from cnnlab.errors import RemoteError
from cnnlab.files import replace

AT_ONCE = 16  # files that travel at the same time
TRIES = 3  # of a download; the filesystems try again themselves where they know that it helps
STAMPS = ("generation", "etag", "ETag", "e_tag", "mtime", "last_modified", "LastModified", "updated", "created")
READ_ONLY = ("http", "https")
WHOLE_PUTS = ("gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "oci", "memory")  # a put replaces the object at once
CONNECT_SECONDS, SILENCE_SECONDS = 30, 60  # until a connection of gs:// is given up


@dataclass(frozen=True)
class RemoteFile:
    """`name` is below the address, with slashes; `size` in bytes; `stamp` changes with the content."""

    name: str
    size: int | None
    stamp: str
    md5: str | None = None  # base64, as buckets give it
    crc32c: str | None = None  # base64; all that a composite object of Google Cloud Storage has


class Remote:
    """What lies at and below an address.

    Raises:
        RemoteError: an unknown scheme, or the package for it is missing.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.scheme = address.partition("://")[0].lower()
        options: dict[str, Any] = {}
        for name in ("gcsfs", "fsspec", "google", "asyncio"):  # what goes wrong is raised; it need not be printed too
            logging.getLogger(name).addHandler(logging.NullHandler())
        try:
            import fsspec

            if self.scheme in ("gs", "gcs"):
                # The plain interface: the other asks of each bucket what kind it is, by another protocol.
                os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
                import aiohttp

                silence = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
                options["requests_timeout"] = silence  # without it a dead connection is waited for forever
            self.fs, self.root = fsspec.core.url_to_fs(self.address, **options)
        except Exception as error:
            raise self.failure(error) from None
        self.root = self.root.rstrip("/")

    def files(self, part: str = "") -> dict[str, RemoteFile]:
        """Every file below the address, or below its folder `part`, by name in order; none where there is nothing.

        Raises:
            RemoteError: no such bucket, no access, no network, or a name that would leave the folder it is copied to.
        """
        where = self._path(part)
        try:
            self.fs.invalidate_cache()
            found = self.fs.find(where, detail=True)
            if self.scheme in READ_ONLY:  # a page that lists a folder says nothing of sizes
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    found = dict(zip(found, pool.map(self.fs.info, found), strict=True))
                if not found:
                    raise FileNotFoundError
        except FileNotFoundError:
            if not self._has_bucket():
                raise self.failure(FileNotFoundError()) from None
            return {}
        except Exception as error:
            raise self.failure(error) from None
        files = {}
        for path, info in found.items():
            if path.rstrip("/") == self.root or path.endswith("/"):  # a folder that a console made
                continue
            name = path.removeprefix(self.root + "/")
            name = unquote(name) if self.scheme in READ_ONLY else name
            if name == path or any(piece in ("", ".", "..") for piece in name.split("/")) or "\\" in name:
                raise RemoteError(f"{self.address} holds a file of the name {name!r}, which no folder can; rename it.")
            files[name] = _facts(name, info)
        return dict(sorted(files.items()))

    def _has_bucket(self) -> bool:
        """Whether the bucket is there, though nothing lies below the address."""
        bucket = self.root.partition("/")[0]
        if self.scheme not in WHOLE_PUTS or not bucket:
            return self.scheme not in READ_ONLY
        try:
            self.fs.ls(bucket)
        except FileNotFoundError:
            return False
        except Exception as error:
            raise self.failure(error) from None
        return True

    def names(self) -> list[str]:
        """Names of what lies directly below the address; none where that cannot be told."""
        try:
            self.fs.invalidate_cache()
            return [PurePosixPath(path.rstrip("/")).name for path in self.fs.ls(self.root, detail=False)]
        except Exception:  # only ever asked for a hint
            return []

    def stat(self, name: str = "") -> RemoteFile:
        """One file; no name asks for the address itself. Raises RemoteError."""
        try:
            self.fs.invalidate_cache()
            return _facts(name, self.fs.info(self._path(name)))
        except Exception as error:
            raise self.failure(error, name) from None

    def _path(self, name: str) -> str:
        name = quote(name) if self.scheme in READ_ONLY else name
        return f"{self.root}/{name}" if name else str(self.root)

    def download(self, file: RemoteFile, to: Path) -> RemoteFile:
        """What arrived, which is newer than `file` where somebody has replaced it meanwhile.

        Raises RemoteError; `to` is then as it was.
        """
        temporary = to.with_name(f".{to.name}.{os.getpid()}.tmp")
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            for attempt in range(TRIES):
                try:
                    self.fs.get_file(self._path(file.name), str(temporary))
                    _check(temporary, file)
                    break
                except FileNotFoundError:
                    raise
                except Exception:
                    if attempt == TRIES - 1:
                        raise
                    time.sleep(0.2 * 4**attempt)
                    file = self.stat(file.name)
            replace(temporary, to)
        except Exception as error:
            raise self.failure(error, file.name) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return file

    def upload(self, source: Path, name: str) -> RemoteFile:
        """Put a file there, whole or not at all. Raises RemoteError."""
        self.refuse_read_only()
        path = self._path(name)
        try:
            if self.scheme in WHOLE_PUTS:
                self.fs.put_file(str(source), path)
            else:
                self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self.fs.put_file(str(source), f"{path}.tmp")
                self.fs.mv(f"{path}.tmp", path)
            self.fs.invalidate_cache()
            there = _facts(name, self.fs.info(path))
            _check(source, there)
        except Exception as error:
            raise self.failure(error, name) from None
        return there

    def refuse_read_only(self) -> None:
        """Raise RemoteError where nothing can be written."""
        if self.scheme in READ_ONLY:
            raise RemoteError(f"{self.address} can only be read; write to a bucket, such as gs://BUCKET/runs/mine.")

    def holds(self, source: Path, file: RemoteFile) -> bool:
        """Whether a file there has the content of one here. Raises RemoteError."""
        if file.size is not None and file.size != source.stat().st_size:
            return False
        if file.md5 is not None:
            return file.md5 == _md5(source)
        try:
            return bool(self.fs.cat_file(self._path(file.name)) == source.read_bytes())
        except Exception as error:
            raise self.failure(error, file.name) from None

    def failure(self, error: Exception, name: str = "") -> RemoteError:
        """One line for what went wrong there."""
        where = f"{self.address}/{name}" if name else self.address
        if isinstance(error, RemoteError):
            return error
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        google = self.scheme in ("gs", "gcs")
        if isinstance(error, ImportError):
            fix = "pip install 'cnnlab[gcp]'" if google else _package(self.scheme) or reason
            return RemoteError(f"{self.scheme}:// needs a package that is not installed: {fix}.")
        if isinstance(error, ValueError) and "Protocol not known" in reason:
            return RemoteError(f"{where}: {self.scheme}:// is not a supported kind of address; use gs:// or a path.")
        if isinstance(error, FileNotFoundError):
            return RemoteError(f"there is nothing at {where}, or no such bucket; check the address.")
        if _denied(error, reason):
            login = "log in with `gcloud auth application-default login`, or give" if google else "log in, or give"
            return RemoteError(f"no access to {where} ({reason}); {login} this account a role on the bucket.")
        if isinstance(error, OSError) and error.filename is not None:  # this machine's disk
            return RemoteError(
                f"{where} could not be copied ({error.strerror}: {error.filename}); fix that, try again."
            )
        return RemoteError(f"cannot reach {where} ({reason}); check the network and the address, and try again.")


class _Damaged(Exception):
    pass


def _facts(name: str, info: dict[str, Any]) -> RemoteFile:
    known = next(((key, info[key]) for key in STAMPS if info.get(key) is not None), ("size", info.get("size")))
    key, value = known[0], known[1].timestamp() if isinstance(known[1], datetime) else known[1]  # lists give numbers
    stamp = f"{key} {value:.6f}" if isinstance(value, float) else f"{key} {value}"
    return RemoteFile(name, info.get("size"), stamp, info.get("md5Hash"), info.get("crc32c"))


def _check(path: Path, file: RemoteFile) -> None:
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise _Damaged(f"{size:,} bytes of {file.size:,} arrived")
    if file.md5 is not None and file.md5 != _md5(path):
        raise _Damaged("its checksum is wrong")
    if file.md5 is None and file.crc32c is not None and _crc32c(path) not in (None, file.crc32c):
        raise _Damaged("its checksum is wrong")


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
    return base64.b64encode(digest).decode()


def _crc32c(path: Path) -> str | None:
    """None where the package is missing; it comes with gcsfs."""
    try:
        from google_crc32c import Checksum
    except ImportError:
        return None
    digest = Checksum()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return base64.b64encode(digest.digest()).decode()


def _denied(error: Exception, reason: str) -> bool:
    """Whether it is the credentials. The filesystems have no common class for that."""
    kind, code = type(error), str(getattr(error, "code", None) or getattr(error, "status", None))
    named = kind.__name__ in ("NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError")
    google = kind.__module__.startswith("google.auth") and kind.__name__ != "TransportError"
    return (
        isinstance(error, PermissionError)
        or reason.startswith("Forbidden")
        or code in ("401", "403")
        or google
        or named
    )


def _package(scheme: str) -> str:
    try:
        from fsspec.registry import known_implementations
    except ImportError:
        return "pip install 'cnnlab[gcp]'"
    return str(known_implementations.get(scheme, {}).get("err", ""))


def download_all(
    remote: Remote, files: Iterable[RemoteFile], folder: Path, done: Callable[[RemoteFile], None] = lambda file: None
) -> None:
    """Copy files into a folder under their names, several at once, behind a progress bar.

    Args:
        done: called for each file that has arrived whole.

    Raises:
        RemoteError: no room, or the first failure; what has arrived by then stays.
    """
    wanted = list(files)
    if not wanted:
        return
    need = sum(file.size or 0 for file in wanted)
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < need:
        raise RemoteError(
            f"no space left in {folder} for {need / 1e9:,.2f} GB of {remote.address}; free some, or set CNNLAB_CACHE to"
            " another disk."
        )
    with CopyBar(remote.address, need) as bar, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="copy") as pool:
        tasks = {pool.submit(remote.download, file, folder / file.name) for file in wanted}
        try:
            for task in as_completed(tasks):
                file = task.result()
                tasks.remove(task)
                done(file)
                bar.advance(file.size or 0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            for task in tasks:  # what was on its way counts
                if not task.cancelled() and task.exception() is None:
                    done(task.result())
            raise


class CopyBar:
    """What a person sees of a copy that takes more than a moment: a bar in a terminal, a line each tenth elsewhere."""

    PATIENCE = 1.0  # seconds without a word

    def __init__(self, address: str, total: int) -> None:
        self.address, self.total, self.done = address, max(1, total), 0
        self.began = time.monotonic()
        self.progress: Any = None

    def __enter__(self) -> CopyBar:
        return self

    def advance(self, size: int) -> None:
        before, self.done = self.done, self.done + size
        if time.monotonic() - self.began < self.PATIENCE:
            return
        if not sys.stderr.isatty():
            if before * 10 // self.total != self.done * 10 // self.total:
                print(
                    f"copying {self.address}: {self.done / 1e6:,.1f} of {self.total / 1e6:,.1f} MB",
                    file=sys.stderr,
                    flush=True,
                )
            return
        if self.progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn(f"copying {self.address}, once".replace("{", "{{").replace("}", "}}"), markup=False),
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
            )
            self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self.progress.start()
            self.task = self.progress.add_task("copy", total=self.total)
        self.progress.update(self.task, completed=self.done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()
