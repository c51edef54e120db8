"""A training step as a CUDA graph: recorded once for each size of its images, then replayed as one launch.

A recording knows every tensor by its address, and every number as it was. So a step is recorded over

- copies of its first batch, into which the later ones are copied;
- the model, the optimizer's state, the average and the sums, which are changed in place and never exchanged;
- `StepScalars`, for what the processor computes anew for each step: the learning rates and the share of the average.

All but the capture itself is the same on every device (tests/training/test_training_graph.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.config import TrainerConfig
from cnnlab.data.batch import Batch
from cnnlab.training.memory import ran_out_of_memory
from cnnlab.training.muon import Muon

EAGER_STEPS = 3  # of each size before it is recorded: cuDNN chooses its kernels, and optimizers begin, in the first
LEAST_STEPS = 200  # of a run that is worth the seconds that recording takes
RATE_IN_A_TENSOR = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # whose fused steps take one

Replay = Callable[[], Any]


def pays_as_graph(
    settings: TrainerConfig, device: torch.device, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int
) -> bool:
    """Whether `trainer.compile=auto` makes graphs of the steps of a run: on CUDA, if the run is long enough, every step
    does the same, and nothing in it needs the processor.

    A function of the configuration and the machine's kind alone, as `choose_compile`.
    """
    fused = isinstance(optimizer, Muon) or (
        type(optimizer) in RATE_IN_A_TENSOR and all(group.get("fused") for group in optimizer.param_groups)
    )
    return settings.compile == "auto" and device.type == "cuda" and fused and steps >= LEAST_STEPS


class StepScalars:
    """What changes from step to step, in tensors that stay where they are.

    Attributes:
        share: scalar, by how much the average moves towards the weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        rates = list(dict.fromkeys(group["highest_lr"] for group in optimizer.param_groups))
        self.places = [rates.index(group["highest_lr"]) for group in optimizer.param_groups]
        self.highest = torch.tensor(rates, device=device)
        self.values = torch.zeros_like(self.highest)
        self.rates = list(self.values)
        self.share = torch.zeros((), device=device)

    def set(self, factor: float, share: float) -> None:
        """For the next step: the rate as a share of the highest one, and the share of the average."""
        torch.mul(self.highest, factor, out=self.values)
        self.share.fill_(share)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within, the optimizer steps by the rates in the tensors."""
        before = [dict(group) for group in self.optimizer.param_groups]
        for group, place in zip(self.optimizer.param_groups, self.places, strict=True):
            group["lr"] = self.rates[place]
            if "capturable" in group:
                group["capturable"] = True  # as its fused step is
        try:
            yield
        finally:
            for group, old in zip(self.optimizer.param_groups, before, strict=True):
                group.update(old)


class StepGraphs:
    """Runs a function of batches: as it is for the first few times that it sees their sizes, then as a recording.

    Args:
        step: of batches and of whether the gradient's norm is taken. It works on tensors alone: what it changes besides
            is changed once, when it is recorded.
        record: makes a function of nothing into one that does the same again.

    Attributes:
        failed: why steps are no longer recorded; "" while they are.
    """

    def __init__(
        self,
        step: Callable[[list[Batch], bool], None],
        scalars: StepScalars,
        record: Callable[[Callable[[], None]], Replay],
    ) -> None:
        self.step, self.scalars, self.record = step, scalars, record
        self.seen: Counter[Any] = Counter()
        self.recordings: dict[Any, tuple[list[Batch], Replay]] = {}
        self.failed = ""

    def __call__(self, batches: list[Batch], with_norm: bool) -> None:
        """One step. Batches of one size lie in memory alike."""
        key = with_norm, tuple(_form(tensor) for batch in batches for tensor in batch)
        if key not in self.recordings and (self.failed or self._is_early(key) or not self._recorded(key, batches)):
            self.run(batches, with_norm)
            return
        inputs, replay = self.recordings[key]
        for mine, given in zip(inputs, batches, strict=True):
            for into, tensor in zip(mine, given, strict=True):
                if into is not None and tensor is not None:
                    into.copy_(tensor, non_blocking=True)
        replay()

    def run(self, batches: list[Batch], with_norm: bool) -> None:
        """One step as it is."""
        with self.scalars.in_use():
            self.step(batches, with_norm)

    def forget(self) -> None:
        """After tensors were exchanged that the recordings know."""
        self.recordings.clear()
        self.seen.clear()

    def _is_early(self, key: Any) -> bool:
        """Whether steps of this size run as they are still. Those that draw random numbers always do."""
        self.seen[key] += 1
        return self.seen[key] <= EAGER_STEPS

    def _recorded(self, key: Any, batches: list[Batch]) -> bool:
        inputs = [Batch(*(None if tensor is None else tensor.clone() for tensor in batch)) for batch in batches]
        try:
            self.recordings[key] = inputs, self.record(lambda: self.run(inputs, key[0]))
        except RuntimeError as error:
            self.failed = "out of memory" if ran_out_of_memory(error) else type(error).__name__
            self.recordings.clear()
            return False
        return True


class CudaRecorder:
    """Captures what a function launches on CUDA. All graphs share their memory, as one is replayed at a time."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are watched: others may copy the next batch meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            function()
        return graph.replay


def draws_random_numbers(model: nn.Module) -> bool:
    """Whether a pass in training draws some, as far as layers tell: those of this package and of torch."""
    for layer in model.modules():
        random = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        if random or type(layer).__name__ in ("StochasticDepth", "RReLU", "FractionalMaxPool2d"):
            return True
        if not type(layer).__module__.startswith(("torch.nn.", "cnnlab.", "torchvision.")):
            return True  # a layer of the user's may do anything
    return False


def _form(tensor: Tensor | None) -> Any:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype)
