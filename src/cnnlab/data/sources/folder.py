"""One folder per class: ROOT/CLASS/* or ROOT/{train,val,test}/CLASS/*."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from cnnlab.data.decode import EXTENSIONS
from cnnlab.data.sources.base import FileSet
from cnnlab.errors import DataError, nearest

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
DEFAULT_SIDE = 128  # pixels, for images of different sizes
SMALL = 96  # images that all share a size up to this keep it
CONVERTIBLE = (  # images of other formats
    *(".heic", ".heif", ".avif", ".jfif", ".jp2", ".jxl", ".tga", ".psd", ".svg"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),  # of cameras, raw
)
OF_SYSTEM = ("Thumbs.db", "desktop.ini")  # what Windows puts into a folder
SHOWN = 5  # kinds of files in a note
SAMPLED = 256  # images whose headers tell whether all share a size and a colour mode


@dataclass
class LeftOut:
    """What lies in a tree of images and is not used.

    Attributes:
        files: how many files of each suffix are no images that can be read; hidden ones do not count.
        loose: images that lie beside the class folders.
        empty: why a class folder has no image, by its name below the root.
        beside: folders that lie beside those of the splits.
    """

    files: Counter[str] = field(default_factory=Counter)
    loose: int = 0
    empty: dict[str, str] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A line for each kind of these, with what to do."""
        found = []
        if count := self.files.total():
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.files.most_common(SHOWN))
            kinds += ", …" if len(self.files) > SHOWN else ""
            convert = [kind for kind in CONVERTIBLE if self.files[kind]]
            fix = f"; convert {' and '.join(convert)} to JPEG or PNG" if convert else ""
            found.append(f"files left out, as they are not readable images: {count:,} ({kinds}){fix}.")
        if self.loose:
            where = "next to the class folders, not used"
            found.append(f"images {where}: {self.loose:,}; move each into the folder of its class.")
        for name, why in self.empty.items():
            found.append(f"class folder {name} has no images ({why}) and is left out; add some, or delete the folder.")
        if self.beside:
            names = ", ".join(self.beside[:SHOWN]) + (", …" if len(self.beside) > SHOWN else "")
            found.append(f"folders next to train, not used: {names}; a split is called train, val or test.")
        return found


def open_folder(root: Path, *, refuse_empty: bool = True) -> FileSet:
    """Read the tree below `root`.

    Args:
        refuse_empty: False leaves class folders without images out, with a note.

    Raises:
        DataError: a missing root, an empty class folder, no image at all, fewer than two classes, or a class in
            val or test that train lacks.
    """
    if not root.is_dir():
        siblings = [entry.name for entry in root.parent.iterdir() if entry.is_dir()] if root.parent.is_dir() else []
        close = difflib.get_close_matches(root.name, siblings, n=1)
        hint = f" Did you mean {root.parent / close[0]}?" if close else ""
        raise DataError(
            f"{root} is not a folder; give the one that holds a folder of images per class: data.root=FOLDER.{hint}"
        )
    # A folder named train that holds images but no folders is a class of that name.
    named = [entry for entry in subfolders(root) if entry.name.lower() in SPLIT_NAMES]
    parts = {e.name: SPLIT_NAMES[e.name.lower()] for e in named} if any(map(subfolders, named)) else {}
    if parts and "train" not in parts.values():
        raise DataError(f"{root} has {', '.join(sorted(parts))} but no train folder; rename or add it.")
    left = LeftOut(beside=[e.name for e in subfolders(root) if e.name not in parts] if parts else [])
    left.loose = loose_images(root) if parts else 0
    found: dict[str, list[tuple[str, str]]] = {}  # split → (class, name below the root)
    for folder, split in sorted(parts.items()) if parts else [("", "all")]:
        found.setdefault(split, []).extend(scan(root, root / folder, left, refuse_empty))
    classes = sorted({label for label, _ in found["train" if parts else "all"]})
    for split, entries in found.items():
        strange = sorted({label for label, _ in entries} - set(classes))
        if strange:
            raise DataError(
                f"class {strange[0]!r} is in {split} but not in train.{nearest(strange[0], classes)}"
                " Add training images of it or take it out."
            )
    if not classes:
        raise DataError(f"{root} holds no images in its class folders; add some ({', '.join(EXTENSIONS)}).")
    if len(classes) < 2:
        raise DataError(f"{root} has one class, {classes[0]!r}; a classifier needs two or more folders of images.")
    number = {label: i for i, label in enumerate(classes)}
    rows = [(name, number[label], split) for split, entries in found.items() for label, name in entries]
    official = np.array([split for _, _, split in rows]) if parts else None
    images = FileSet(root, [row[0] for row in rows], np.array([row[1] for row in rows]), classes, official)
    images.size, images.mode = common_size_and_mode(images)
    images.missing = [part for part in ("val", "test") if parts and part not in parts.values()]
    images.notes = left.notes()
    return images


def subfolders(root: Path) -> list[Path]:
    """The folders in `root`, sorted, less the hidden ones; none where it is no folder."""
    return sorted(
        entry
        for entry in (root.iterdir() if root.is_dir() else ())
        if entry.is_dir() and not entry.name.startswith(".")
    )


def loose_images(folder: Path) -> int:
    return sum(entry.suffix.lower() in EXTENSIONS and not entry.name.startswith(".") for entry in folder.iterdir())


def scan(root: Path, folder: Path, left: LeftOut | None = None, refuse_empty: bool = True) -> list[tuple[str, str]]:
    """(class, image's name below the root) of every image in the class folders of `folder`, sorted.

    Args:
        left: takes note of what is not used.
        refuse_empty: raise DataError for a class folder without images; else it is left out.
    """
    left = LeftOut() if left is None else left
    class_folders = subfolders(folder)
    loose = loose_images(folder)
    left.loose += loose
    if not class_folders:
        raise DataError(
            f"{folder} has no class folders{f' but {loose:,} loose images' if loose else ''};"
            " put the images of each class into a folder named after it, and give the folder that holds these:"
            " data.root=FOLDER."
        )
    entries: list[tuple[str, str]] = []
    for class_folder in class_folders:
        files = sorted(Path(where) / file for where, _, names in os.walk(class_folder) for file in names)
        named = [file for file in files if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")]
        images = [file for file in named if file.is_file() or not file.exists()]  # a pipe would be waited for forever
        others = Counter(
            file.suffix.lower() or file.name
            for file in files
            if not (file.suffix.lower() in EXTENSIONS or file.name.startswith(".") or file.name in OF_SYSTEM)
        )
        if not images:
            kind = others.most_common(1)[0][0] if others else ""
            what = f"only files such as *{kind}" if kind else "no files"
            if refuse_empty:
                convert = f"convert {kind} to JPEG or PNG, " if kind in CONVERTIBLE else ""
                raise DataError(
                    f"class folder {class_folder} has no images ({what}); {convert}add some"
                    f" ({', '.join(EXTENSIONS)}) or delete the folder."
                )
            left.empty[class_folder.relative_to(root).as_posix()] = what
            continue
        left.files += others
        for file in images:
            if not is_text(str(file)):
                raise DataError(f"the file name {str(file)!r} is not valid text (UTF-8); rename it.")
        entries += [(class_folder.name, file.relative_to(root).as_posix()) for file in images]
    return entries


def is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def common_size_and_mode(images: FileSet) -> tuple[tuple[int, int] | None, str]:
    """Look at the headers of some images: their common (height, width), or None, and whether all are grey."""
    sizes, modes = set(), set()
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(len(images))[:SAMPLED]
    for name in [images.names[int(i)] for i in chosen]:
        try:
            with Image.open(images.root / name) as image:
                sizes.add((image.height, image.width))
                modes.add(image.mode)
        except Exception:  # a damaged file is found, named and quarantined when it is decoded
            continue
    size = sizes.pop() if len(sizes) == 1 else None
    return (size if size and max(size) <= SMALL else None), ("L" if modes and modes <= {"L", "1", "I;16"} else "RGB")
