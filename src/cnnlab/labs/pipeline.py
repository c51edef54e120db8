"""Lab 0, checks of what comes before the network: images as tensors, a Dataset, loaders, a batch on screen."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cnnlab.labs.answers import NotAnswered, Wrong, attempt, call, close, compare, short, whole


def check_to_tensor(answer: Any, draw: torch.Generator) -> None:
    """`to_tensor(array)`: (H, W) or (H, W, 3) uint8 → (C, H, W) float32 in [0, 1]."""
    for shape in ((6, 9), (5, 8, 3)):
        array = torch.randint(0, 200, shape, generator=draw, dtype=torch.uint8).numpy()
        planes = torch.from_numpy(array.reshape(*shape[:2], -1).copy()).permute(2, 0, 1)  # (C, H, W)
        got = call(answer, array.copy())
        right = planes.float() / 255
        if not isinstance(got, Tensor):
            raise Wrong(f"the result must be a torch.Tensor, got {short(got)}; torch.from_numpy makes one.")
        if len(shape) == 2 and tuple(got.shape) == shape:
            raise Wrong("a grey image has one channel: add it in front, (H, W) → (1, H, W).")
        if len(shape) == 2 and tuple(got.shape) == (*shape, 1):
            raise Wrong("the channel must come first, (1, H, W); here it is last.")
        if tuple(got.shape) == shape:
            raise Wrong("the channels are last, (H, W, C); PyTorch wants them first: permute(2, 0, 1).")
        if tuple(got.shape) == (right.shape[0], right.shape[2], right.shape[1]):
            raise Wrong("height and width are swapped: (H, W, C) becomes (C, H, W), permute(2, 0, 1).")
        if got.shape != right.shape:
            raise Wrong(f"an array of shape {shape} must become {tuple(right.shape)}, got {tuple(got.shape)}.")
        value = got.float()
        mistakes = {
            "the values still run to 255; divide by 255.": planes.float(),
            "the image is divided by its own maximum; divide by 255, so that dark images stay dark.": planes.float()
            / int(planes.max()),
            "the values are whole numbers, nearly all 0: make them float before you divide.": (planes // 255).float(),
            "the image is scrambled: view and reshape do not move channels. Use permute(2, 0, 1).": (
                torch.from_numpy(array).reshape(right.shape).float() / 255
            ),
            "divide by 255, the largest value of 8 bits, not by 256.": planes.float() / 256,
        }
        compare(value, right, mistakes, "the shape is right, the values are not those of the image / 255.")
        if got.dtype != torch.float32:
            raise Wrong(f"the numbers are {got.dtype}; the weights of a network are float32, so call .float().")


CLASSES = ("ant", "bee", "cat")


def _write_images(root: Path, draw: torch.Generator) -> dict[str, np.ndarray]:
    """ROOT/CLASS/*.png, folders made in an order that is not theirs → the pixels by "CLASS/NAME"."""
    pixels = {}
    for name in ("cat", "ant", "bee"):
        (root / name).mkdir()
        for number in range(whole(draw, 2, 5)):
            array = torch.randint(0, 256, (4, 6), generator=draw, dtype=torch.uint8).numpy()
            Image.fromarray(array).save(root / name / f"{number}.png")
            pixels[f"{name}/{number}"] = array
    return pixels


def check_dataset(answer: Any, draw: torch.Generator) -> None:
    """`DigitFolder(root)`: a Dataset of ROOT/CLASS/*.png with load_image, load_label, __len__ and __getitem__."""
    with tempfile.TemporaryDirectory() as folder:
        pixels = _write_images(Path(folder), draw)
        _try_dataset(call(answer, Path(folder)), pixels)


def _try_dataset(data: Any, pixels: dict[str, np.ndarray]) -> None:
    if Dataset not in type(data).__mro__:
        raise Wrong(f"give a class that inherits from torch.utils.data.Dataset; {short(data)} does not.")
    for name in ("load_image", "load_label", "__len__", "__getitem__"):
        if not callable(getattr(data, name, None)):
            raise Wrong(f"the method {name} is missing.")
    if (classes := getattr(data, "classes", None)) is ...:
        raise NotAnswered
    if classes is None or list(classes) != list(CLASSES):
        shown = short(classes)
        raise Wrong(f"`classes` must be the folders' names in order of the alphabet, {list(CLASSES)}; got {shown}.")
    if (count := call(data.__len__)) != len(pixels):
        more = " That is the number of classes." if count == len(CLASSES) else ""
        raise Wrong(f"the folder has {len(pixels)} images, len() says {count}.{more}")
    left = {name: torch.from_numpy(array)[None].float() / 255 for name, array in pixels.items()}  # (1, H, W)
    for i in range(len(pixels)):
        image, label = call(data.load_image, i), call(data.load_label, i)
        if isinstance(image, Image.Image):
            raise Wrong("load_image returns a PIL image; a batch is made of tensors, so give it to to_tensor.")
        if not isinstance(image, Tensor):
            raise Wrong(f"load_image must return a tensor (1, H, W), got {short(image)}.")
        if isinstance(label, str):
            raise Wrong("load_label returns the name; the loss wants a number, the name's place in `classes`.")
        if isinstance(label, Tensor) and label.ndim == 0:
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, int | np.integer):
            raise Wrong(f"load_label must return a whole number, got {short(label)}.")
        found = [name for name, array in left.items() if array.shape == image.shape and close(image, array)]
        if not found:
            if image.max() > 1:
                raise Wrong("the values of load_image run to 255; to_tensor divides by 255.")
            seen = "an image twice" if any(_same(image, array) for array in pixels.values()) else "another image"
            raise Wrong(
                f"load_image({i}) gives {seen}; each i from 0 to len - 1 must give a file of its own, (1, H, W)."
            )
        truth = CLASSES.index(found[0].split("/")[0])
        if label != truth:
            more = " Labels count from 0." if label == truth + 1 else ""
            raise Wrong(f"load_label({i}) says {label}, the image lies in folder {CLASSES[truth]!r}, {truth}.{more}")
        del left[found[0]]
        item = call(data.__getitem__, i)
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise Wrong(f"data[i] must be two things, (image, label); got {short(item)}.")
        if isinstance(item[1], Tensor) and item[1].ndim == 3:
            raise Wrong("data[i] gives (label, image); the image comes first.")
        if not isinstance(item[0], Tensor):
            raise Wrong(f"data[i] gives {short(item[0])} as its image; return what load_image returns.")
        if not torch.equal(item[0], image) or item[1] != label:
            raise Wrong("data[i] is not (load_image(i), load_label(i)): call both with the same i.")


def _same(image: Tensor, array: np.ndarray) -> bool:
    return image.numel() == array.size and close(image.flatten(), torch.from_numpy(array).flatten().float() / 255)


def check_loaders(answer: Any, draw: torch.Generator) -> None:
    """`make_loaders(train_and_val, test, batch_size, seed)` → loaders of train (75 %), val (25 %) and test."""
    size = 7  # the last batches of val and test are smaller
    count, test_count = 4 * (size * whole(draw, 2, 3) + whole(draw, 1, 6)), size * whole(draw, 1, 2) + whole(draw, 1, 6)
    # Each image holds its own number, and the labels are in order, as those of folders are.
    both = TensorDataset(torch.arange(count).float().view(-1, 1, 1, 1), torch.arange(count) * 4 // count)
    test = TensorDataset(1000 + torch.arange(test_count).float().view(-1, 1, 1, 1), torch.arange(test_count) % 4)

    def make(seed: int) -> tuple[Any, ...]:
        loaders = call(answer, both, test, size, seed)
        if not isinstance(loaders, tuple | list) or len(loaders) != 3:
            raise Wrong(f"return three loaders: train, val, test; got {short(loaders)}.")
        if any(loader is ... or loader is None for loader in loaders):
            raise NotAnswered
        for loader in loaders:
            if not isinstance(loader, DataLoader):
                raise Wrong(f"each of the three must be a DataLoader, got a {type(loader).__name__}.")
        return tuple(loaders)

    def numbers(loader: Any) -> list[int]:
        with attempt():
            return [int(value) for images, _ in loader for value in images.flatten()]

    loaders = make(0)
    with attempt():
        sizes = [len(next(iter(loader))[0]) for loader in loaders]
    if sizes[0] != size:
        raise Wrong(f"batch_size={size} was asked for; a batch of the training loader has {sizes[0]}.")
    train, val, tested = (numbers(loader) for loader in loaders)
    if max(train + val) >= 1000:
        raise Wrong("images of the test set are in train or val; cut val from the first set.")
    if sorted(tested) != [1000 + i for i in range(test_count)]:
        raise Wrong(f"the test loader must give all {test_count} test images once (no drop_last), got {len(tested)}.")
    if set(train) & set(val):
        raise Wrong(
            "some images are in train and in val; validation would reward memory. Cut once, use each part once."
        )
    if len(train) < len(val):
        raise Wrong("train and val are swapped: 75 % are for training.")
    if len(val) != count // 4:
        raise Wrong(
            f"val must be 25 % of {count}, {count // 4}; got {len(val)} (does its loader drop the last batch?)."
        )
    if not count * 3 // 4 - size < len(train) <= count * 3 // 4:
        raise Wrong(f"train must be 75 % of {count}, {count * 3 // 4}; got {len(train)}.")
    if sorted(val) in ([*range(count // 4)], [*range(count * 3 // 4, count)]):
        raise Wrong("val is one end of the set, and sets are sorted by class: it lacks classes. Cut at random.")
    if train == numbers(loaders[0]) and train == numbers(loaders[0]):
        raise Wrong("the training loader gives the same order each time: it needs shuffle=True.")
    if sorted(val) != sorted(numbers(make(0)[1])):
        raise Wrong("the same seed gives another cut: give random_split a torch.Generator with manual_seed(seed).")
    if sorted(val) == sorted(numbers(make(1)[1])):
        raise Wrong("another seed gives the same cut: use the seed that is given.")
    for name, loader in zip(("val", "test"), loaders[1:], strict=True):
        if numbers(loader) != numbers(loader):
            raise Wrong(f"the {name} loader is shuffled: only training needs that.")


def check_show_batch(answer: Any, draw: torch.Generator) -> None:
    """`show_batch(images, labels, classes)` → a matplotlib Figure with an image and its class for each."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    images = torch.rand(4, 1, 5, 7, generator=draw)
    labels = torch.randperm(4, generator=draw)
    classes = ["ant", "bee", "cat", "dog"]
    open_before = set(plt.get_fignums())
    try:
        figure = call(answer, images.clone(), labels.clone(), list(classes))
        if not isinstance(figure, Figure):
            raise Wrong(f"return the figure that plt.subplots gives, got {short(figure)}.")
        _try_figure(figure, images, [classes[label] for label in labels.tolist()])
    finally:
        for number in set(plt.get_fignums()) - open_before:
            plt.close(number)


def _try_figure(figure: Any, images: Tensor, names: list[str]) -> None:
    shown = [axes for axes in figure.axes if axes.images]
    if len(shown) != len(images):
        raise Wrong(f"the batch has {len(images)} images, the figure shows {len(shown)}.")
    for i, axes in enumerate(shown):
        pixels = torch.as_tensor(np.array(axes.images[0].get_array())).float()
        image = images[i, 0]
        pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
        if pixels.shape == image.T.shape and close(pixels, image.T):
            raise Wrong("height and width are swapped: matplotlib wants (H, W) for grey images.")
        if pixels.shape != image.shape or not close(pixels, image):
            others = any(pixels.shape == other.shape and close(pixels, other) for other in images[:, 0])
            raise Wrong(
                f"image {i} of the figure is {'another one of the batch' if others else 'not that of the batch'}."
            )
        title = " ".join(axes.get_title(loc) for loc in ("left", "center", "right")) + axes.get_xlabel()
        if names[i] not in title:
            digits = any(letter.isdigit() for letter in title)
            more = " A label is a number; classes[label] is its name." if digits else ""
            raise Wrong(f"image {i} must have its class {names[i]!r} as title, got {title.strip()!r}.{more}")
