"""Batch norm over the batch of all processes (Ioffe and Szegedy 2015, algorithm 1, with the means over them all)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cnnlab.torch_patches import SyncBatchNorm, batch_norm_gradients, batch_statistics

Numbers = np.ndarray[Any, np.dtype[np.float64]]  # of the channels, in double precision
Gather = Callable[[Tensor], Tensor]  # (n,) of each process → (processes, n)


class SynchronisedBatchNorm(TorchFunctionMode):
    """Within the context, batch norm in training mode normalises by the statistics of the batches of all processes.

    It stands in for `torch.nn.functional.batch_norm`, which every batch norm layer calls, so the model itself stays as
    it is: there is nothing to convert for training and back for validation. On GPUs the work is torch's own
    `SyncBatchNorm`; that refuses tensors of the processor, for which it is done here.
    """

    def __init__(self, gather: Gather) -> None:
        super().__init__()
        self.gather = gather

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        if x.device.type != "cpu":
            everyone = dist.group.WORLD
            result: Tensor = SyncBatchNorm.apply(
                x, weight, bias, running_mean, running_var, eps, momentum, everyone, dist.get_world_size()
            )
            return result
        mean, variance, count = _moments(x.detach(), self.gather)
        y: Tensor = _Normalise.apply(x, weight, bias, mean, variance, count, eps, self.gather)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(_tensor(mean, running_mean), momentum)
            running_var.lerp_(_tensor(variance * (count / (count - 1)), running_var), momentum)
        return y


def _numbers(values: Tensor) -> Numbers:
    """Small tensors go through NumPy, where an operation on a few numbers takes a quarter of the time."""
    numbers: Numbers = values.detach().double().numpy()
    return numbers


def _tensor(numbers: Numbers, like: Tensor) -> Tensor:
    return torch.from_numpy(numbers).to(like.dtype)


def _moments(x: Tensor, gather: Gather) -> tuple[Numbers, Numbers, float]:
    """(B, C, ...) of this process → mean (C,), variance (C,) and number of values per channel of all processes.

    Means and variances of each process are combined as Chan et al. 1979 do: no difference of large sums.
    """
    channels = x.shape[1]
    message = np.empty(2 * channels + 1)
    mine = batch_statistics(x)
    message[:channels], message[channels:-1], message[-1] = *map(_numbers, mine), x.numel() // channels
    rows: Numbers = gather(torch.from_numpy(message)).numpy()
    means, variances, counts = rows[:, :channels], rows[:, channels:-1], rows[:, -1:]
    count = float(counts.sum())
    if count < 2:
        raise ValueError("Expected more than 1 value per channel when training")
    parts = counts / count
    mean = (parts * means).sum(0)
    return mean, (parts * (variances + (means - mean) ** 2)).sum(0), count


class _Normalise(torch.autograd.Function):
    """Every pass over the images is one of torch's own for batch norm in evaluation mode, which are quick for any
    memory layout; only sums over the channels are made here."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Numbers,
        variance: Numbers,
        count: float,
        eps: float,
        gather: Gather,
    ) -> Tensor:
        """(B, C, ...) of this process → the same normalised by the mean (C,) and variance (C,) of all processes."""
        like = x if weight is None else weight
        mean_, variance_ = _tensor(mean, like), _tensor(variance, like)
        ctx.save_for_backward(x, weight, mean_, variance_)
        ctx.eps, ctx.gather, ctx.count, ctx.deviation = eps, gather, count, np.sqrt(variance + eps)
        return torch.batch_norm(x, weight, bias, mean_, variance_, False, 0.0, eps, False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        """∂/∂x = w/σ · (∂/∂y − mean(∂/∂y) − x̂ · mean(∂/∂y · x̂)), with the means over the batches of all processes."""
        x, weight, mean, variance = ctx.saved_tensors
        gradient = gradients[0]
        if x.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias = batch_norm_gradients(gradient, x, weight, mean, variance, ctx.eps)
        sums = ctx.gather(torch.cat([of_weight, of_bias]).double()).numpy().sum(0)
        scale = 1 / ctx.deviation if weight is None else _numbers(weight) / ctx.deviation
        along, even = (_tensor(part * scale / ctx.count, mean) for part in np.split(sums, 2))
        of_x.sub_(torch.batch_norm(x, along, even, mean, variance, False, 0.0, ctx.eps, False))
        wanted = ctx.needs_input_grad
        return of_x, of_weight if wanted[1] else None, of_bias if wanted[2] else None, None, None, None, None, None
