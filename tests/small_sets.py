"""Small sets of images in the layouts of the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_pets(root: Path, count: int = 12, **changes: Any) -> Path:
    """A small set in the layout of torchvision's download."""
    folder = root / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    lines = []
    for i in range(count):
        name = f"{'Bengal' if i % 2 else 'Beagle'}_{i}"
        trimap = np.full((40, 50), 2, np.uint8)
        trimap[10:30, 10 + i : 30 + i] = 3
        trimap[12:28, 12 + i : 28 + i] = 1
        image = np.where(trimap[..., None] == 1, np.uint8(220), np.uint8(40)).repeat(3, 2)
        Image.fromarray(image).save(folder / "images" / f"{name}.jpg", quality=95)
        Image.fromarray(changes.get("trimap", lambda t: t)(trimap)).save(
            folder / "annotations" / "trimaps" / f"{name}.png"
        )
        lines.append(f"{name} {1 + i % 2} {1 + i % 2} 1\n")
    (folder / "annotations" / "trainval.txt").write_text("".join(lines[:-4]))
    (folder / "annotations" / "test.txt").write_text("".join(lines[-4:]))
    return root


def write_mnist(root: Path, train: int = 240, test: int = 80) -> Path:
    """scikit-learn's digits at 28×28 pixels in the files of MNIST."""
    from sklearn.datasets import load_digits

    known = load_digits()
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    first = 0
    for part, count in (("train", train), ("t10k", test)):
        chosen = slice(first, first + count)
        first += count
        grown = [Image.fromarray(np.rint(one * 15.9).astype(np.uint8)).resize((20, 20)) for one in known.images[chosen]]
        images = np.pad(np.stack([np.asarray(one) for one in grown]), ((0, 0), (4, 4), (4, 4)))
        for name, values in (("images-idx3", images), ("labels-idx1", known.target[chosen].astype(np.uint8))):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
            (raw / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    return root
