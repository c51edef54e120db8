"""The 60,000 JPEGs of CIFAR-10 as one file, for a machine that takes files but no folders of thousands of them.

    python benchmarks/pack_cifar.py pack ROOT/cifar10-jpeg cifar10.npz      # {train,test}/CLASS/NUMBER.jpg → 57 MB
    python benchmarks/pack_cifar.py unpack cifar10.npz FOLDER               # back, for data=folder data.root=FOLDER

The file holds the JPEGs one after the other as they are (`content`, bytes), where each ends (`ends`, int64) and their
names (`names`, text with a line per image, as bytes). A tar or zip of as many files would be larger by a third or a
tenth. `data=cifar10` cannot read them: torchvision wants the publisher's own files, by their checksums.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def pack(folder: Path, file: Path) -> int:
    """Write every JPEG below `folder` into `file`; returns how many."""
    paths = sorted(folder.glob("*/*/*.jpg"))
    contents = [path.read_bytes() for path in paths]
    names = "\n".join(path.relative_to(folder).as_posix() for path in paths)
    with open(file, "wb") as out:
        np.savez(
            out,
            content=np.frombuffer(b"".join(contents), np.uint8),
            ends=np.cumsum([len(content) for content in contents]),
            names=np.frombuffer(names.encode(), np.uint8),
        )
    return len(paths)


def unpack(file: Path, folder: Path, every: int = 1) -> int:
    """Write the JPEGs of `file`, or only one of `every` so many, below `folder`; returns how many.

    Names that lead out of the folder are refused.
    """
    with np.load(file, allow_pickle=False) as packed:
        content, ends = packed["content"], packed["ends"]
        names = packed["names"].tobytes().decode().split("\n")
    begins = [0, *ends[:-1].tolist()]
    chosen = list(zip(names, begins, ends.tolist(), strict=True))[::every]
    for name, begin, end in chosen:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{file} names {name!r}, which lies outside of {folder}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[begin:end].tobytes())
    return len(chosen)


def main() -> None:
    if len(sys.argv) != 4 or sys.argv[1] not in ("pack", "unpack"):
        sys.exit("pack FOLDER FILE, or unpack FILE FOLDER")
    one, other = Path(sys.argv[2]), Path(sys.argv[3])
    count = pack(one, other) if sys.argv[1] == "pack" else unpack(one, other)
    file = other if sys.argv[1] == "pack" else one
    print(f"{count:,} images, {file} has {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
