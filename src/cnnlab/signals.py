"""Ctrl-C at any moment of a command: it stops in order, whatever a library makes of the KeyboardInterrupt."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

PATIENCE = 2.0  # seconds in which further presses are ignored, so that a held key does not cut short what cleans up


class CtrlC:
    """Within the context, Ctrl-C raises KeyboardInterrupt in the main thread, and `pressed` tells that it was.

    A library that catches KeyboardInterrupt, or turns it into an error of its own, cannot make it unknown. Nothing is
    changed where Ctrl-C is ignored, or handled by someone else.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._last = float("-inf")
        self._before: Any = None

    def __enter__(self) -> CtrlC:
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._press), sys.unraisablehook
            sys.unraisablehook = self._raise_later
        return self

    def _press(self, number: int, frame: FrameType | None) -> None:
        now, self.pressed = time.monotonic(), True
        if now - self._last < PATIENCE:
            return
        self._last = now
        raise KeyboardInterrupt

    def _raise_later(self, told: sys.UnraisableHookArgs) -> None:
        """A KeyboardInterrupt in what cannot raise, such as __del__, would be printed and lost."""
        if issubclass(told.exc_type, KeyboardInterrupt):
            self._last = float("-inf")
            _thread.interrupt_main()
        else:
            self._before[1](told)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            before, sys.unraisablehook = self._before
            signal.signal(signal.SIGINT, before)
