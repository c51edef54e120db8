"""Oxford-IIIT Pet: cats and dogs with a class for every pixel (Parkhi et al. 2012, Cats and Dogs)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from cnnlab.data.sources.base import FileSet
from cnnlab.data.sources.download import missing, torchvision_set
from cnnlab.errors import DataError

PIXEL_CLASSES = ("background", "pet", "border")
TRIMAP = np.full(256, 255, np.uint8)  # the value of a trimap's pixel → its class; 255: none
TRIMAP[[2, 1, 3]] = (0, 1, 2)


class OxfordPets(FileSet):
    """Map-style data set over ROOT/oxford-iiit-pet, torchvision's layout: images/*.jpg and annotations/.

    The classes of pixels are background, pet, and the border between them; the breed is the class of an image.
    """

    def __init__(self, root: Path, download: bool) -> None:
        folder = root / "oxford-iiit-pet"
        lists = [folder / "annotations" / f"{part}.txt" for part in ("trainval", "test")]
        if not all(path.is_file() for path in lists):
            if not download:
                raise missing("oxford_pets", root)
            import torchvision.datasets

            torchvision_set(torchvision.datasets.OxfordIIITPet, "oxford_pets", root, download)
        rows = [(part, *row) for part, path in zip(("train", "test"), lists, strict=True) for row in read_list(path)]
        if not rows:
            raise DataError(f"{lists[0]} names no image; fetch the set again.")
        numbers = sorted({label for _, _, label in rows})
        breeds = {label: name.rsplit("_", 1)[0] for _, name, label in rows}
        labels = np.array([numbers.index(label) for _, _, label in rows])
        official = np.array([part for part, _, _ in rows])
        super().__init__(
            folder, [f"images/{name}.jpg" for _, name, _ in rows], labels, [breeds[n] for n in numbers], official
        )
        self.pixel_classes = PIXEL_CLASSES

    def _trimap(self, index: int) -> Path:
        return self.root / "annotations" / "trimaps" / (Path(self.names[index]).stem + ".png")

    def load_mask(self, index: int) -> Image.Image:
        path = self._trimap(index)
        try:
            with Image.open(path, formats=("PNG",)) as image:
                values = np.asarray(image)
        except Exception as error:  # a damaged file can make a decoder raise nearly anything
            raise DataError(f"its trimap {path.name} cannot be read ({error})") from None
        if values.ndim != 2 or values.dtype != np.uint8:
            raise DataError(f"its trimap {path.name} is not an image of one channel and 8 bits")
        classes = TRIMAP[values]
        if classes.max(initial=0) == 255:
            odd = int(values[classes == 255][0])
            raise DataError(f"its trimap {path.name} has pixels of {odd}, and only 1, 2 and 3 are classes")
        return Image.fromarray(classes)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(super().fingerprint().encode())
        for index in range(len(self)):
            try:
                facts = os.stat(self._trimap(index))
                digest.update(f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}\n".encode())
            except OSError:
                digest.update(b"missing\n")
        return digest.hexdigest()


def read_list(path: Path) -> list[tuple[str, int]]:
    """Lines such as "Abyssinian_100 1 1 1" → (name, number of the breed). Raises DataError for others."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) < 2 or not words[1].isdecimal() or "/" in words[0] or "\\" in words[0]:
            raise DataError(f"{path} has a line that names no image and breed: {line[:60]!r}; fetch the set again.")
        rows.append((words[0], int(words[1])))
    return rows
