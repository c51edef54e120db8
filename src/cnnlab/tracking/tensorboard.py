"""TensorBoard event files: losses, accuracies, rate, throughput, a sample batch, gradients by layer."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

from cnnlab.tracking.base import EpochEnded, Event, Gradient, Started, Tested


def _keep_quiet(threads: set[threading.Thread]) -> None:
    """What goes wrong in the writer's own thread is raised again by its next call; it need not be printed as well."""
    usual = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if failure.thread not in threads:
            usual(failure)

    threading.excepthook = hook


class TensorBoardTracker:
    """Writes below `folder`; a resumed run hides what it is about to repeat."""

    patience = 60.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def log(self, event: Event) -> None:
        if isinstance(event, Started):
            from torch.utils.tensorboard import SummaryWriter

            before = set(threading.enumerate())
            self.writer = SummaryWriter(str(self.folder), purge_step=event.epoch + 1 if event.epoch else None)
            _keep_quiet(set(threading.enumerate()) - before)
            if event.sample is not None and event.epoch == 0:
                self.writer.add_images("sample batch", event.sample[0], 0, dataformats="NHWC")
                self.writer.add_text("sample labels", ", ".join(event.sample[1]), 0)
        elif isinstance(event, EpochEnded):
            row = event.row
            for name in ("loss", "accuracy"):
                parts = {part: row[f"{part}_{name}"] for part in ("train", "val") if row[f"{part}_{name}"] is not None}
                for part, value in parts.items():
                    self.writer.add_scalar(f"{name}/{part}", value, row["epoch"])
            self.writer.add_scalar("lr", row["lr"], row["epoch"])
            self.writer.add_scalar("images_per_second", row["images_per_second"], row["epoch"])
            if row.get("gradient_norm") is not None:
                self.writer.add_scalar("gradient_norm", row["gradient_norm"], row["epoch"])
            for name, gradient in event.gradients.items():
                self.writer.add_scalar(f"gradient_norm/{name}", gradient.norm, row["epoch"])
                self._add_histogram(f"gradients/{name}", gradient, row["epoch"])
            self.writer.flush()
        elif isinstance(event, Tested):
            self.writer.add_scalar("accuracy/test", event.summary["accuracy"], 0)

    def _add_histogram(self, tag: str, gradient: Gradient, epoch: int) -> None:
        middles = [(low + high) / 2 for low, high in itertools.pairwise(gradient.edges)]
        self.writer.add_histogram_raw(  # type: ignore[no-untyped-call]
            tag,
            min=gradient.edges[0],
            max=gradient.edges[-1],
            num=sum(gradient.counts),
            sum=sum(count * middle for count, middle in zip(gradient.counts, middles, strict=True)),
            sum_squares=gradient.norm**2,
            bucket_limits=gradient.edges[1:],
            bucket_counts=gradient.counts,
            global_step=epoch,
        )

    def close(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()
