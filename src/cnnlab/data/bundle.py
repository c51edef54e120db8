"""A set as one zip file for rooms without network: train/CLASS/image, with the split that a run would make here."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from cnnlab.data.data import Data
from cnnlab.data.split import NAMES
from cnnlab.errors import DataError
from cnnlab.files import replace

OLDEST = (1980, 1, 1, 0, 0, 0)  # of all members, so that equal images give equal bytes


def write_bundle(data: Data, file: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Write the images of all three splits, a README and SHA256SUMS, and return the number of images.

    `data=folder data.root=UNPACKED` reads them with the same split. Images of a folder keep their bytes; others are
    PNG. The same set gives the same bytes.

    Args:
        progress: called with the images done and all of them.

    Raises:
        DataError: the file is there already or cannot be written, an image cannot be read, or the set is not one of
            images with one class each.
    """
    if file.exists():
        raise DataError(f"{file} is there already; give another file after --bundle, or delete it.")
    if data.in_batches or data.multi_label or data.pixel_targets:
        raise DataError("a bundle is a folder of images for each class, and this set is not one class per image.")
    part = file.with_name(f".{file.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as bundle:
            count = _fill(bundle, data, progress)
        replace(part, file)
    except OSError as error:
        raise DataError(f"cannot write {file} ({error.strerror}); give another file after --bundle.") from None
    finally:
        part.unlink(missing_ok=True)
    return count


def _fill(bundle: zipfile.ZipFile, data: Data, progress: Callable[[int, int], None] | None) -> int:
    total = sum(len(data.split[part]) for part in NAMES)
    sums: list[str] = []

    def add(name: str, content: bytes) -> None:
        bundle.writestr(zipfile.ZipInfo(name, OLDEST), content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")

    done = 0
    for part in NAMES:
        for number in map(int, data.split[part]):
            name, content = _image(data, number)
            folder = f"{part}/{data.classes[int(data.images.labels[number])]}"
            used = f"{folder}/{name}" in bundle.NameToInfo  # a/b.png and a-b.png
            add(f"{folder}/{number}-{name}" if used else f"{folder}/{name}", content)
            done += 1
            if progress is not None:
                progress(done, total)
    add("README.txt", _readme(data).encode())
    bundle.writestr(zipfile.ZipInfo("SHA256SUMS", OLDEST), "".join(sums))
    return done


def _image(data: Data, number: int) -> tuple[str, bytes]:
    """File name, with its folders as words before it, and content."""
    name = str(data.images.names[number])
    if Path(name).suffix and data.images.array is None:
        return name.replace("/", "-"), data.images.read_bytes(number)
    content = io.BytesIO()
    data.images.load_image(number).save(content, "png")
    return f"{name.replace('/', '-')}.png", content.getvalue()


def _readme(data: Data) -> str:
    counts = ", ".join(f"{len(data.split[part]):,} {part}" for part in NAMES)
    empty = [f" data.{part}_fraction=0" for part in ("val", "test") if not len(data.split[part])]
    return (
        f"{data.config.data.name}: {counts} images of {data.num_classes} classes, written by cnnlab data --bundle.\n\n"
        f"Unpack, then: cnnlab train data=folder data.root=FOLDER{''.join(empty)}\n"
        "Check the files: sha256sum -c SHA256SUMS\n"
    )
