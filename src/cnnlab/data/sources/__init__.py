"""One file a source. `open_images` is the only door."""

from __future__ import annotations

import dataclasses

from cnnlab.config import DataConfig
from cnnlab.data.catalog import CATALOG, has_root
from cnnlab.data.sources.base import ImageSet
from cnnlab.errors import DataError, nearest
from cnnlab.files import given_path, is_remote
from cnnlab.values import are_names


def open_images(config: DataConfig) -> ImageSet:
    """The set of images that `data.name` and `data.root` name; nothing is decoded yet.

    Raises:
        DataError: an unknown name, missing or damaged files, or a tree that is no data set.
    """
    images = _open_anywhere(config)
    if not are_names(list(images.classes)):
        wrong = next(name for name in images.classes if not are_names([name]))
        raise DataError(f"the class name {wrong!r} contains characters that cannot be printed; rename its folder.")
    return images


def _open_anywhere(config: DataConfig) -> ImageSet:
    if not is_remote(config.root) or config.name not in CATALOG or not has_root(config.name):
        return _open(config)
    from cnnlab.data.remote import local_root

    copy = local_root(config.root, CATALOG[config.name].folder, config.download)
    try:
        return _open(dataclasses.replace(config, root=str(copy), download=False))  # the publisher's is another set
    except DataError as error:
        raise DataError(str(error).replace(str(copy), config.root)) from None


def _open(config: DataConfig) -> ImageSet:
    root = given_path(config.root, "data.root")
    if config.name == "digits":
        from cnnlab.data.sources.digits import open_digits

        return open_digits()
    if config.name == "multi_digits":
        from cnnlab.data.sources.multi_digits import open_multi_digits

        return open_multi_digits()
    if config.name in ("mnist", "fashion_mnist"):
        from cnnlab.data.sources.mnist import open_mnist

        return open_mnist(config.name, root, config.download)
    if config.name in ("mnist_m", "mnist_m_seg"):
        from cnnlab.data.sources.mnist_m import open_mnist_m

        pixels = config.pixels if config.name == "mnist_m_seg" else None
        return open_mnist_m(root, config.backgrounds, config.download, pixels)
    if config.name == "oxford_pets":
        from cnnlab.data.sources.pets import OxfordPets

        return OxfordPets(root, config.download)
    if config.name in ("cifar10", "cifar100"):
        from cnnlab.data.sources.cifar import open_cifar

        return open_cifar(config.name, root, config.download)
    if config.name == "caltech101":
        from cnnlab.data.sources.caltech101 import Caltech101

        return Caltech101(root, config.background, config.download)
    if config.name == "folder":
        from cnnlab.data.sources.folder import open_folder

        return open_folder(root, refuse_empty=config.max_corrupt < 1)
    from cnnlab.data.own import OWN_SET  # it imports this package

    if config.name == OWN_SET:
        raise DataError(
            "the images of this run were given from Python as objects, which no file can name; test there, with"
            " cnnlab.evaluate(RUN, data=...), or train with data=package.module:Class, which can be opened again."
        )
    raise DataError(f"unknown data {config.name!r}.{nearest(config.name, CATALOG)}")
