"""The training loop, from the first epoch, or the last saved state, to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cnnlab.data.own import OWN_SET
from cnnlab.errors import Interrupted
from cnnlab.models.registry import OWN_MODULE
from cnnlab.runs.state import load_state
from cnnlab.torch_patches import restore_convolutions
from cnnlab.tracking.base import Noted, Trackers
from cnnlab.training.build import resume_command
from cnnlab.training.diagnose import Setup, diagnose, early_hint
from cnnlab.training.interrupt import InterruptGuard
from cnnlab.training.trainer import Trainer


def never() -> bool:
    """A `should_stop` that lets the training go on."""
    return False


def train(
    trainer: Trainer,
    trackers: Trackers,
    facts: dict[str, str],
    resumed: bool,
    by_fit: bool = False,
    should_stop: Callable[[], bool] = never,
) -> list[dict[str, Any]]:
    """Train to the last epoch, from the state in the run folder if `resumed`.

    Every epoch: train, validate, keep the weights that selection.py chooses, save the state, tell the trackers.

    Args:
        by_fit: the run is one of `cnnlab.fit`, and hints name its arguments.
        should_stop: asked after each step.

    Returns:
        The history, one row per epoch, as in metrics.jsonl.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or `should_stop`; the state is saved.
        NonFiniteLoss: the loss, a weight or what the optimizer keeps is no number any more; the state in the folder
            stays the last one that was finite.
    """
    folder = trainer.folder
    group = trainer.group
    if resumed:
        state = group.from_first(lambda: load_state(folder.state))
        trainer.restore(state)
        for kind, now in (("threads", torch.get_num_threads()), ("processes", group.size)):
            before = state.get(kind, 1)
            if before != now:
                trackers.log(Noted(f"resumed with {now} {kind} instead of {before}: the last digits may differ.", True))
    setup = Setup.of(trainer.data, trainer.config, by_fit)
    trackers.log(trainer.started(facts))
    with InterruptGuard() as guard, trainer.writer:
        while not trainer.finished:
            for event in trainer.train_epoch():
                if event is not None:
                    trackers.log(event)
                due = trainer.seconds_since_save > 60 * trainer.settings.checkpoint_minutes
                stop, due = group.any_of_each(guard.requested or should_stop(), due)
                if stop or due:
                    trainer.save()
                if stop:
                    raise _stopped(trainer)
            trackers.log(trainer.end_epoch())
            if hint := early_hint(trainer.state.history, setup):
                trackers.log(Noted(f"{hint} Training continues; Ctrl-C stops it, and nothing is lost.", True))
        if group.any(guard.requested or should_stop()):  # while the last epoch was validated: the test can wait
            raise _stopped(trainer)
    for parameter in trainer.thawed:
        parameter.requires_grad_()  # the report asks for gradients
    for hint in diagnose(trainer.state.history, setup):
        trackers.log(Noted(str(hint), True))
    return trainer.state.history


def _stopped(trainer: Trainer) -> Interrupted:
    path, config = trainer.folder.path, trainer.config
    if config.data.name == OWN_SET or config.model["name"] == OWN_MODULE or config.trainer.loss == "own":
        return Interrupted(
            f"stopped; the best weights so far are in {path}: load them with cnnlab.load_run. The run cannot be"
            " resumed, because no command can rebuild objects that were given from Python."
        )
    return Interrupted(f"stopped; everything is saved. Resume with `{resume_command(path, config)}`.")


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Within, a model is trained. Then it is given back, whatever happened: it computes as torch does, and the
    parameters that learned before may learn again."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        restore_convolutions(model)
        for parameter in learned:
            parameter.requires_grad_()
