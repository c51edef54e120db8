"""Every place that relies on internals of torch: what is patched, taken off, or has no public name.

Each was needed with the version in CHECKED_WITH. tests/test_torch_patches.py fails for one that torch no longer needs,
and for a torch newer than that: run it again, benchmarks/convolutions.py too, and raise the number.

- without_compiler, MetaMode, build_optimizers_without_compiler: torch imports its compiler, which takes a second, to
  mark functions as not to be compiled.
- bare_step: `optimizer.step` runs hooks, and its fused forms copy channels-last filters on processors.
- begin_momentum: the momentum of fused SGD is uninitialised after a first step that overflows in float16.
- BatchNormCounts: batch norm counts its batches with a kernel for each layer.
- copy_optimizer: copies of some optimizers cannot step where there is an accelerator.
- exportable: the ONNX exporter of older versions has no form of adaptive max pooling.
- replace_convolution, restore_convolutions: what `nn.Conv2d.forward` calls (training/convolution.py has the reasons).
- batch_statistics, batch_norm_gradients, SyncBatchNorm, shares_memory, end_with_launcher: functions of torch that have
  no public name.
"""

from __future__ import annotations

import copy
import functools
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as SyncBatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CHECKED_WITH = (2, 15)
COMPILER = "torch._dynamo"

# ---- without the compiler


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within, torch computes shapes on the meta device without importing its compiler.

    The functions that it does so with import it at their first call. They are given a module that leaves them as they
    are; whoever asks it for anything else gets the compiler.
    """
    if COMPILER in sys.modules:
        yield
        return

    def load(attribute: str) -> Any:
        sys.modules.pop(COMPILER)
        return getattr(importlib.import_module(COMPILER), attribute)

    stand_in: Any = ModuleType(COMPILER)
    stand_in.disable = lambda function, *_, **__: function
    stand_in.__getattr__ = load
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(COMPILER) is stand_in:
            del sys.modules[COMPILER]


class MetaMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that sees each operation, and whose definition does not import the compiler."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def build_optimizers_without_compiler() -> None:
    """Let optimizers of torch be built and cleared without importing the compiler, from now on.

    Their methods import it at their first call. Nothing here compiles them.
    """
    for method in vars(torch.optim.Optimizer).values():
        inner = getattr(method, "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            setattr(inner, "__dynamo_disable", inner)


# ---- a step of an optimizer

FUSED_STEPS = {getattr(torch, f"_fused_{name}_") for name in ("sgd", "adam", "adamw", "adagrad")}


def bare_step(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """`optimizer.step` without the hooks and the import of the compiler that torch wraps around it.

    On processors it does not copy channels-last filters either, as torch's fused steps do.
    """
    step: Any = type(optimizer).step
    while hasattr(step, "__wrapped__"):
        step = step.__wrapped__
    step = torch.no_grad()(functools.partial(step, optimizer))
    if any(p.device.type != "cpu" for group in optimizer.param_groups for p in group["params"]):
        return step  # type: ignore[no-any-return]

    def without_copies() -> None:
        with _MemoryOrder():
            step()

    return without_copies


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Let fused SGD begin with a momentum of zero, for training in float16.

    Else it takes memory as it comes in its first step, and where a gradient overflows there, which ends that step, what
    was in memory stays its momentum. With a dampening, the first gradient is dampened too.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            if group["fused"] and group["momentum"]:
                for p in group["params"]:
                    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def copy_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same with parameters of its own. Where there is an accelerator, a step asks whether a warning was given,
    which copies do not know, and then for settings that not every optimizer has."""
    twin: Any = copy.deepcopy(optimizer)
    twin._warned_capturable_if_run_uncaptured = True
    return twin  # type: ignore[no-any-return]


class _MemoryOrder(TorchFunctionMode):
    """Gives the fused steps channels-last tensors as contiguous ones, in the order of their memory."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in FUSED_STEPS:
            lists = [argument for argument in args if isinstance(argument, list | tuple) and argument]
            permuted = [_in_memory_order(together) for together in zip(*lists, strict=True)]
            columns = iter(list(column) for column in zip(*permuted, strict=True))
            args = tuple(next(columns) if isinstance(a, list | tuple) and a else a for a in args)
        return function(*args, **(kwargs or {}))


def _in_memory_order(together: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A parameter, its gradient and its averages, if they all lie in memory alike; their step count stays as it is."""
    first = together[0]
    if first.ndim != 4 or first.is_contiguous() or not first.is_contiguous(memory_format=torch.channels_last):
        return together
    if any(t.stride() != first.stride() for t in together if t.ndim):
        return together
    return tuple(t.permute(0, 2, 3, 1) if t.ndim else t for t in together)


# ---- batch norm


class BatchNormCounts:
    """A context within which the batch norm layers of a model add to their counts of batches all at once, at its end.

    `num_batches_tracked` is a tensor, and each layer adds 1 to it: twenty kernels in a forward pass of ResNet-20.
    Within, a number of Python stands in for it. Layers without a momentum, which read the count, and those with a
    `forward` of their own are left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
        torchs = [norm for norm in norms if type(norm).forward is nn.modules.batchnorm._BatchNorm.forward]
        self.norms = [norm for norm in torchs if norm.momentum is not None and norm.num_batches_tracked is not None]
        self.counts: list[Tensor] = []

    def __enter__(self) -> None:
        self.counts = [norm._buffers["num_batches_tracked"] for norm in self.norms]  # type: ignore[misc]
        for norm in self.norms:
            norm._buffers["num_batches_tracked"] = _Count()  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        added = [norm._buffers["num_batches_tracked"].number for norm in self.norms]  # type: ignore[union-attr]
        for norm, count in zip(self.norms, self.counts, strict=True):
            norm._buffers["num_batches_tracked"] = count
        if any(added):
            torch._foreach_add_(self.counts, added[0] if len(set(added)) == 1 else added)
        self.counts = []


class _Count:
    """As much of a tensor as batch norm uses of its count."""

    number = 0

    def add_(self, other: int) -> None:
        self.number += other


# ---- convolutions

CONVOLUTION = "_conv_forward"  # which `nn.Conv2d.forward` calls; hooks and tracers would see a subclass


def replace_convolution(layer: nn.Conv2d, convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> None:
    """Let a layer compute (input, weight, bias) → output in another way; its weights, names and class stay."""
    vars(layer)[CONVOLUTION] = convolve


def restore_convolutions(model: nn.Module) -> None:
    """Let every layer of a model compute as torch does."""
    for layer in model.modules():
        vars(layer).pop(CONVOLUTION, None)


# ---- export

VERSION = tuple(int(number) for number in torch.__version__.split(".")[:2])


def exportable() -> AbstractContextManager[Any]:
    """Within, a model in evaluation mode is traced without what the ONNX exporter of older versions, 2.11 at least,
    cannot translate. On the version in CHECKED_WITH nothing changes."""
    return nullcontext() if VERSION >= CHECKED_WITH else _MaximumForPooling()


class _MaximumForPooling(TorchFunctionMode):
    """Adaptive max pooling to one place as a maximum: the same values."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        to_one_place = function is torch.nn.functional.adaptive_max_pool2d and args[1:2] in ((1,), ((1, 1),), ([1, 1],))
        if to_one_place and not (kwargs or {}).get("return_indices"):
            return args[0].amax((2, 3), keepdim=True)
        return function(*args, **(kwargs or {}))


# ---- functions without a public name


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, ...) → mean (C,) and variance (C,), divided by n, of each channel."""
    mean, variance = torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)
    return mean, variance


def batch_norm_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of batch norm in evaluation mode: of the input (B, C, ...), of its weight (C,) and of its bias (C,)."""
    of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
        gradient, x, weight, mean, variance, None, None, False, eps, [True, True, True]
    )
    return of_x, of_weight, of_bias


def shares_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory, also on the meta device, where there are no addresses."""
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata


def end_with_launcher() -> None:
    """Let this process get SIGTERM when the one that started it ends; Linux only, as a no-op elsewhere."""
    from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

    _prctl_pr_set_pdeathsig(signal.SIGTERM)
