"""MNIST-M: the digits of MNIST over photographs (Ganin et al. 2016, Domain-Adversarial Training, section 5.2.4).

Each image is |patch − digit|, channel by channel, with a patch of 28×28 pixels cut from a photograph at random and
the digit as a stencil: 255 wherever there is ink. Labels and the official split are those of MNIST.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnlab.data.decode import find_images, read_image
from cnnlab.data.sources.base import ArraySet
from cnnlab.data.sources.digits import FILES
from cnnlab.data.sources.mnist import open_mnist
from cnnlab.errors import DataError
from cnnlab.files import given_path, is_remote

SEED = 0  # the set is the same in every run, as if it had been downloaded
TEST_SHARE = 5  # every fifth photograph is behind test digits alone


def open_mnist_m(root: Path, backgrounds: str | None, download: bool, pixels: str | None = None) -> ArraySet:
    """70,000 images of 28×28×3 with the mask of the digit's ink, 1 where it is.

    Args:
        root: where MNIST lies.
        backgrounds: folder of photographs; None: the two that come with cnnlab.
        pixels: None: a class per image; "ink": pixels are background or digit; "digits": background or one of ten.

    Raises:
        DataError: no MNIST, fewer than two photographs, or one that is smaller than a digit.
    """
    digits = open_mnist("mnist", root, download)
    assert digits.array is not None and digits.official is not None
    photographs = read_photographs(backgrounds, digits.array.shape[1])
    images, masks = blend(digits.array, digits.official == "test", photographs, SEED)
    made = ArraySet(images, digits.labels, digits.classes, digits.official)
    if pixels == "digits":
        made.set_masks(masks * (made.labels + 1).astype(np.uint8)[:, None, None], ["background", *made.classes])
    else:
        made.set_masks(masks, ["background", "digit"] if pixels == "ink" else None)
    return made


def read_photographs(folder: str | None, side: int) -> list[np.ndarray]:
    """(H, W, 3) uint8 photographs, by name."""
    if folder is None:
        return [np.asarray(read_image(FILES / name)) for name in ("china.jpg", "flower.jpg")]
    if is_remote(folder):
        from cnnlab.data.remote import local_root

        folder = str(local_root(folder))
    place = given_path(folder, "data.backgrounds")
    if not place.is_dir():
        raise DataError(f"data.backgrounds={folder!r} is no folder; give one with photographs, or leave it out.")
    names = sorted(find_images([str(place)]))
    if len(names) < 2:
        raise DataError(
            f"{folder} holds {len(names)} photograph; two are needed at least, one behind the training digits and one"
            " behind the test digits."
        )
    photographs = []
    for name in names:
        try:
            image = read_image(name).convert("RGB")
        except DataError as error:
            raise DataError(f"the background {name} cannot be read ({error}); replace or delete it.") from None
        if min(image.size) < side:
            size = f"{image.width}×{image.height}"
            raise DataError(
                f"the background {name} has {size} pixels, fewer than the {side}×{side} of a digit; delete it."
            )
        photographs.append(np.asarray(image))
    return photographs


def blend(
    digits: np.ndarray, test: np.ndarray, photographs: Sequence[np.ndarray], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Digits over patches.

    Args:
        digits: (n, h, w) uint8; test: (n,) bool: which of them get patches of test photographs.
        photographs: (H, W, 3) uint8 each; every fifth, at least the last, is for test digits, the others for the rest.

    Returns:
        (n, h, w, 3) uint8 images and (n, h, w) uint8 masks, 1 where there is ink.
    """
    apart = np.arange(len(photographs)) % TEST_SHARE == TEST_SHARE - 1
    apart[-1] = apart[-1] or not apart.any()
    count, height, width = digits.shape
    random = np.random.Generator(np.random.PCG64(seed))
    draws = random.random((count, 3))
    patches = np.empty((count, height, width, 3), np.uint8)
    for part in (False, True):
        numbers = np.flatnonzero(apart == part)
        members = np.flatnonzero(test == part)
        chosen = numbers[(draws[members, 0] * len(numbers)).astype(int)]
        for i, photograph in zip(members, (photographs[n] for n in chosen), strict=True):
            top = int(draws[i, 1] * (photograph.shape[0] - height + 1))
            left = int(draws[i, 2] * (photograph.shape[1] - width + 1))
            patches[i] = photograph[top : top + height, left : left + width]
    masks = (digits > 0).astype(np.uint8)
    inverted = masks.astype(bool)[..., None]
    np.subtract(255, patches, out=patches, where=inverted)  # |p − 255| under the ink, |p − 0| beside it
    return patches, masks
