"""k-fold cross-validation: every training image is validated once, and one final network learns from all of them.

A tenth of 200 images says little: its interval is 40 points wide. With `data.folds=5` five networks are trained, each
without a fifth of the images, on which it is validated; the mean over the folds is the number to compare settings by.
The network that is kept is then trained on all of them, as long and in the same way, and tested once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cnnlab.config import Config
from cnnlab.errors import ConfigError, Interrupted, RunError
from cnnlab.evaluation.intervals import mean_interval
from cnnlab.experiment import Run, run_experiment
from cnnlab.files import is_remote, write_whole
from cnnlab.runs.folder import new_folder
from cnnlab.tracking.base import Noted, Tracker
from cnnlab.values import to_json

Progress = Callable[[int, int], None]


def run_folds(
    config: Config,
    new_trackers: Callable[[], Sequence[Tracker]],
    progress: Progress | None = None,
    command: Sequence[str] = (),
    resume: bool = False,
) -> tuple[Run, dict[str, Any]]:
    """Train data.folds networks beside `run.dir`, in <run.dir>-folds, and the final one in it.

    Args:
        new_trackers: listeners for each of the trainings.
        resume: go on where the same command was interrupted.

    Returns:
        The final run, and the content of its folds.json: accuracies in [0, 1], mean, standard deviation, 95 % interval
        by Student's t. Each accuracy is that of the last epoch: the final network has no validation split to choose
        another by.

    Raises:
        ConfigError: what folds cannot be combined with. RunError: run.dir is taken. Interrupted: all is saved.
    """
    folds = config.data.folds
    if folds is None or config.trainer.devices > 1 or config.trainer.early_stopping is not None:
        raise ConfigError(
            "data.folds trains one process at a time, for a fixed number of epochs; leave out trainer.devices and"
            " trainer.early_stopping."
        )
    if config.run.dir is not None and is_remote(config.run.dir):
        raise ConfigError("data.folds needs a run.dir on this machine.")
    if resume and config.run.dir is None:
        raise ConfigError("--resume needs run.dir: a run that takes its name from the clock cannot be found again.")
    folder = new_folder(config)
    config = _placed(config, None, folder.path)
    beside = folder.path.with_name(f"{folder.path.name}-folds")
    if not resume:
        folder.refuse_if_taken()
        if beside.exists():
            raise RunError(f"{beside} is there already; go on with --resume, or choose another run.dir.")
    accuracies = []
    try:
        for fold in range(folds):
            listeners = new_trackers()
            for listener in listeners:
                listener.log(Noted(f"fold {fold + 1} of {folds}"))
            quiet = dataclasses.replace(config.logger, tensorboard=False, wandb=False)
            part = dataclasses.replace(_placed(config, fold, beside / str(fold + 1)), logger=quiet)
            run = run_experiment(part, listeners, progress, command, resume=True, test=False)
            accuracies.append(run.history[-1]["val_accuracy"])
        found = summary(accuracies)
        folder.path.mkdir(parents=True, exist_ok=True)
        write_whole(folder.folds, to_json(found, indent=1))
        listeners = new_trackers()
        for listener in listeners:
            listener.log(Noted(f"{text(found)}\nthe final network, on all of these images"))
        return run_experiment(config, listeners, progress, command, resume), found
    except Interrupted as stopped:
        again = f"the same command with run.dir={config.run.dir} and --resume"
        raise Interrupted(f"stopped; everything is saved. Resume with {again}.") from stopped


def summary(accuracies: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and 95 % interval (Student's t, within [0, 1]) of the folds' accuracies."""
    mean, spread, half = mean_interval(accuracies)
    interval = [max(0.0, mean - half), min(1.0, mean + half)]
    return {"accuracies": list(accuracies), "mean": mean, "standard_deviation": spread, "interval": interval}


def text(found: dict[str, Any]) -> str:
    """The summary in a line."""
    low, high = found["interval"]
    return (
        f"{len(found['accuracies'])} folds: validation accuracy {100 * found['mean']:.1f} %, 95 % interval"
        f" {100 * low:.1f}–{100 * high:.1f} %"
    )


def _placed(config: Config, fold: int | None, folder: Path) -> Config:
    run = dataclasses.replace(config.run, dir=str(folder))
    return dataclasses.replace(config, run=run, data=dataclasses.replace(config.data, fold=fold))
