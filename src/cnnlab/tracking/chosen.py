"""The listeners that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from cnnlab.config import Config
from cnnlab.tracking.base import Tracker


def folder_trackers(config: Config, folder: Path, tensorboard: Path) -> list[Tracker]:
    """The listeners that `logger.*` asks for. metrics.jsonl is no listener: the loop itself writes it."""
    chosen: list[Tracker] = []
    if config.logger.tensorboard:
        from cnnlab.tracking.tensorboard import TensorBoardTracker

        chosen.append(TensorBoardTracker(tensorboard))
    if config.logger.wandb:
        from cnnlab.tracking.wandb import WandbTracker

        chosen.append(WandbTracker(folder, config.logger.wandb_project, config.logger.wandb_mode))
    return chosen
