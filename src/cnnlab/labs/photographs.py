"""Lab 4, checks: a folder of photographs, AlexNet's sizes, composed configurations, an own network, comparisons."""

from __future__ import annotations

import math
import tempfile
from itertools import pairwise
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from cnnlab.config import Config, compose
from cnnlab.errors import CnnlabError
from cnnlab.labs.answers import NotAnswered, Wrong, attempt, call, number, pair, short, tensor, whole
from cnnlab.labs.blocks import module
from cnnlab.models.base import Classifier

BUDGET = 400_000
COMMANDS = (
    (["experiment=mine", "trainer.epochs=9"], "the epochs of the first"),
    (["model.depth=32", "experiment=mine", "model.depth=20"], "the depth of the second"),
    (["experiment=mine", "optimizer=sgd"], "the optimizer of the third"),
    (["optimizer.lr=0.01", "experiment=mine"], "the rate of the fourth"),
)
MINE = """# @package _global_
defaults:
  - override /model: resnet
  - override /optimizer: adamw
model: {depth: 14, width: 8}
optimizer: {lr: 0.003}
trainer: {epochs: 5, batch_size: 16, label_smoothing: 0.1}
"""


def check_dataset(answer: Any, draw: torch.Generator) -> None:
    """`Caltech101(root, transform)`: classes, files, _load_image, _load_label, items."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        counts = {"zebra": 2, "BACKGROUND_Google": 3, "ant": whole(draw, 3, 5), "crab": 2}
        value = 10
        for name, count in counts.items():
            (root / name).mkdir()
            for i in range(count):
                value += 10
                colour = (value, 255 - value, 40)
                image = Image.new("RGB", (12 + i, 9), colour)
                (image.convert("L") if name == "crab" else image).save(root / name / f"image_{i:04}.jpg")
        (root / "notes.txt").write_text("no class")
        data = call(answer, root)
        if not isinstance(data, Dataset):
            raise Wrong(f"the class must inherit from torch.utils.data.Dataset; {short(data)} does not.")
        classes = getattr(data, "classes", None)
        if classes is None:
            raise NotAnswered
        if "BACKGROUND_Google" in classes:
            raise Wrong("BACKGROUND_Google is no class: leave it out.")
        if "notes.txt" in classes:
            raise Wrong("notes.txt is a file, no class: take folders alone (is_dir()).")
        if list(classes) != ["ant", "crab", "zebra"]:
            raise Wrong(
                f"classes should be the folders in alphabetical order, ['ant', 'crab', 'zebra']; got {classes}."
            )
        with attempt():
            length = data.__len__()  # type: ignore[attr-defined]
        if length is None:
            raise NotAnswered
        total = counts["ant"] + 4
        if length != total:
            raise Wrong(f"len(…) should be the number of images, {total}; it is {length}.")
        labels = [0] * counts["ant"] + [1] * 2 + [2] * 2
        files = getattr(data, "files", None)
        if files is not None and [Path(file).parent.name for file in files] != [classes[k] for k in labels]:
            raise Wrong("the files should come class by class, in the order of the classes.")
        for i, label in enumerate(labels):
            with attempt():
                item = data[i]
            if item is None:
                raise NotAnswered
            image, mine = pair(item, "the image and its label")
            if not isinstance(image, Image.Image):
                raise Wrong(f"without a transform the image is a Pillow image, got {short(image)}.")
            if image.mode != "RGB":
                raise Wrong(f"image {i} has mode {image.mode}: some photographs are grey, so convert to RGB.")
            if int(number(mine, "the label")) != label:
                raise Wrong(f"the label of image {i}, a {classes[label]}, should be {label}; it is {mine}.")
        for name in ("_load_image", "_load_label"):
            if not hasattr(data, name):
                raise Wrong(f"the method {name} is missing.")
        with attempt():
            changed = call(answer, root, lambda image: ("changed", image.size))[0][0]
        if not isinstance(changed, tuple) or changed[0] != "changed":
            raise Wrong("the transform is not used: __getitem__ returns transform(image) where there is one.")


def check_letterbox(answer: Any, draw: torch.Generator) -> None:
    """`letterbox(image, height, width)`: the whole image, as large as possible, in the middle of black."""
    for size, (height, width) in (((40, 20), (60, 80)), ((20, 40), (60, 80)), ((160, 30), (50, 64))):
        image = Image.new("RGB", size, (200, 100, 50))
        image.putpixel((0, 0), (0, 0, 255))
        got = call(answer, image, height, width)
        if not isinstance(got, Image.Image):
            raise Wrong(f"return a Pillow image, got {short(got)}.")
        if got.size == (height, width):
            raise Wrong("width and height are swapped: Pillow's sizes are (width, height).")
        if got.size != (width, height):
            raise Wrong(f"the image should be {width} wide and {height} high, it is {got.size[0]} by {got.size[1]}.")
        lit = np.asarray(got.convert("RGB")).astype(int)[..., 0] > 60
        if not lit.any():
            raise Wrong("the page is black: paste the resized image.")
        rows, columns = np.nonzero(lit.any(1))[0], np.nonzero(lit.any(0))[0]
        scale = min(width / size[0], height / size[1])
        wide, high = len(columns), len(rows)
        if abs(wide - size[0] * scale) > 2 or abs(high - size[1] * scale) > 2:
            if (wide, high) == (width, height):
                raise Wrong(
                    "the image fills the page: it is squashed or cropped. Keep its shape, and leave black beside it."
                )
            raise Wrong(
                f"an image of {size[0]}×{size[1]} should lie on {width}×{height} as {size[0] * scale:.0f}×"
                f"{size[1] * scale:.0f}, it does as {wide}×{high}: the smaller of the two scales, for both sides."
            )
        if (
            abs((columns[0] + columns[-1] + 1) / 2 - width / 2) > 1.5
            or abs((rows[0] + rows[-1] + 1) / 2 - height / 2) > 1.5
        ):
            raise Wrong("the image should lie in the middle of the page.")


def check_alexnet_sizes(answer: Any, draw: torch.Generator) -> None:
    """`alexnet_sizes(height, width, classes)`: last map, parameters of the convolutions, of the linear layers."""
    channels, kernels = (3, 64, 192, 384, 256, 256), (11, 5, 3, 3, 3)
    steps = ((11, 4, 2), (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 2, 0))

    def last(side: int, pools: bool = True) -> int:
        for kernel, stride, padding in steps if pools else (steps[0], steps[2]):
            side = (side + 2 * padding - kernel) // stride + 1
        return side

    pairs = list(zip(channels, channels[1:], kernels, strict=False))
    convolutions = sum(b * (a * k * k + 1) for a, b, k in pairs)
    for height, width in ((200, 300), (224, 224), (whole(draw, 100, 150), whole(draw, 160, 260))):
        classes = whole(draw, 5, 120)
        widths = (256 * 6 * 6, 4096, 4096, classes)
        linear = sum(b * (a + 1) for a, b in pairwise(widths))
        got = call(answer, height, width, classes)
        if not isinstance(got, tuple | list) or len(got) != 3:
            raise Wrong(f"return three things: (rows, columns), convolutions, linear layers; got {short(got)}.")
        place = pair(got[0], "rows and columns")
        right = (last(height), last(width))
        if tuple(place) != right:
            if tuple(place) == right[::-1]:
                raise Wrong("rows and columns are swapped: height first.")
            if tuple(place) == (last(height, False), last(width, False)):
                raise Wrong("the three pools are missing: each is ⌊(I-3)/2⌋+1.")
            raise Wrong(f"the last map of {height}×{width} is {right[0]}×{right[1]}, you have {place[0]}×{place[1]}.")
        mine = int(number(got[1], "the parameters of the convolutions"))
        if mine != convolutions:
            if mine == convolutions - sum(channels[1:]):
                raise Wrong("the biases of the convolutions are missing: one per output channel.")
            raise Wrong(
                f"the convolutions have {convolutions:,} parameters, you have {mine:,}: outputs·(inputs·K·K + 1)."
            )
        mine = int(number(got[2], "the parameters of the linear layers"))
        if mine != linear:
            if mine == linear - sum(widths[1:]):
                raise Wrong("the biases of the linear layers are missing: one per output.")
            flat = linear + 4096 * (256 * right[0] * right[1] - widths[0])
            if mine == flat:
                raise Wrong(
                    "the first linear layer sees the 6×6 average, whatever the size of the last map: 256·6·6 inputs."
                )
            raise Wrong(f"the linear layers have {linear:,} parameters for {classes} classes, you have {mine:,}.")


def _composed(text: str, words: list[str]) -> Config:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "experiment").mkdir()
        (Path(place) / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
        return compose(["data=digits", *words], config_dir=place)


def check_experiment(answer: Any, draw: torch.Generator) -> None:
    """The text of conf/experiment/mine.yaml."""
    if not isinstance(answer, str):
        raise Wrong(f"give the text of the file, got {short(answer)}.")
    text = answer.strip()
    if not [line for line in text.splitlines() if line.strip() not in ("", "...") and not line.startswith("#")]:
        raise NotAnswered
    if not text.startswith("# @package _global_"):
        raise Wrong("the first line must be `# @package _global_`: else the keys land below `experiment`.")
    try:
        config = _composed(text, ["experiment=mine"])
    except CnnlabError as error:
        raise Wrong(f"it does not compose: {' '.join(str(error).split())}") from None
    asked = {
        "model": (config.model["name"], "resnet"),
        "model.depth": (config.model.get("depth"), 14),
        "model.width": (config.model.get("width"), 8),
        "optimizer": (config.optimizer["name"].lower(), "adamw"),
        "optimizer.lr": (config.optimizer["lr"], 0.003),
        "trainer.epochs": (config.trainer.epochs, 5),
        "trainer.batch_size": (config.trainer.batch_size, 16),
        "trainer.label_smoothing": (config.trainer.label_smoothing, 0.1),
    }
    for key, (mine, right) in asked.items():
        if mine != right:
            where = "a line `- override /GROUP: OPTION` below defaults" if "." not in key else "a key of its own"
            raise Wrong(f"{key} should be {right}, the composed configuration has {mine}; it needs {where}.")


def check_holds(answer: Any, draw: torch.Generator) -> None:
    """Which values hold in the four commands."""
    if not isinstance(answer, list | tuple) or len(answer) != 4:
        raise Wrong(f"give a list of four values, got {short(answer)}.")
    if any(value is ... or value is None for value in answer):
        raise NotAnswered
    reasons = (
        "a key that is given beats what the experiment says",
        "of two values for one key the last holds",
        "a group that is given beats the experiment's choice",
        "a key that is given beats the experiment, wherever it stands",
    )
    for (words, said), mine, reason in zip(COMMANDS, answer, reasons, strict=True):
        config = _composed(MINE, words)
        values = (
            config.trainer.epochs,
            config.model.get("depth"),
            config.optimizer["name"].lower(),
            config.optimizer["lr"],
        )
        right = values[reasons.index(reason)]
        if (mine.lower() if isinstance(mine, str) else mine) != right:
            raise Wrong(f"{said} is {right}, not {mine!r}: {reason}.")


def check_own_network(answer: Any, draw: torch.Generator) -> None:
    """`MyNet(width, in_channels, num_classes)`: a cnnlab.Classifier within the budget, for any size."""
    if not (isinstance(answer, type) and issubclass(answer, Classifier)):
        raise Wrong("give the class, MyNet, which inherits from cnnlab.Classifier.")
    model: Any = module(call(answer, num_classes=10), "MyNet(num_classes=10)")
    count = sum(p.numel() for p in model.parameters())
    model.eval()
    for height, width in ((64, 96), (75, 130)):
        x = torch.randn(2, 3, height, width, generator=draw)
        with attempt(), torch.no_grad():
            features = model.forward_features(x)
        if features is None:
            raise NotAnswered
        if not isinstance(features, Tensor) or features.dim() != 4:
            raise Wrong(f"forward_features returns a map (B, C, h, w), got {short(features)}.")
        if max(features.shape[2] / height, features.shape[3] / width) > 1 / 8 + 0.05:
            raise Wrong(
                f"the last map of {height}×{width} is {features.shape[2]}×{features.shape[3]}: "
                "it should be at most an eighth of each side."
            )
        with attempt(), torch.no_grad():
            logits, whole_way = model.forward_head(features), model(x)
        if logits is None:
            raise NotAnswered
        logits = tensor(logits, (2, 10), "the output of forward_head")
        if not torch.allclose(logits, tensor(whole_way, (2, 10), "the output of the model"), atol=1e-4):
            raise Wrong("model(x) must be forward_head(forward_features(x)): do not write another forward.")
    if count > BUDGET:
        raise Wrong(f"it has {count:,} parameters at 10 classes, the budget is {BUDGET:,}.")
    if not any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        raise Wrong("there is no convolution in it.")
    other = module(call(answer, num_classes=7, in_channels=1), "MyNet(num_classes=7, in_channels=1)")
    with attempt(), torch.no_grad():
        grey = other.eval()(torch.randn(2, 1, 64, 96, generator=draw))
    tensor(grey, (2, 7), "the output for grey images and 7 classes")
    if getattr(other, "num_classes", None) != 7:
        raise Wrong("set self.num_classes = num_classes.")
    wider = module(call(answer, width=24, num_classes=10), "MyNet(width=24)")
    narrower = module(call(answer, width=8, num_classes=10), "MyNet(width=8)")
    if sum(p.numel() for p in wider.parameters()) <= sum(p.numel() for p in narrower.parameters()):
        raise Wrong("a larger width should give a larger network.")


def check_mcnemar(answer: Any, draw: torch.Generator) -> None:
    """`mcnemar(first, second)`: two lists of bool → p of the exact test on both sides."""

    def p_of(b: int, c: int) -> float:
        return min(1.0, 2 * sum(comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c))

    for b, c, same in ((3, 12, 40), (9, 2, 30), (5, 5, 20), (0, 0, 25), (0, 8, 10)):
        both = [(True, False)] * b + [(False, True)] * c + [(True, True)] * same + [(False, False)] * 7
        order = torch.randperm(len(both), generator=draw).tolist()
        first, second = [both[i][0] for i in order], [both[i][1] for i in order]
        got = number(call(answer, list(first), list(second)))
        right = p_of(b, c)
        if abs(got - right) < 1e-9:
            continue
        if got > 1:
            raise Wrong(f"p is at most 1: take min(1, …); for b = c = {b} it is 1.")
        if abs(got - right / 2) < 1e-9:
            raise Wrong("this is one side of the test; twice that, since either network may be ahead.")
        if abs(got - p_of(sum(first), sum(second))) < 1e-9:
            raise Wrong("count the images where they disagree, not those that each gets right.")
        tail = 2 * sum(comb(b + c, i) for i in range(min(b, c))) / 2 ** (b + c)
        if abs(got - min(1.0, tail)) < 1e-9:
            raise Wrong("the sum includes i = min(b, c): range(min(b, c) + 1).")
        if abs(got - min(1.0, math.erfc(abs(b - c) / math.sqrt(2 * max(1, b + c))))) < 1e-3:
            raise Wrong("this is the approximation by a normal distribution; the exact test sums binomials.")
        raise Wrong(f"for b = {b}, c = {c} p is {right:.4f}, you have {got:.4f}.")


def check_macro_f1(answer: Any, draw: torch.Generator) -> None:
    """`macro_f1(matrix)`: (K, K) counts, a row per true class → mean F1 over the classes."""
    for empty in (False, False, True):
        matrix = torch.randint(0, 9, (4, 4), generator=draw).numpy()
        matrix[0, 1] += 12
        matrix[0, 0] += 6
        if empty:
            matrix[3, :], matrix[:, 3] = 0, 0
        right_ones, rows, columns = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        f1 = 2 * right_ones / np.maximum(rows + columns, 1)
        got = number(call(answer, matrix.copy()))
        if abs(got - f1.mean()) < 1e-6:
            continue
        if got != got:
            raise Wrong("a class that is neither there nor predicted divides by 0; its F1 is 0.")
        precision, recall = right_ones / np.maximum(columns, 1), right_ones / np.maximum(rows, 1)
        hints = [
            (
                right_ones.sum() / matrix.sum(),
                "this is the accuracy (which is also the micro F1); take the mean over classes.",
            ),
            (recall.mean(), "this is the mean recall; F1 joins it with the precision."),
            (precision.mean(), "this is the mean precision; F1 joins it with the recall."),
            (
                (f1 * rows).sum() / rows.sum(),
                "this is weighted by the sizes of the classes; macro counts each class alike.",
            ),
            (f1[:3].mean() if empty else -1, "the empty class counts too, with F1 = 0."),
        ]
        found = [hint for value, hint in hints if abs(got - value) < 1e-6]
        raise Wrong(found[0] if found else f"the macro F1 should be {f1.mean():.4f}, yours is {got:.4f}.")


def check_shuffle_places(answer: Any, draw: torch.Generator) -> None:
    """`shuffle_places(features, generator)`: the same permutation of places for all channels of an image."""
    features = torch.randn(4, 3, 4, 5, generator=draw)
    kept = features.clone()
    got = tensor(call(answer, features, torch.Generator().manual_seed(1)), (4, 3, 4, 5), "the result")
    if not torch.equal(features, kept):
        raise Wrong("the features that were given have changed: work on a copy.")
    if torch.equal(got, kept):
        raise Wrong("nothing is shuffled.")
    before, after = kept.flatten(2), got.flatten(2)
    if not torch.equal(before.sort(2).values, after.sort(2).values):
        if torch.equal(before.flatten(1).sort(1).values, after.flatten(1).sort(1).values):
            raise Wrong("values have moved from one channel to another; shuffle the places alone.")
        raise Wrong("the values are not those that were there: each channel keeps its values, at other places.")
    orders = [[int((one[0] == value).nonzero()[0]) for value in two[0]] for one, two in zip(before, after, strict=True)]
    for image, order in enumerate(orders):
        if not torch.equal(before[image][:, order], after[image]):
            raise Wrong("each channel has a permutation of its own; all channels of an image share one.")
    if all(order == orders[0] for order in orders):
        raise Wrong("all images have the same permutation; draw one for each image.")
    again = tensor(call(answer, kept, torch.Generator().manual_seed(1)), (4, 3, 4, 5), "the result")
    if not torch.equal(again, got):
        raise Wrong("the generator is not used: with the same one the result must be the same.")
