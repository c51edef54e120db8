"""Batch norm over the batch of all processes (Ioffe and Szegedy 2015, algorithm 1, with the means over them all)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
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
        y, mean, variance, count = _Normalise.apply(x, weight, bias, eps, self.gather)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean), momentum)
                running_var.lerp_((variance * (count / (count - 1))).to(running_var), momentum)
        return y


class _Normalise(torch.autograd.Function):
    """Every pass over the pictures is one of torch's own for batch norm in evaluation mode, which are quick for any
    memory layout; only sums over the channels are made here."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, gather: Gather
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, C, ...) of this process → the same normalised, and mean (C,), variance (C,) and count of all processes.

        Means and variances of each process are combined as Chan et al. 1979 do: no difference of large sums.
        """
        like = (x if weight is None else weight).detach()
        zeros = torch.zeros(x.shape[1], dtype=like.dtype)
        mine = aten.batch_norm_update_stats(x, zeros, torch.ones_like(zeros), 0.0)
        size = x.numel() // x.shape[1]
        rows = gather(torch.cat([*mine, zeros.new_full((1,), size)]).double())
        means, variances, counts = torch.tensor_split(rows, [x.shape[1], 2 * x.shape[1]], dim=1)
        count = counts.sum()
        if count < 2:
            raise ValueError("Expected more than 1 value per channel when training")
        parts = counts / count
        mean = (parts * means).sum(0)
        variance = (parts * (variances + (means - mean) ** 2)).sum(0)
        mean_, variance_ = mean.to(like.dtype), variance.to(like.dtype)
        ctx.save_for_backward(x, weight, mean_, variance_)
        ctx.eps, ctx.gather, ctx.count = eps, gather, count
        y = torch.batch_norm(x, weight, bias, mean_, variance_, False, 0.0, eps, False)
        ctx.mark_non_differentiable(mean_, variance_, count)
        return y, mean_, variance_, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        """∂/∂x = w/σ · (∂/∂y − mean(∂/∂y) − x̂ · mean(∂/∂y · x̂)), with the means over the batches of all processes."""
        x, weight, mean, variance = ctx.saved_tensors
        gradient = gradients[0]
        if x.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias = aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat([of_weight, of_bias]).double()
        along, even = (ctx.gather(sums).sum(0) / ctx.count).to(mean.dtype).chunk(2)
        scale = (variance + ctx.eps).rsqrt()
        scale = scale if weight is None else scale * weight
        of_x.sub_(torch.batch_norm(x, scale * along, scale * even, mean, variance, False, 0.0, ctx.eps, False))
        wanted = ctx.needs_input_grad
        return of_x, of_weight if wanted[1] else None, of_bias if wanted[2] else None, None, None
