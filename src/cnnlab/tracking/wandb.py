"""Weights & Biases, an extra: off by default, usable offline."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from cnnlab.errors import ConfigError
from cnnlab.files import write_whole
from cnnlab.tracking.base import EpochEnded, Event, Started, Tested

RECORD = "wandb.json"  # the id of the W&B run, so that one that is resumed on another machine stays the same
WHOLE = ("environment.json", "split.json", "init.json", "metrics.jsonl", "best/model.safetensors", "best/model.json")
FINISHED = ("best/objects.json", "predictions.csv", "test.json", "report.html")
STATE = "last/state.pt"


def run_id(folder: Path) -> str:
    """The same for a resumed run, another for a run of the same name elsewhere; letters that W&B takes."""
    record = folder / RECORD
    if record.exists():
        return str(json.loads(record.read_text(encoding="utf-8"))["id"])
    place = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    chosen = re.sub(r"[^A-Za-z0-9_-]", "-", folder.name)[:48] + "-" + place
    write_whole(record, json.dumps({"id": chosen}) + "\n")
    return chosen


def artifact_files(folder: Path) -> list[str]:
    """What of a run folder makes a run elsewhere: to test and explain it, and to resume it where it is not finished."""
    done = (folder / FINISHED[-1]).exists()
    names = ["config.yaml", RECORD, *WHOLE, *(FINISHED if done else (STATE,))]
    return [name for name in names if (folder / name).is_file()]


class WandbTracker:
    """One W&B run; at the end, also of an interrupted training, the run folder becomes its artifact."""

    patience = 600.0  # what is brought up at the end may be much

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
        self.summary: dict[str, Any] = {}

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
                images = [self.wandb.Image(i, caption=c) for i, c in zip(*event.sample, strict=True)]
                self.run.log({"sample batch": images}, commit=False)
        elif isinstance(event, EpochEnded):
            shown: dict[str, Any] = dict(event.row)
            for name, gradient in event.gradients.items():
                shown[f"gradient_norm/{name}"] = gradient.norm
                histogram = self.wandb.Histogram(np_histogram=(gradient.counts, gradient.edges))
                shown[f"gradients/{name}"] = histogram
            self.run.log(shown, step=event.row["epoch"])
        elif isinstance(event, Tested):
            self.run.summary.update({f"test_{name}": value for name, value in event.summary.items()})
            self.summary = event.summary

    def close(self) -> None:
        if self.run is None:
            return
        try:
            names = artifact_files(self.folder)
            artifact = self.wandb.Artifact(f"model-{self.run.id}", type="model", metadata=self.summary)
            for name in names:
                artifact.add_file(str(self.folder / name), name=name)
            self.run.log_artifact(artifact, aliases=["best" if FINISHED[-1] in names else "interrupted"])
        finally:
            self.run.finish()
