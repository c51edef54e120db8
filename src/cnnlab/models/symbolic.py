"""Tracing a model with torch.fx while other threads compute."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import fx, nn

_one_at_a_time = threading.RLock()  # two traces that overlap would leave each other's functions in nn.Module


class ThreadTracer(fx.Tracer):
    """Traces what its own thread calls, and nothing else.

    While it traces, torch.fx has functions of its own in the place of nn.Module's `__call__` and `__getattr__`, for the
    whole process: a prediction in another thread would be taken for a part of the traced model, or fail. Here the calls
    of other threads go through as ever.
    """

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with _one_at_a_time:
            self._thread = threading.get_ident()
            return super().trace(root, concrete_args)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)
