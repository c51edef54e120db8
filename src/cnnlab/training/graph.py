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

from cnnlab.config import Config, TrainerConfig
from cnnlab.data.batch import Batch
from cnnlab.training.memory import ran_out_of_memory
from cnnlab.training.muon import Muon
from cnnlab.training.precision import Precision

EAGER_STEPS = 3  # of each size before it is recorded: cuDNN chooses its kernels, and optimizers begin, in the first
LEAST_STEPS = 200  # of a run that is worth the seconds that recording takes
RATE_IN_A_TENSOR = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # whose fused steps take one
LOSSES = ("cross_entropy", "focal", "mse")
OURS = ("cnnlab.", "torchvision.", "torch.nn.")

Replay = Callable[[], Any]


def pays_as_graph(settings: TrainerConfig, device: torch.device, steps: int) -> bool:
    """Whether `trainer.compile=auto` makes graphs of the steps of a run: on CUDA, if the run is long enough.

    As `can_be_graphed`, a function of the configuration and the machine's kind alone: a resumed run decides as the
    first did.
    """
    return settings.compile == "auto" and device.type == "cuda" and steps >= LEAST_STEPS


def can_be_graphed(config: Config, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision) -> bool:
    """Whether every step does the same on the device, and nothing in it is done by the processor.

    Layers, losses and tasks of the user's own may compute in Python, and so may hooks; dropout draws numbers; float16's
    scaler looks at each gradient; frozen stages thaw in the midst of a run; and not every optimizer takes its rate from
    a tensor.
    """
    fused = isinstance(optimizer, Muon) or (
        type(optimizer) in RATE_IN_A_TENSOR and all(group["fused"] for group in optimizer.param_groups)
    )
    own = config.trainer.loss not in LOSSES or ":" in str(config.task) or not all(map(_is_recordable, model.modules()))
    fixed = config.adapt.method == "none" and config.init.unfreeze_epoch is None and precision.name != "fp16"
    return fused and fixed and not own


def _is_recordable(layer: nn.Module) -> bool:
    draws = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
    hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer).__module__.startswith(OURS) and not draws and not hooked


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

    What draws random numbers is never recorded: its numbers come from the step's seed.

    Args:
        step: of batches, of whether the gradient's norm is taken, and of whether the gradients are looked at. It works
            on tensors alone: what it changes besides is changed once, when it is recorded.
        record: makes a function of nothing into one that does the same again.
        tell: is told once why nothing is recorded any more, where that fails.
    """

    def __init__(
        self,
        step: Callable[[list[Batch], bool, bool], None],
        scalars: StepScalars,
        record: Callable[[Callable[[], None]], Replay],
        tell: Callable[[str], None],
    ) -> None:
        self.step, self.scalars, self.record, self.tell = step, scalars, record, tell
        self.seen: Counter[Any] = Counter()
        self.recordings: dict[Any, tuple[list[Batch], Replay]] = {}
        self.gave_up = False

    def __call__(self, batches: list[Batch], with_norm: bool) -> None:
        """One step. Each size of the batches, with and without the norm, is recorded for itself."""
        key = with_norm, tuple(_form(tensor) for batch in batches for tensor in batch)
        if key not in self.recordings:
            self.seen[key] += 1
            if self.gave_up or self.seen[key] <= EAGER_STEPS or not self._recorded(key, batches):
                self._run_watched(batches, with_norm)
                return
        inputs, replay = self.recordings[key]
        for mine, given in zip(inputs, batches, strict=True):
            for into, tensor in zip(mine, given, strict=True):
                if into is not None and tensor is not None:
                    into.copy_(tensor, non_blocking=True)
        replay()

    def run(self, batches: list[Batch], with_norm: bool, keep_gradients: bool = False) -> None:
        """One step as it is."""
        with self.scalars.in_use():
            self.step(batches, with_norm, keep_gradients)

    def forget(self) -> None:
        """After tensors were exchanged that the recordings know, or to give back their memory."""
        self.recordings.clear()
        self.seen.clear()

    def _run_watched(self, batches: list[Batch], with_norm: bool) -> None:
        """A step as it is; one that draws random numbers is the last that could have been recorded."""
        device = self.scalars.share.device
        before = _random_state(device)
        self.run(batches, with_norm)
        self.gave_up = self.gave_up or not torch.equal(before, _random_state(device))

    def _recorded(self, key: Any, batches: list[Batch]) -> bool:
        """Record a step over copies of the batches; False where that fails."""
        inputs = [Batch._make(None if tensor is None else tensor.clone() for tensor in batch) for batch in batches]
        try:
            self.recordings[key] = inputs, self.record(lambda: self.run(inputs, key[0]))
        except RuntimeError as error:
            self.gave_up = True
            self.recordings.clear()
            self.scalars.optimizer.zero_grad()
            self.tell("out of memory" if ran_out_of_memory(error) else str(error).partition("\n")[0][:100])
            return False
        return True


def recorder(device: torch.device) -> Callable[[Callable[[], None]], Replay]:
    """Captures what a function launches on CUDA. All graphs share their memory, as one is replayed at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(function: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are watched: another may copy the next batch meanwhile.
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            function()
        return graph.replay

    return record


def _random_state(device: torch.device) -> Tensor:
    """Of the generator that layers on the device draw from; it lies on the processor."""
    state: Tensor = torch.get_rng_state() if device.type != "cuda" else torch.cuda.get_rng_state(device)
    return state


def _form(tensor: Tensor | None) -> Any:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype)
