"""The processes that train one model together, with DistributedDataParallel (docs/distributed.md).

Each holds the whole model and takes its share of every batch. A loss is a share, too: that of the whole batch is the
sum over the processes, and so is its gradient.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from cnnlab.config import TrainerConfig
from cnnlab.data.batches import BatchLoader
from cnnlab.data.data import Data
from cnnlab.device import choose_device
from cnnlab.errors import ConfigError, DeviceError
from cnnlab.training.exchange import LARGEST, Exchange
from cnnlab.training.synchronise import SynchronisedBatchNorm

T = TypeVar("T")
WAIT = timedelta(minutes=5)  # that a process waits for the others on GPUs, before it takes one of them for lost


class Group:
    """The processes of a run, as one of them sees them; by default this process alone.

    Attributes:
        rank: number of this process, from 0; size: how many there are.
        local_rank, local_size: the same on this machine.
        restarted: whether they were started again after one of them was lost.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1, restarted: bool = False
    ) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self.restarted = restarted
        self.host: Any = None  # the group for what lies on the processor; None: that of everything
        self.exchange: Exchange | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes files and talks."""
        return self.rank == 0

    # ---- what each knows, known to all

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make()` gives in the first process."""
        if self.size == 1:
            return make()
        box = [make() if self.first else None]
        dist.broadcast_object_list(box, src=0, group=self.host, device=torch.device("cpu"))
        return cast(T, box[0])

    def gather(self, values: Tensor) -> Tensor:
        """(n,) → (size, n), a row per process; no gradient passes."""
        if self.size == 1:
            return values[None]
        values = values.detach().contiguous()
        if self.exchange is not None and values.device.type == "cpu" and values.nbytes <= LARGEST:
            return self.exchange.gather(values)
        rows = values.new_empty(self.size, len(values))
        dist.all_gather_into_tensor(rows, values, self.host if values.device.type == "cpu" else None)
        return rows

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes, bit for bit the same in each; no gradient passes."""
        if self.size == 1:
            return values
        return self.gather(values.reshape(-1)).sum(0, dtype=values.dtype).view(values.shape)

    def concatenate(self, rows: Tensor) -> Tensor:
        """(n, …) rows of each process, one process after the other; n may differ. No gradient passes."""
        if self.size == 1:
            return rows
        counts = self.gather(torch.tensor([len(rows)], dtype=torch.int64)).flatten().tolist()
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = self.gather(padded.reshape(-1)).view(self.size, *padded.shape)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def summed(self, values: Tensor) -> Tensor:
        """`total` through which the gradient passes, for the loss of the whole batch, which every process works out.

        `wrap` takes the mean of the processes' gradients, and that is the gradient of this loss.
        """
        return values if self.size == 1 else cast(Tensor, _Summed.apply(values, self))  # type: ignore[no-untyped-call]

    def any(self, wish: bool) -> bool:
        """Whether one of the processes wishes it."""
        return self.any_of_each(wish)[0]

    def any_of_each(self, *wishes: bool) -> list[bool]:
        """Whether one of the processes wishes the first, the second, …"""
        if self.size == 1:
            return list(wishes)
        return self.total(torch.tensor(wishes, dtype=torch.int64)).bool().tolist()

    # ---- training

    @property
    def shard(self) -> tuple[int, int]:
        """Which part of each batch is this process's, see `Loader.epoch`."""
        return self.rank, self.size

    def check_shards(self, data: Data) -> None:
        """Raise ConfigError where a batch has fewer images than there are processes, or where batches come from a
        DataLoader, which gives each process whole ones."""
        if self.size > 1 and isinstance(data.train, BatchLoader) and isinstance(data.train.source, DataLoader):
            raise ConfigError(
                f"the batches of a DataLoader cannot be shared by {self.size} processes; give a Dataset, or set"
                " trainer.devices=1."
            )
        for loader in (data.train, *([data.target_domain.train] if data.target_domain else [])):
            if loader.batch_size < self.size:
                raise ConfigError(
                    f"a batch of {loader.batch_size} cannot be shared by {self.size} processes; raise"
                    " trainer.batch_size, or lower trainer.devices."
                )

    def wrap(self, learner: nn.Module, all_learn: bool) -> nn.Module:
        """The module whose backward pass sums the gradients of all processes; itself where there is one.

        Buckets of gradients stay as they are built at first, so that a resumed run sums in the same order.

        Args:
            all_learn: every parameter that takes a gradient now gets one in each step. Otherwise those that do not
                are looked for, at every step.
        """
        if self.size == 1:
            return learner
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its new name is not in every version
            return DistributedDataParallel(
                learner, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=not all_learn
            )

    @contextmanager
    def batch(self, learner: Any, last: bool = True) -> Iterator[None]:
        """Around forward and backward pass: batch norm sees the whole batch, and after the last of the batches that
        make a step the gradients are summed."""
        if self.size == 1:
            yield
            return
        keep: AbstractContextManager[Any] = nullcontext()
        if not last and isinstance(learner, DistributedDataParallel):
            keep = learner.no_sync()
        with keep, SynchronisedBatchNorm(self.gather):
            yield

    def leave(self) -> None:
        """Go on alone: nothing is shared any more."""
        if self.exchange is not None:
            self.exchange.close()
            self.exchange = None
        if dist.is_initialized():
            dist.destroy_process_group()


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Group) -> Tensor:
        ctx.size = group.size
        return group.total(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * ctx.size, None  # the processes' gradients are averaged later, and belong summed


ALONE = Group()


def started_together() -> bool:
    """Whether a launcher (ours or torchrun) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def wants_several(devices: int) -> bool:
    """Whether this process has to start others, and is not one of them itself."""
    return devices > 1 and not started_together()


def is_main_process() -> bool:
    """Whether this process prints results: the first, or the only one."""
    return not started_together() or os.environ.get("RANK") == "0"


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that the environment says this process belongs to, in torchrun's words.

    Args:
        device: `trainer.device`; gradients travel by NCCL among CUDA GPUs, by gloo otherwise.

    Raises:
        DeviceError: fewer GPUs than processes on this machine, or a device that several cannot share.
    """
    if not started_together():
        yield ALONE
        return
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    group = Group(rank, size, local_rank, local_size, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0")
    if device_of(device, group).type == "cuda":
        torch.cuda.set_device(local_rank)
        dist.init_process_group("nccl", device_id=torch.device("cuda", local_rank), timeout=WAIT)
        group.host = dist.new_group(backend="gloo")
    else:
        dist.init_process_group("gloo")
    if local_size == size and hasattr(socket, "AF_UNIX") and hasattr(socket, "MSG_DONTWAIT"):
        group.exchange = _connect(group)
    try:
        yield group
    except BaseException:
        if group.exchange is not None:
            group.exchange.close()  # the others wait for our part, and learn by this that it will not come
        raise
    group.leave()


def _connect(group: Group) -> Exchange:
    place = Path(group.from_first(lambda: tempfile.mkdtemp(prefix="cnnlab-")))
    try:
        return Exchange(group.rank, group.size, place, lambda: dist.barrier(group.host))
    finally:
        if group.first:
            shutil.rmtree(place, ignore_errors=True)


def device_of(name: str, group: Group) -> torch.device:
    """Where a process computes: its own GPU, or the processor.

    Raises:
        DeviceError: fewer GPUs than processes on this machine, or a device that several cannot share.
    """
    device = choose_device(name)
    if group.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise DeviceError(
            f"trainer.device={device} is one device, and {group.size} processes train; use trainer.device=cuda or cpu."
        )
    if group.local_size > torch.cuda.device_count():
        raise DeviceError(
            f"{group.local_size} processes need a GPU each, and this machine has {torch.cuda.device_count()}; lower"
            " trainer.devices, or set trainer.device=cpu."
        )
    return torch.device("cuda", group.local_rank)


def threads_of(settings: TrainerConfig, group: Group) -> int | None:
    """Processor threads of each process: the machine's cores divided among its processes, unless they are given."""
    if settings.threads or group.local_size == 1 or "OMP_NUM_THREADS" in os.environ:
        return settings.threads
    return max(1, torch.get_num_threads() // group.local_size)


def lost_another(error: BaseException) -> bool:
    """Whether an error is but the echo of another process's end."""
    if isinstance(error, ConnectionError | dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Connection", "NCCL"))
