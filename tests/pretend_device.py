"""An accelerator that is only pretended, so that code for GPUs can be tested where there is none.

Within `pretended()`, torch takes the device `pretend` for the accelerator of this machine, and `trainer.device=auto`
finds it as it would find a GPU:

    with pretended() as device:
        trainer = ...                                # with trainer.device=auto
        device.clear()
        trainer.train_step(batches)
    assert not device.synchronisations               # else {"item training/trainer.py:300": 1, ...}
    assert device.launches.total() <= 120            # {"aten::convolution": 20, ...}

How it works: a tensor of this device is a `PretendTensor`, a wrapper around a tensor of the processor. Every operation
of torch comes to `_dispatch`, which computes it on what is wrapped and wraps the results. So numbers are real, and

- an operation on tensors of both devices raises `MixedDevices`, where a GPU would raise too;
- an operation is counted as one launch of a kernel, except for views, which launch none, and for operations on lists
  of tensors, see `_kernels`. What libraries do inside one operation, such as copying a sum's first term, is not seen;
- an operation whose kernel adds in any order raises while torch.use_deterministic_algorithms asks for others;
- what makes the processor wait for the device (`item()`, `nonzero()`, a blocking copy, …) is counted with the innermost
  line of cnnlab that caused it.

With `float64=False` the device has no float64, as Apple's GPUs (MPS).

What it does not show: what autocast casts (here it casts nothing), the rounding of a GPU, memory, streams, compiled
graphs, and how long anything takes. FakeTensorMode is not enough for this: it lets an index, a generator and the step
count of a fused optimizer lie on another device.

It stands on an API of torch that may change without notice. The module says so and does nothing where it is missing or
where torch is not the version it was written for: then `WHY_NOT` has the reason, and tests skip with it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

import cnnlab
from cnnlab.torch_patches import CHECKED_WITH

NAME = "pretend"
SETUP = "_setup_privateuseone_for_python_backend"
SOURCE = str(Path(cnnlab.__file__).parent)
VERSION = tuple(int(number) for number in torch.__version__.split(".")[:2])

WHY_NOT = ""
if VERSION != CHECKED_WITH:
    WHY_NOT = f"the pretended device is for torch {'.'.join(map(str, CHECKED_WITH))}, and this is {torch.__version__}"
elif not hasattr(backend_registration, SETUP):
    WHY_NOT = f"torch {torch.__version__} has no {SETUP}"

aten = torch.ops.aten
ALLOCATIONS = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"}
ALLOCATIONS |= {"aten::_unsafe_view"}  # a view of what nobody else has
# Tensors that one kernel of CUDA takes, by the number of lists (ATen/native/cuda/MultiTensorApply.cuh). A kernel also
# ends after 320 blocks of 65,536 numbers; that is for networks of more than 20 million.
IN_A_KERNEL = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
CONCATENATED = 64  # tensors that one kernel of `torch.cat` takes (ATen/native/cuda/Shape.cu)
COPIES = {aten._to_copy.default, aten.copy_.default}  # which may go from one device to the other
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
WAITS = {  # the size of the result, or the result itself, has to be known to the processor
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.is_nonzero.default: "is_nonzero",
    aten.equal.default: "equal",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_consecutive.default: "unique_consecutive",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}


NOT_DETERMINISTIC = {  # on CUDA, as torch.use_deterministic_algorithms and its documentation have it
    "aten::_adaptive_avg_pool2d_backward",
    "aten::adaptive_max_pool2d_backward",
    "aten::cumsum",
    "aten::grid_sampler_2d_backward",
    "aten::nll_loss2d_forward",
    "aten::reflection_pad2d_backward",
    "aten::replication_pad2d_backward",
    "aten::upsample_bilinear2d_backward",
}


class MixedDevices(RuntimeError):
    """Tensors of the processor and of the device in one operation."""


@dataclass
class Device:
    """What the pretended device was asked to do.

    Attributes:
        launches: by name of the operation; lines: by name and line, "aten::add training/trainer.py:300".
        synchronisations: by what waited and where, "item training/trainer.py:300".
        float64: whether it has float64.
    """

    float64: bool = True
    launches: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    synchronisations: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Count from zero."""
        self.launches.clear()
        self.lines.clear()
        self.synchronisations.clear()


_device: Device | None = None  # the one in use


@contextmanager
def pretended(float64: bool = True) -> Iterator[Device]:
    """Within, torch has an accelerator; see the head of the module. Afterwards it has none again."""
    global _device
    _register()
    _device = Device(float64)
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # a wrapper cannot become the `.data` of a tensor
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Mode():
            yield _device
    finally:
        _device = None
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_swap_module_params_on_conversion(swapped)


@cache
def _register() -> None:
    """Tell torch of the device, once and for all in this process; it is available within `pretended()` alone."""

    class Module(backend_registration._DummyBackendModule):
        def is_available(self) -> bool:
            return _device is not None

        def device_count(self) -> int:
            return int(_device is not None)

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    getattr(backend_registration, SETUP)(NAME, backend_module=Module())
    library = torch.library.Library("_", "IMPL")  # it lives as long as the process
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _register.library = library  # type: ignore[attr-defined]


class PretendTensor(Tensor):
    """A tensor of the pretended device; its numbers are those of `inner`, a tensor of the processor."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendTensor:
        if inner.dtype == torch.float64 and _device is not None and not _device.float64:
            raise TypeError(f"the device has no float64, which is made at {_where()}")
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({self.inner})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = self.detach().clone().requires_grad_(self.requires_grad)
        if self.grad is not None:
            made.grad = self.grad.detach().clone()
        memo[id(self)] = made
        return made

    def tolist(self) -> Any:
        _waits("tolist")
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("a tensor of the pretended device has no numpy array; use cpu() first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        _waits("save")
        return self.inner.detach().__reduce_ex__(protocol)


class _Mode(TorchDispatchMode):
    """Sees what has no tensor of the device among its arguments: what makes one, or copies one to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Check an operation, count it, compute it on what is wrapped, and wrap what it gives."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    ours = [one for one in tensors if isinstance(one, PretendTensor)]
    asked = kwargs.get("device")
    here = torch.device(asked).type == NAME if asked is not None else bool(ours)  # where the result will lie
    if not here and not ours:
        return func(*args, **kwargs)
    if func is aten.copy_.default:
        here = isinstance(args[0], PretendTensor)
    _check_devices(func, args, kwargs, tensors, ours)
    if func._schema.name in NOT_DETERMINISTIC and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(f"{func._schema.name} at {_where()} has no deterministic implementation on a GPU")
    _count(func, args, kwargs, tensors, ours, here)
    inner_kwargs = tree_map(_unwrap, kwargs)
    result = func(*tree_map(_unwrap, args), **inner_kwargs)
    if not here:
        return result
    inference = torch.is_inference_mode_enabled() and not (ours and _is_view(func) and not ours[0].is_inference())
    with torch.inference_mode(inference):  # a view of a normal tensor is one too, wherever it is taken
        wrapped = tree_map(lambda one: PretendTensor(one) if isinstance(one, Tensor) else one, result)
    if (func._schema.is_mutable or func.is_view) and len(ours) == len(tensors):
        return return_and_correct_aliasing(func, args, kwargs, wrapped)
    return args[0] if func._schema.is_mutable and isinstance(args[0], PretendTensor) else wrapped


def _unwrap(value: Any) -> Any:
    if isinstance(value, PretendTensor):
        return value.inner
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _check_devices(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], ours: list[PretendTensor]
) -> None:
    """Raise MixedDevices where a GPU would raise.

    Besides copies, two things may lie on the processor: a scalar that takes part in an elementwise operation, and the
    indices by which a tensor of the device is indexed.
    """
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != NAME:
        raise MixedDevices(f"{func}: a generator of {generator.device.type} for a tensor of the device")
    others = [one for one in tensors if not isinstance(one, PretendTensor)]
    if not ours or not others or func in COPIES:
        return
    written = func._schema.is_mutable and not any(args[0] is one for one in ours) and not isinstance(args[0], list)
    if func in INDEXING and isinstance(args[0], PretendTensor):
        indices = [one for one in tree_leaves(args[1]) if isinstance(one, Tensor)]
        allowed = all(one.dim() == 0 or any(one is index for index in indices) for one in others)
    else:
        allowed = torch.Tag.pointwise in func.tags and all(one.dim() == 0 for one in others)
    if written or not allowed:
        shapes = [f"{one.device.type} {tuple(one.shape)}" for one in tensors]
        raise MixedDevices(f"{func} at {_where()}: {', '.join(shapes)}")


def _count(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensors: list[Tensor],
    ours: list[PretendTensor],
    here: bool,
) -> None:
    if func in WAITS:
        _waits(WAITS[func])
    elif func in COPIES:
        source = args[1] if func is aten.copy_.default else args[0]
        blocking = not (kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2]))
        if isinstance(source, PretendTensor) != here and blocking:
            _waits("copy to the device" if here else "copy to the processor")
    elif func in INDEXING and any(one.dim() and not isinstance(one, PretendTensor) for one in tensors):
        _waits("copy of an index to the device")
    elif func in INDEXING and any(one.dtype == torch.bool for one in tree_leaves(args[1]) if isinstance(one, Tensor)):
        _waits("index by a mask")
    if _device is not None and not _is_view(func) and func._schema.name not in ALLOCATIONS:
        kernels = _kernels(func, args)
        _device.launches[func._schema.name] += kernels
        _device.lines[f"{func._schema.name} {_where()}"] += kernels


def _kernels(func: Any, args: tuple[Any, ...]) -> int:
    """1; of an operation on lists one for as many tensors as a kernel of CUDA takes, and a norm one more.

    That is if the tensors of all lists lie in memory alike, are dense and of one type; else one for each of them.
    """
    name = func._schema.name
    lists = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor)]
    if name in ("aten::cat", "aten::stack"):
        return -(-len(lists[0]) // CONCATENATED)
    if name.startswith("aten::_fused_"):
        lists = [one for one in lists if one[0].dim() or lists[0][0].dim() == 0]  # the counts of steps come apart
    elif not name.startswith("aten::_foreach_"):
        return 1
    together = list(zip(*lists, strict=False))
    alike = all((one.shape, one.stride()) == (first.shape, first.stride()) for first, *rest in together for one in rest)
    dense = all(aten.is_non_overlapping_and_dense(one.inner) for ones in together for one in ones)
    if not alike or not dense or len({one.dtype for one in lists[0]}) > 1:
        return len(lists[0])
    written = 0 if func._schema.is_mutable or name == "aten::_foreach_norm" else 1  # the list of results
    return -(-len(lists[0]) // IN_A_KERNEL[min(5, len(lists) + written)]) + (name == "aten::_foreach_norm")


def _is_view(func: Any) -> bool:
    aliases = (one.alias_info for one in func._schema.returns)
    return func.is_view or any(alias is not None and not alias.is_write for alias in aliases)


def _waits(what: str) -> None:
    if _device is not None:
        _device.synchronisations[f"{what} {_where()}"] += 1


def _where() -> str:
    """The innermost line of cnnlab that is being executed; backward passes run in a thread that knows of none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code: CodeType = frame.f_code
        if code.co_filename.startswith(SOURCE):
            return f"{code.co_filename[len(SOURCE) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside of cnnlab"
