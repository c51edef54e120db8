"""Metrics of the user's own, by name: a number for each image of a split, whose mean is reported with its interval."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cnnlab.imports import Registry

MetricFunction = Callable[[Tensor, Tensor], Tensor]
METRICS: Registry[MetricFunction] = Registry("test.metrics")


def register_metric(name: str) -> Callable[[MetricFunction], MetricFunction]:
    """Decorator: make a function known as `test.metrics=[name]`.

    It maps the logits (n, K) and labels (n,) of a split, on the processor, to a number for each image, (n,).
    """
    return METRICS.register(name)
