"""Lab 2, checks of what is done with images and trained networks: MNIST-M, masks, transfer, AdaBN, occlusion."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cnnlab.labs.answers import NotAnswered, Wrong, attempt, call, close, compare, number, pair, short, tensor, whole
from cnnlab.labs.blocks import module


def check_mnist_m(answer: Any, draw: torch.Generator) -> None:
    """`MNISTM(digits, labels, photographs, seed)`: items (3, 28, 28) in [0, 1] and a label."""
    count = whole(draw, 40, 50)
    digits = torch.zeros(count, 28, 28, dtype=torch.uint8)
    digits[:, 8:20, 12:16] = 255
    digits[:, 3:6, 3:6] = 100  # below the threshold: no ink
    labels = torch.randint(0, 10, (count,), generator=draw)
    # red says the photograph and the row, green the column: so a pixel tells where it came from
    photographs = []
    for k in range(3):
        rows, columns = np.mgrid[: 40 + 10 * k, : 60 - 10 * k]
        photographs.append(np.stack([rows + 60 * k, columns, np.full_like(rows, 30 + k)], axis=2).astype(np.uint8))
    data = call(answer, digits.clone(), labels.clone(), photographs, 0)
    if not isinstance(data, Dataset):
        raise Wrong(f"the class must inherit from torch.utils.data.Dataset; {short(data)} does not.")
    with attempt():
        length = data.__len__()  # type: ignore[attr-defined]
    if length is None:
        raise NotAnswered
    if length != count:
        raise Wrong(f"len(…) should be the number of digits, {count}; it is {length}.")
    parts, places = [], []
    for i in range(count):
        with attempt():
            item = data[i]
        image, label = pair(item, "the image and its label")
        image = tensor(image, (3, 28, 28), "an image")
        if int(number(label, "the label")) != labels[i]:
            raise Wrong(f"the label of image {i} should be {int(labels[i])}, it is {label}.")
        if image.max() > 1.001 or image.min() < 0:
            raise Wrong(f"values run from 0 to 1; yours run from {image.min():.2f} to {image.max():.1f}.")
        pixels = image * 255
        red, green = pixels[0, 0, 0].round().int().item(), pixels[1, 0, 0].round().int().item()
        k = min(int(pixels[2, 0, 0].round().item()) - 30, 2)
        if not 0 <= k <= 2:
            raise Wrong("beside the digit the photograph must be as it was: |p - 0| = p.")
        top, left = red - 60 * k, green
        if not (0 <= top <= photographs[k].shape[0] - 28 and 0 <= left <= photographs[k].shape[1] - 28):
            raise Wrong("the upper left corner is not one of a 28×28 part of a photograph; is the image (3, 28, 28)?")
        part = torch.from_numpy(photographs[k][top : top + 28, left : left + 28].copy()).permute(2, 0, 1).float()
        ink = digits[i] > 127
        right = torch.where(ink, 255 - part, part) / 255
        mistakes = {
            "on the ink, |p - 255| inverts the photograph; yours does not.": part / 255,
            "use the stencil, 255 where the digit is brighter than 127, not the grey digit itself.": (
                (part - digits[i].float()).abs() / 255
            ),
            "the ink is 255 - p, not white.": torch.where(ink, torch.tensor(255.0), part) / 255,
            "the ink is 255 - p, not black.": torch.where(ink, torch.tensor(0.0), part) / 255,
            "the background is inverted, the digit is not.": torch.where(ink, part, 255 - part) / 255,
        }
        compare(image, right, mistakes, "it is not |p - d| of a part of a photograph and the stencil.", 1e-2)
        parts.append(k)
        places.append((k, top, left))
        if not close(tensor(data[i][0], (3, 28, 28)), image, 1e-6):
            raise Wrong(f"image {i} is another one each time: make the generator in __getitem__ from the seed and i.")
    if len(set(parts)) == 1:
        raise Wrong("all images come from the same photograph; choose one at random.")
    if len(set(places)) < count // 3:
        raise Wrong("many images have the same background: the generator needs i, too.")


def check_mask_iou(answer: Any, draw: torch.Generator) -> None:
    """`mask_iou(predicted, truth)`: two bool tensors of one shape → a number from 0 to 1."""
    for _ in range(3):
        truth = torch.rand(3, 1, 6, 6, generator=draw) < 0.3
        predicted = truth ^ (torch.rand(3, 1, 6, 6, generator=draw) < 0.2)
        if truth.sum() == predicted.sum():  # precision, recall and Dice would be one number
            predicted[0, 0, 0, 0] ^= True
        both, either = (predicted & truth).sum().item(), (predicted | truth).sum().item()
        got = number(call(answer, predicted, truth))
        if abs(got - both / either) < 1e-5:
            continue
        each = [(a & b).sum().item() / max(1, (a | b).sum().item()) for a, b in zip(predicted, truth, strict=True)]
        hints = [
            ((predicted == truth).float().mean().item(), "this is the pixel accuracy, which counts the background."),
            (
                2 * both / (both + either),
                "this is Dice, twice the intersection over both areas; divide by the union.",
            ),
            (both / truth.sum().item(), "divide by the union, not by the true pixels (that is recall)."),
            (both / predicted.sum().item(), "divide by the union, not by the predicted pixels (that is precision)."),
            (sum(each) / len(each), "this is the mean over the images; count all pixels of all images together."),
            (both, "this is the number of common pixels; divide by the union."),
        ]
        found = [hint for value, hint in hints if abs(got - value) < 1e-5]
        raise Wrong(found[0] if found else f"the IoU should be {both / either:.3f}, yours is {got:.3f}.")
    nothing = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    try:
        empty = number(call(answer, nothing, nothing))
    except Wrong as wrong:
        raise Wrong(f"where both masks are empty the union is 0; the answer is 1 then. {wrong}") from None
    if empty != 1:
        raise Wrong(f"where both masks are empty they agree: 1, not {empty:g}.")


class _Net(nn.Module):
    def __init__(self, classes: int, draw: torch.Generator) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.header = nn.Conv2d(4, 4, 1)  # its name begins like that of the head, and is none
        self.head = nn.Linear(4, classes)
        for tensor_ in self.state_dict().values():
            if tensor_.is_floating_point():
                tensor_.copy_(torch.rand(tensor_.shape, generator=draw) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.header(self.features(x)).mean((2, 3)))
        return y


def check_transfer(answer: Any, draw: torch.Generator) -> None:
    """`transfer(model, weights, freeze)`: all but the head, and frozen if asked."""
    for classes in (3, 5):  # the head of the second has the size of the source's
        for freeze in (False, True):
            source, model = _Net(5, draw), _Net(classes, draw)
            weights = {name: value.clone() for name, value in source.state_dict().items()}
            before = {name: value.clone() for name, value in model.state_dict().items()}
            try:
                made = module(call(answer, model, weights, freeze), "transfer(…)")
            except Wrong as wrong:
                if "loading state_dict" in str(wrong):
                    raise Wrong(
                        "load_state_dict refuses: leave out the names that begin with head. (another size), and say "
                        "strict=False, since they are missing then."
                    ) from None
                raise
            after = made.state_dict()
            for name, value in after.items():
                is_head = name.startswith("head.")
                if is_head and not torch.equal(value, before[name]):
                    raise Wrong("the head must stay as it is, even if its size fits: its classes are others.")
                if not is_head and not torch.equal(value, weights[name]):
                    kind = "a running statistic of batch norm" if "running" in name else "a weight"
                    raise Wrong(f"{name}, {kind}, is not that of the trained network.")
            learns = {name: parameter.requires_grad for name, parameter in made.named_parameters()}
            if not all(learns[name] for name in learns if name.startswith("head.")):
                raise Wrong("the head is frozen: it has to learn the new classes.")
            rest = [learns[name] for name in learns if not name.startswith("head.")]
            if freeze and any(rest):
                left = next(name for name in learns if learns[name] and not name.startswith("head."))
                raise Wrong(f"with freeze=True what was copied must not learn; {left} does.")
            if not freeze and not all(rest):
                raise Wrong("with freeze=False everything learns.")
            if any(not torch.equal(weights[name], value) for name, value in source.state_dict().items()):
                raise Wrong("the given weights have changed: copy them.")


def check_adapt_batch_norm(answer: Any, draw: torch.Generator) -> None:
    """`adapt_batch_norm(model, images)`: a copy whose batch norms have the statistics of the images."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.0)
    )
    with torch.no_grad():
        for _ in range(5):  # so that it has statistics of other images
            model(torch.randn(20, 2, 8, 8, generator=draw))
    model.eval()
    first, second = model[1], model[4]
    assert isinstance(first, nn.BatchNorm2d) and isinstance(second, nn.BatchNorm2d)
    images = 3 + 2 * torch.randn(100, 2, 8, 8, generator=draw)
    images[50:] += 2
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        means = torch.stack([model[0](half).mean((0, 2, 3)) for half in torch.split(images, 50)])
    got = module(call(answer, model, images.clone()), "adapt_batch_norm(model, images)")
    if got is model or any(not torch.equal(value, before[name]) for name, value in model.state_dict().items()):
        raise Wrong("the model that was given has changed: work on copy.deepcopy(model).")
    if got.training:
        raise Wrong("return the copy in evaluation mode: model.eval().")
    after = got.state_dict()
    if any(not torch.equal(after[name], before[name]) for name in before if name.endswith(("weight", "bias"))):
        raise Wrong("weights have changed; AdaBN learns nothing, it only measures.")
    mean = after["1.running_mean"]
    if torch.equal(mean, before["1.running_mean"]) or not mean.any():
        raise Wrong("the statistics are the old ones: run the images through in training mode, model.train().")
    right = means.mean(0)
    if close(mean, right, 1e-3):
        return
    for mixed in (torch.zeros_like(mean), before["1.running_mean"]):
        for one in means:
            mixed = 0.9 * mixed + 0.1 * one
        if close(mean, mixed, 1e-3):
            raise Wrong("old statistics are mixed in: reset them, and momentum = None takes a mean over all batches.")
    tracked = 5 + len(means)
    if close(mean, (5 * before["1.running_mean"] + means.sum(0)) / tracked, 5e-2):
        raise Wrong("the old statistics still count: reset_running_stats() first.")
    if close(mean, means[1], 1e-3) or close(mean, means[0], 1e-3):
        raise Wrong("the statistics are those of one batch alone; momentum = None averages over all of them.")
    raise Wrong("the running mean of the first batch norm is not the mean over all the images.")


def check_occlusion_map(answer: Any, draw: torch.Generator) -> None:
    """`occlusion_map(model, image, target, side)`: the probability of the target for each place of the square."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 7 * 8, 5)).eval()
    for parameter in model.parameters():
        parameter.data = 0.15 * torch.randn(parameter.shape, generator=draw)  # far from saturated
    image = torch.randn(2, 7, 8, generator=draw)
    target, side = whole(draw, 1, 3), 3
    shape = (7 - side + 1, 8 - side + 1)

    def maps(value: float, channel: slice = slice(None)) -> Tensor:
        """Logits (classes, rows, columns)."""
        found = torch.zeros(5, *shape)
        for i in range(shape[0]):
            for j in range(shape[1]):
                covered = image.clone()
                covered[channel, i : i + side, j : j + side] = value
                found[:, i, j] = model(covered[None])[0]
        return found

    with torch.no_grad():
        logits = maps(0.0)
        right = logits.softmax(0)[target]
        whole_image = model(image[None]).softmax(1)[0, target]
        mistakes = {
            "these are logits; the softmax probability is asked for.": logits[target],
            "this is the fall of the probability; the probability itself is asked for.": whole_image - right,
            "this is the largest probability of any class; take that of target.": logits.softmax(0).amax(0),
            "only the first channel is covered; cover all of them.": maps(0.0, slice(1)).softmax(0)[target],
            "the square is covered with 1; 0 is the mean of normalised images.": maps(1.0).softmax(0)[target],
        }
        kept = image.clone()
        got = call(answer, model, image, torch.tensor(target), side)
    if not torch.equal(image, kept):
        raise Wrong("the image that was given has changed: cover copies of it.")
    got = tensor(got, shape, "the map")
    if not close(got, right, 1e-3) and bool((got - whole_image).abs().max() < 1e-5):
        raise Wrong("nothing is covered: all probabilities are those of the whole image.")
    compare(got, right, mistakes, "these are not the probabilities of the target with the square covered.", 1e-3)
