"""What a `Trainer` is made of, each part built by one function from the config, the model and the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from cnnlab.config import Config, TrainerConfig
from cnnlab.data.data import Data
from cnnlab.errors import ConfigError
from cnnlab.training.adapt import DomainAdversary, check_target, new_adversary
from cnnlab.training.convolution import fix_convolutions
from cnnlab.training.distributed import Group
from cnnlab.training.optim import add_parameters, create_optimizer


def check_training(config: Config, data: Data, group: Group) -> None:
    """Raise ConfigError for settings that this data, or this number of processes, cannot be trained with."""
    if config.trainer.early_stopping is not None and not data.val.count:
        raise ConfigError(
            "trainer.early_stopping watches the validation split, and it is empty; raise data.val_fraction."
        )
    check_target(data)
    group.check_shards(data)


def place_model(model: nn.Module, settings: TrainerConfig, device: torch.device) -> nn.Module:
    """The model where it is trained, in the memory layout that the config asks for."""
    model = model.to(device)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        fix_convolutions(model)
    return model


def balancing_weights(data: Data) -> np.ndarray[Any, Any]:
    """(n,) sampling weight of each training image, by which every class is drawn equally often."""
    counts = np.array(data.class_counts())
    return 1 / counts[data.images.labels[data.split.train]]  # type: ignore[no-any-return]


def build_adversary(config: Config, model: nn.Module, data: Data) -> DomainAdversary | None:
    """The domain classifier of `adapt.method=dann`, else None."""
    adversary = new_adversary(config.adapt, model, (data.in_channels, *data.image_size))
    return adversary if adversary is None else adversary.to(data.train.device)


def build_optimizer(
    config: Config, model: nn.Module, device: torch.device, frozen: Sequence[nn.Module], adversary: nn.Module | None
) -> torch.optim.Optimizer:
    """Over everything that learns now or, being in a frozen stage, later."""
    later = [parameter for stage in frozen for parameter in stage.parameters()]
    optimizer = create_optimizer(config.optimizer, model, device, later)
    if adversary is not None:
        add_parameters(optimizer, list(adversary.parameters()))
    return optimizer


def build_forward(learner: nn.Module, model: nn.Module, compiled: bool, config: Config, group: Group) -> Any:
    """What a step calls: the learner compiled, shared with the other processes, or as it is."""
    if compiled:
        return torch.compile(learner, dynamic=False)
    ours = type(model).__module__.startswith("cnnlab.")  # a class of the user's may leave layers unused
    return group.wrap(learner, ours and config.init.unfreeze_epoch is None)
