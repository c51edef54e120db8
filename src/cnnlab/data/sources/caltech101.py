"""Caltech-101 (Li et al. 2004): 101 classes of photographs, and a class of background that is off unless asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cnnlab.data.sources.base import FileSet
from cnnlab.data.sources.download import missing, torchvision_set
from cnnlab.data.sources.folder import scan
from cnnlab.errors import DataError

BACKGROUND = "BACKGROUND_Google"


class Caltech101(FileSet):
    """Map-style data set over ROOT/caltech101/101_ObjectCategories/CLASS/*.jpg.

    `load_image(i)` decodes one photograph, `load_label(i)` gives its class number, `dataset[i]` both.

    Args:
        root: the data root.
        background: keep BACKGROUND_Google as one more class.
        download: fetch the set from its publisher if it is missing.
    """

    def __init__(self, root: str | Path, background: bool = False, download: bool = False) -> None:
        folder = Path(root) / "caltech101" / "101_ObjectCategories"
        if not folder.is_dir():
            if not download:
                raise missing("caltech101", Path(root))
            import torchvision.datasets

            torchvision_set(torchvision.datasets.Caltech101, "caltech101", Path(root), download)
        entries = [entry for entry in scan(folder, folder) if background or entry[0] != BACKGROUND]
        classes = sorted({label for label, _ in entries})
        if len(classes) < 2:
            raise DataError(f"{folder} has {len(classes)} class; unpack the whole set.")
        number = {label: i for i, label in enumerate(classes)}
        super().__init__(folder, [name for _, name in entries], np.array([number[c] for c, _ in entries]), classes)
