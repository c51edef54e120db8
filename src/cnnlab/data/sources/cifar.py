"""CIFAR-10 and CIFAR-100 in torchvision's layout; torchvision checks each file's checksum before it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cnnlab.data.sources.base import ArraySet
from cnnlab.data.sources.download import torchvision_set


def open_cifar(name: str, root: Path, download: bool) -> ArraySet:
    """`name` is "cifar10" or "cifar100"; 50,000 training and 10,000 test images of 32×32 pixels."""
    import torchvision.datasets

    dataset = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    train, test = (torchvision_set(dataset, name, root, download, train=part) for part in (True, False))
    labels = np.array([*train.targets, *test.targets])
    official = np.repeat(["train", "test"], [len(train.data), len(test.data)])
    return ArraySet(np.concatenate([train.data, test.data]), labels, train.classes, official)
