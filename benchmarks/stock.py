"""The rivals, as a careful user writes them: torchvision data sets and transforms, a DataLoader, a plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms
from torchvision.transforms import v2

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class ArrayImages(Dataset[tuple[Any, int]]):
    """What torchvision.datasets.CIFAR10 does: an array in memory, a Pillow image a sample, then the transform."""

    def __init__(self, data: np.ndarray, targets: np.ndarray, transform: Callable[..., Any]) -> None:
        self.data, self.targets, self.transform = data, targets.tolist(), transform

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]

    def __len__(self) -> int:
        return len(self.data)


def loader(dataset: Dataset[Any], batch_size: int = 128) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)


def cifar(data: np.ndarray, targets: np.ndarray) -> DataLoader[Any]:
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return loader(ArrayImages(data, targets, transforms.Compose([*steps, transforms.Normalize(CIFAR_MEAN, CIFAR_STD)])))


def cifar_v2(data: np.ndarray, targets: np.ndarray) -> DataLoader[Any]:
    """The same in torchvision's newer transforms."""
    steps = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(CIFAR_MEAN, CIFAR_STD)]
    return loader(ArrayImages(data, targets, v2.Compose(steps)))


def mnist(root: Path) -> DataLoader[Any]:
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    return loader(datasets.MNIST(root, train=True, transform=steps))


def caltech(root: Path, size: int = 128) -> DataLoader[Any]:
    steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return loader(datasets.ImageFolder(root / "caltech101" / "101_ObjectCategories", transforms.Compose(steps)))


def train_steps(model: nn.Module, batches: Iterator[Any], steps: int) -> float:
    """Images a second of the tutorial's loop in float32, data and all."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    model.train()
    count, began = 0, time.perf_counter()
    for _ in range(steps):
        images, labels = next(batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        count += len(labels)
    return count / (time.perf_counter() - began)


def train_tuned_steps(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[Any], steps: int) -> float:
    """Images a second of a careful user's loop: bfloat16 and channels last; `model` may be compiled."""
    count, began = 0, time.perf_counter()
    for _ in range(steps):
        images, labels = next(batches)
        images = images.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        count += len(labels)
    return count / (time.perf_counter() - began)


def forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
