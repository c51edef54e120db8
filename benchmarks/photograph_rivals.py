"""The rivals of benchmarks/photographs.py: ResNet-18 on a folder of photographs, as others train it. A process each.

    python benchmarks/photograph_rivals.py fastai|tuned ROOT

Reads a number of steps per line, trains that many, answers with images per second. It needs no cnnlab, so fastai can
run in an environment of its own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

BATCH, SIZE = 64, 128


def answer_each_line(train_some: Callable[[int], None]) -> None:
    for line in sys.stdin:
        steps, began = int(line), time.perf_counter()
        train_some(steps)
        print(steps * BATCH / (time.perf_counter() - began), flush=True)


def tuned(root: str) -> None:
    """A careful script: transforms v2, a DataLoader with one worker per core, bfloat16, channels last, a fused step."""
    from torch.utils.data import DataLoader
    from torchvision import datasets
    from torchvision.transforms import v2

    transforms = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    dataset = datasets.ImageFolder(root, transforms)
    workers = os.cpu_count() or 1
    loader: Any = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True, prefetch_factor=4
    )
    model: nn.Module = resnet18(num_classes=len(dataset.classes)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True)
    batches = iter(loader)

    def train_some(steps: int) -> None:
        nonlocal batches
        for _ in range(steps):
            try:
                images, labels = next(batches)
            except StopIteration:
                batches = iter(loader)
                images, labels = next(batches)
            images = images.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()

    answer_each_line(train_some)


def fastai(root: str) -> None:
    """The Learner with its usual transforms: images cropped to size by the workers, aug_transforms a batch."""
    from fastai.vision.all import (
        Callback,
        CancelFitException,
        CancelValidException,
        ImageDataLoaders,
        Learner,
        RandomResizedCrop,
        aug_transforms,
    )

    loaders = ImageDataLoaders.from_folder(
        root,
        valid_pct=0.2,
        seed=0,
        bs=BATCH,
        item_tfms=RandomResizedCrop(SIZE, min_scale=0.35),
        batch_tfms=aug_transforms(),
        num_workers=os.cpu_count() or 1,
    )

    class Measured(Callback):  # type: ignore[misc]
        """Waits between two lines with the loop where it is."""

        def __init__(self) -> None:
            self.left, self.steps, self.began = 0, 0, 0.0

        def before_validate(self) -> None:
            raise CancelValidException()

        def before_batch(self) -> None:
            if self.training and self.left == 0:
                line = sys.stdin.readline()
                if not line:
                    raise CancelFitException()
                self.left = self.steps = int(line)
                self.began = time.perf_counter()

        def after_batch(self) -> None:
            if self.training:
                self.left -= 1
                if self.left == 0:
                    print(self.steps * BATCH / (time.perf_counter() - self.began), flush=True)

    learner = Learner(loaders, resnet18(num_classes=loaders.c), cbs=Measured())
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1000)


if __name__ == "__main__":
    {"tuned": tuned, "fastai": fastai}[sys.argv[1]](sys.argv[2])
