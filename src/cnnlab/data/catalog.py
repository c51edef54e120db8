"""What is known about each set of images before a file of it is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetInfo:
    """A set by name: what it shows, its official splits, where it lies under the data root, where it comes from.

    `folder` is the only one below the root that it needs; "" is all of it.
    """

    title: str
    channels: int
    official_splits: tuple[str, ...]
    layout: str
    origin: str
    licence: str
    folder: str = ""
    rooted: bool = True  # whether its images lie below the data root


CATALOG = {
    "digits": DatasetInfo(
        "1,797 handwritten digits of 8×8 pixels, ten classes",
        1,
        (),
        "inside cnnlab, nothing to download",
        "Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, doi 10.24432/C50P49",
        "CC BY 4.0",
        rooted=False,
    ),
    "multi_digits": DatasetInfo(
        "5,000 images of 32×32 pixels with one to four handwritten digits each, ten classes, several per image",
        1,
        ("train", "test"),
        "made from the digits inside cnnlab, nothing to download",
        "after Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, doi 10.24432/C50P49",
        "CC BY 4.0",
        rooted=False,
    ),
    "mnist": DatasetInfo(
        "70,000 handwritten digits of 28×28 pixels, ten classes",
        1,
        ("train", "test"),
        "ROOT/MNIST/raw/*-ubyte",
        "LeCun, Cortes and Burges 1998",
        "CC BY-SA 3.0",
        "MNIST",
    ),
    "mnist_m": DatasetInfo(
        "70,000 digits of MNIST over patches of photographs, 28×28 pixels in colour, ten classes",
        3,
        ("train", "test"),
        "made from MNIST and the photographs in data.backgrounds, or two that come with cnnlab",
        "after Ganin et al. 2016, Domain-Adversarial Training of Neural Networks, section 5.2.4",
        "CC BY-SA 3.0, and that of the photographs",
        "MNIST",
    ),
    "mnist_m_seg": DatasetInfo(
        "70,000 digits over patches of photographs, 28×28 pixels in colour, a class for every pixel",
        3,
        ("train", "test"),
        "made from MNIST and the photographs in data.backgrounds, or two that come with cnnlab",
        "after Ganin et al. 2016, Domain-Adversarial Training of Neural Networks, section 5.2.4",
        "CC BY-SA 3.0, and that of the photographs",
        "MNIST",
    ),
    "oxford_pets": DatasetInfo(
        "7,349 photographs of cats and dogs of 37 breeds, a class for every pixel: background, pet, border",
        3,
        ("train", "test"),
        "ROOT/oxford-iiit-pet/{images,annotations}",
        "Parkhi, Vedaldi, Zisserman and Jawahar 2012, Cats and Dogs",
        "CC BY-SA 4.0",
        "oxford-iiit-pet",
    ),
    "fashion_mnist": DatasetInfo(
        "70,000 pieces of clothing of 28×28 pixels, ten classes",
        1,
        ("train", "test"),
        "ROOT/FashionMNIST/raw/*-ubyte",
        "Xiao, Rasul and Vollgraf 2017",
        "MIT",
        "FashionMNIST",
    ),
    "cifar10": DatasetInfo(
        "60,000 photographs of 32×32 pixels, ten classes",
        3,
        ("train", "test"),
        "ROOT/cifar-10-batches-py",
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        "research use",
        "cifar-10-batches-py",
    ),
    "cifar100": DatasetInfo(
        "60,000 photographs of 32×32 pixels, a hundred classes",
        3,
        ("train", "test"),
        "ROOT/cifar-100-python",
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        "research use",
        "cifar-100-python",
    ),
    "caltech101": DatasetInfo(
        "8,677 photographs of about 300×200 pixels, 101 classes, and 467 of background",
        3,
        (),
        "ROOT/caltech101/101_ObjectCategories/CLASS/*.jpg",
        "Li, Andreeto, Ranzato and Perona 2004, doi 10.22002/D1.20086",
        "CC BY 4.0",
        "caltech101",
    ),
    "folder": DatasetInfo(
        "your own images, one folder per class",
        3,
        ("train", "val", "test"),
        "ROOT/{train,val,test}/CLASS/* or ROOT/CLASS/*",
        "your disk",
        "yours",
    ),
}


def has_root(name: str) -> bool:
    """Whether the images of a set lie below data.root; those of some come with cnnlab."""
    return name not in CATALOG or CATALOG[name].rooted
