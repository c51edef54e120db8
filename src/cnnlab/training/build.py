"""The model of a run before its first step: built from the config, tried on the data, begun as `init.*` says."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.config import Config
from cnnlab.data.data import Data
from cnnlab.data.own import import_dataset
from cnnlab.errors import CnnlabError, ConfigError
from cnnlab.imports import names_code
from cnnlab.models.initial import begin_as_identity, whiten_first_layer
from cnnlab.models.registry import create_model, find_model, import_model, model_arguments, rebuild_arguments
from cnnlab.models.transfer import transfer
from cnnlab.runs.source import read_source
from cnnlab.tasks import Task, load_code, task_of
from cnnlab.training.reproduce import BEFORE_TRAINING, seed_step

WHITENED = 2000  # images that init.whiten looks at


def build_model(config: Config, data: Data, trust_code: bool = False, resumed: bool = False) -> nn.Module:
    """The model of the config, fitted to the data, with weights drawn from the seed; `resumed`: they come later."""
    given = dict(config.model)
    name = given.pop("name")
    facts = {"in_channels": data.in_channels, "num_classes": data.num_classes, "image_size": list(data.image_size)}
    if trust_code:
        import_model(name)
    if resumed:
        given |= rebuild_arguments(find_model(name))
    seed_step(config.seed, BEFORE_TRAINING)
    model = create_model(name, **model_arguments(name, given, **facts))
    check_fit(model, data, task_of(config, data))
    return model


def import_code(config: Config) -> None:
    """Import what the config names as "package.module:name", except for the model. Its code runs.

    Raises:
        CnnlabError: it cannot be imported, or a name is not known.
    """
    import_dataset(config.data.name, config.adapt.data)
    load_code(config)


def runs_own_code(config: Config) -> bool:
    """Whether something is named as "package.module:Class", which a resume imports only if trusted."""
    adapted = config.adapt.data if config.adapt.method != "none" else None
    named = (config.model["name"], config.data.name, adapted, config.task, config.trainer.loss, *config.test.metrics)
    return any(names_code(name) for name in named)


def resume_command(run: Path, config: Config) -> str:
    """What goes on with this run on the command line."""
    return f"cnnlab resume {run}{' --trust-code' if runs_own_code(config) else ''}"


def check_fit(model: nn.Module, data: Data, task: Task) -> None:
    """Raise ConfigError unless the model takes the data's images, also while they grow, and answers as the task asks.

    Two grey images go through a copy of it. (On the meta device that would cost no arithmetic, but torch imports its
    compiler there, which takes longer.)
    """
    channels, augmentation = data.in_channels, data.train.augmentation
    sizes = {data.image_size}
    if augmentation is not None:
        growing = [augmentation.at(i / 16) for i in range(17)]
        sizes |= {(step.height, step.width) for step in growing}
    try:
        logits = _try_out(model, channels, sizes, data)
    except CnnlabError as error:
        if len(sizes) == 1:
            raise
        _try_out(model, channels, {data.image_size}, data)  # says what is wrong with the whole ones
        raise ConfigError(
            f"this model takes images of one size only ({str(error).split('.')[0]}), and here they grow while it"
            " trains; set augment.start_size=1 augment.end_size=1."
        ) from None
    except Exception as error:  # a model of the user's own can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "more than 1 value per channel" in reason:
            raise ConfigError(
                f"this model normalises over the batch, and trainer.batch_size={data.train.batch_size} leaves one"
                " number to normalise; use a larger batch."
            ) from None
        grows = " and augment.start_size, augment.end_size 1" if len(sizes) > 1 else ""
        raise ConfigError(
            f"the model cannot take images of {data.image_size[0]}×{data.image_size[1]} pixels with"
            f" {channels} channel(s) ({type(error).__name__}: {reason}). Set data.image_size larger{grows}, or choose"
            " other model.* arguments."
        ) from error
    if not isinstance(logits, Tensor):
        raise ConfigError(f"the model must give one tensor (B, num_classes), it gives a {type(logits).__name__}.")
    if wrong := task.mismatch(logits.shape, data.image_size):
        raise ConfigError(wrong)


def _try_out(model: nn.Module, channels: int, sizes: set[tuple[int, int]], data: Data) -> Any:
    """The logits of two images of the evaluated size, after a training batch of each of the sizes."""
    probe = copy.deepcopy(model).cpu().train()
    count = min(2, data.train.batch_size)  # what batch norm cannot do with two images it cannot do with more
    with torch.no_grad():
        for height, width in sorted(sizes):
            probe(torch.full((count, channels, height, width), 0.5))
        return probe.eval()(torch.full((2, channels, *data.image_size), 0.5))


def ends_in_softmax(model: nn.Module, data: Data, config: Config) -> bool:
    """Whether a network of the user's own gives probabilities to a loss of logits: two grey images tell."""
    ours = type(model).__module__.startswith("cnnlab.")
    if ours or data.pixel_targets or config.trainer.loss != "cross_entropy":
        return False
    answers = _try_out(model, data.in_channels, {data.image_size}, data).float()
    return bool(answers.ndim == 2 and (answers >= 0).all() and ((answers.sum(1) - 1).abs() < 1e-3).all())


@torch.no_grad()
def classes_of(model: nn.Module, images: Tensor) -> int:
    """How many classes a model answers for: the logits that it gives for (B, C, H, W) images.

    Raises ConfigError where it does not take them.
    """
    try:
        logits = copy.deepcopy(model).cpu().eval()(images[:2].cpu())
        return int(logits.shape[1])
    except Exception as error:  # a model of the user's own can fail in any way
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ConfigError(
            f"the model does not take the first batch, images {tuple(images.shape)} ({type(error).__name__}: {reason});"
            " change one of them."
        ) from error


def initialise(model: nn.Module, config: Config, data: Data, source: str | None) -> dict[str, Any] | None:
    """Put what `init.*` says into the model; None where nothing is loaded.

    Args:
        source: init.from, with the copy on this machine in the place of an address.

    Returns:
        The source, and the names of the tensors that were loaded, stayed fresh (with the reason) and were not used.

    Raises:
        RunError, ModelError: no such source, or weights that do not fit.
    """
    if config.init.dirac:
        begin_as_identity(model)
    if config.init.whiten:
        whiten_first_layer(model, sample_images(data))
    if source is None:
        return None
    tensors, answers = read_source(source)
    same = answers is None or answers == data.classes
    result = transfer(model, tensors, config.init.map, config.init.strict, keep_head=same)
    return {"source": config.init.source, "summary": result.describe(), **dataclasses.asdict(result)}


def sample_images(data: Data) -> Tensor:
    """(n, C, H, W) training images as the first steps would see them, some thousands or as many as there are."""
    batches = itertools.islice(data.train.epoch(0), -(-WHITENED // data.train.batch_size))
    return torch.cat([batch.images for batch in batches])[:WHITENED].cpu()
