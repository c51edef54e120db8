"""Whether a run of a model has room on the disk, and can be kept at all."""

from __future__ import annotations

import shutil

from torch import Tensor, nn

from cnnlab.errors import ModelError, RunError
from cnnlab.runs.folder import RunFolder


def check_space(folder: RunFolder, model: nn.Module) -> None:
    """Raise RunError early if the disk has no room for the run's files, ModelError if they cannot hold the model."""
    place = folder.path.absolute()
    while not place.exists():
        place = place.parent
    state = model.state_dict()
    if other := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ModelError(
            f"{other[0]} of the model's state is a {type(state[other[0]]).__name__}, and safetensors keeps tensors"
            " alone; let get_extra_state return a tensor."
        )
    weights = sum(t.numel() * t.element_size() for t in state.values())
    need = 8 * weights + 10_000_000  # weights, momenta, average, each with its successor, and the report
    free = shutil.disk_usage(place).free
    if free < need:
        raise RunError(
            f"no space left in {place}: a run of this model needs about {need / 1e6:,.0f} MB and {free / 1e6:,.0f} MB"
            " are free; free some or choose another run.dir."
        )
