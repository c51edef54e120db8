"""Weights & Biases, an extra: off by default, usable offline."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from cnnlab.errors import ConfigError
from cnnlab.tracking.base import EpochEnded, Event, Started, Tested


def run_id(folder: Path) -> str:
    """The same for a resumed run, another for a run of the same name elsewhere; letters that W&B takes."""
    place = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9_-]", "-", folder.name)[:48] + "-" + place


class WandbTracker:
    """One W&B run; the best weights become an artifact at the end."""

    def __init__(self, folder: Path, project: str, mode: str) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError(
                "logger.wandb=true needs the package wandb; install it with `pip install cnnlab[wandb]`."
            ) from None
        self.wandb: Any = wandb
        self.folder, self.project, self.mode = folder, project, mode
        self.run: Any = None

    def log(self, event: Event) -> None:
        if isinstance(event, Started):
            self.run = self.wandb.init(
                project=self.project,
                name=self.folder.name,
                id=run_id(self.folder),
                resume="allow",
                dir=str(self.folder),
                mode=self.mode,
                config=event.config,
            )
            if event.sample is not None and event.epoch == 0:
                pictures = [self.wandb.Image(i, caption=c) for i, c in zip(*event.sample, strict=True)]
                self.run.log({"sample batch": pictures}, commit=False)
        elif isinstance(event, EpochEnded):
            shown: dict[str, Any] = dict(event.row)
            for name, gradient in event.gradients.items():
                shown[f"gradient_norm/{name}"] = gradient.norm
                histogram = self.wandb.Histogram(np_histogram=(gradient.counts, gradient.edges))
                shown[f"gradients/{name}"] = histogram
            self.run.log(shown, step=event.row["epoch"])
        elif isinstance(event, Tested):
            self.run.summary.update({f"test_{name}": value for name, value in event.summary.items()})
            artifact = self.wandb.Artifact(f"model-{self.run.id}", type="model", metadata=event.summary)
            artifact.add_file(event.weights)
            self.run.log_artifact(artifact, aliases=["best"])

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()
