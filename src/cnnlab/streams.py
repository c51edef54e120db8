"""Standard input, output and error as a command finds them: closed, of a narrow encoding, or left by their reader."""

from __future__ import annotations

import contextlib
import io
import os
import sys

_left: set[int] = set()  # descriptors whose reader has gone
_replaced: list[io.TextIOWrapper] = []


def prepare() -> None:
    """Make printing safe: what an encoding lacks is written as an escape, and what nobody reads is dropped.

    A command that trains must not end because its console does, as in `cnnlab train | head -1`.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # closed by who called us, as in `>&-`
            setattr(sys, name, _nothing(number))
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _tolerant(stream, number))


def has_reader() -> bool:
    """Whether standard output may still be read: for a command that does nothing but print."""
    return 1 not in _left


def is_unicode() -> bool:
    """Whether standard output takes every character."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def _nothing(number: int) -> io.TextIOWrapper:
    """The null device in the place of a closed descriptor, which the next file to be opened would take otherwise."""
    handle = os.open(os.devnull, os.O_RDWR)
    if handle != number:
        os.dup2(handle, number)
        os.close(handle)
    return open(number, "r" if number == 0 else "w", encoding="utf-8", errors="backslashreplace", closefd=False)


class _Output(io.FileIO):
    """A descriptor that takes what is written to it, and drops it once nobody reads on."""

    def write(self, data) -> int:  # type: ignore[no-untyped-def,override]  # any buffer
        try:
            return super().write(data)  # type: ignore[return-value]  # None: it would block, and the buffer knows
        except BrokenPipeError:
            _left.add(self.fileno())
            handle = os.open(os.devnull, os.O_WRONLY)
            os.dup2(handle, self.fileno())
            os.close(handle)
            return memoryview(data).nbytes


def _tolerant(stream: io.TextIOWrapper, number: int) -> io.TextIOWrapper:
    """The same stream, if it is that of the process; another one, as in a notebook, only takes every character."""
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    stream.reconfigure(errors="backslashreplace")
    with contextlib.suppress(OSError, ValueError, AttributeError):
        own = os.name == "posix" and type(stream) is io.TextIOWrapper and stream.fileno() == number
        if own and not isinstance(getattr(stream.buffer, "raw", stream.buffer), _Output):
            _replaced.append(stream)  # else it would close the descriptor when it is collected
            raw = io.BufferedWriter(_Output(number, "w", closefd=False))
            return io.TextIOWrapper(
                raw,
                stream.encoding,
                "backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
    return stream
