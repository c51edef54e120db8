"""Lab 1, checks of what is measured: sizes, the first loss, seeds, curves, intervals, top-k, shifts, a filter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cnnlab.geometry import Layer
from cnnlab.geometry import receptive_field as real_field
from cnnlab.labs.answers import NotAnswered, Wrong, attempt, call, compare, number, pair, short, tensor, whole
from cnnlab.labs.arithmetic import check_output_size
from cnnlab.labs.image_processing import both

Hints = dict[str, float]


def compare_numbers(got: Any, right: float, mistakes: Hints, otherwise: str, name: str = "the result") -> None:
    """`compare` for two numbers."""
    value = torch.tensor(number(got, name), dtype=torch.float64)
    shown = {hint: torch.tensor(one, dtype=torch.float64) for hint, one in mistakes.items()}
    compare(value, torch.tensor(right, dtype=torch.float64), shown, otherwise, 1e-5)


def check_sizes(answer: Any, draw: torch.Generator) -> None:
    """`(output_size, conv_parameters, receptive_field)`: functions of a layer, of a layer, of a list of layers."""
    if not isinstance(answer, tuple | list) or len(answer) != 3 or not all(map(callable, answer)):
        raise Wrong("give the three functions by name, (output_size, conv_parameters, receptive_field).")
    output_size, conv_parameters, receptive_field = answer
    check_output_size(output_size, draw)
    for bias in (True, False):
        i, o, k = whole(draw, 4, 6), whole(draw, 7, 9), whole(draw, 2, 3)
        right = sum(p.numel() for p in nn.Conv2d(i, o, k, bias=bias).parameters())
        mistakes: Hints = {
            "the bias is missing: one for each output channel.": i * o * k * k,
            "there is one bias for each output channel, not a single one.": i * o * k * k + 1,
            "there is one bias for each output channel, not for each input channel.": i * o * k * k + i,
            "the kernel has K² weights for each pair of channels, not K.": i * o * k + o * bias,
            "each kernel has a plane for each input channel: multiply by the inputs.": o * k * k + o * bias,
            "each output channel has a kernel of its own: multiply by the outputs.": i * k * k + o * bias,
        }
        if not bias:
            mistakes = {"without a bias there is none to count.": i * o * k * k + o} | mistakes
        got = call(conv_parameters, i, o, k, bias)
        compare_numbers(got, right, mistakes, f"{i} → {o} channels, K={k}, bias={bias}: {right}.", "the parameters")
    _check_field(receptive_field, draw)


def _check_field(answer: Any, draw: torch.Generator) -> None:
    cases = [[(3, 1), (3, 2), (3, 1)]] + [
        [(whole(draw, 2, 5), whole(draw, 1, 3)) for _ in range(whole(draw, 3, 5))] for _ in range(8)
    ]
    for layers in cases:
        right = real_field([Layer(k, s) for k, s in layers]).size
        step = [math.prod(s for _, s in layers[:n]) for n in range(len(layers) + 1)]
        grown = sum((k - 1) * step[n] for n, (k, _) in enumerate(layers))
        mistakes: Hints = {
            "begin at 1: a pixel sees itself.": grown,
            "the strides are forgotten: after stride 2 a step on the map is two pixels of the image.": 1
            + sum(k - 1 for k, _ in layers),
            "a layer's own stride counts from the next layer on: add first, then multiply the step.": 1
            + sum((k - 1) * step[n + 1] for n, (k, _) in enumerate(layers)),
            "a kernel adds K-1 steps, not K.": 1 + sum(k * step[n] for n, (k, _) in enumerate(layers)),
            "only the last layer's stride is used; the strides of all earlier layers multiply.": 1
            + sum((k - 1) * (layers[n - 1][1] if n else 1) for n, (k, _) in enumerate(layers)),
        }
        got = call(answer, list(layers))
        compare_numbers(got, right, mistakes, f"of {layers} it is {right}.", "the receptive field")


def check_expected_loss(answer: Any, draw: torch.Generator) -> None:
    """`expected_loss(num_classes)` → the cross-entropy of a network that finds all classes equally likely."""
    for k in (10, whole(draw, 3, 9), whole(draw, 50, 200)):
        mistakes: Hints = {
            "the sign: the loss is minus the logarithm of 1/K, which is positive.": -math.log(k),
            "this is the probability; the loss is minus its logarithm.": 1 / k,
            "this is the logarithm of base 2; PyTorch takes the natural one.": math.log2(k),
            "this is the logarithm of base 10; PyTorch takes the natural one.": math.log10(k),
            "this is the share of mistakes; the loss is -log of the probability of the true class.": 1 - 1 / k,
        }
        compare_numbers(call(answer, k), math.log(k), mistakes, f"for {k} classes p = 1/{k}; what is -log p?")


def check_seeds(answer: Any, draw: torch.Generator) -> None:
    """`(mean_sd, choose_rate)`: numbers → (mean, standard deviation); {rate: accuracies} → the best rate."""
    mean_sd, choose_rate = both(answer, "mean_sd, choose_rate")
    for count in (3, 2, 5):
        values = torch.rand(count, generator=draw, dtype=torch.float64)
        mean, sd = pair(call(mean_sd, values.tolist()), "the mean and the standard deviation")
        right = values.std().item()
        compare_numbers(mean, values.mean().item(), {"this is the sum.": values.sum().item()}, "the mean is wrong.")
        mistakes: Hints = {
            "divide by n - 1: the mean is estimated from the same few numbers.": values.std(correction=0).item(),
            "this is the variance; take its square root.": values.var().item(),
            "this is the standard error of the mean; here the spread of single trainings is asked for.": right
            / count**0.5,
            "this is the range, largest minus smallest.": (values.max() - values.min()).item(),
        }
        compare_numbers(sd, right, mistakes, "the standard deviation is wrong.", "the standard deviation")
    first = {0.3: [0.70, 0.50], 0.1: [0.64, 0.66], 0.01: [0.55, 0.56], 0.001: [0.2, 0.3]}
    for table, best in ((first, 0.1), ({0.5: [0.1, 0.1], 0.02: [0.4, 0.5], 0.05: [0.6, 0.2]}, 0.02)):
        got = number(call(choose_rate, {rate: list(values) for rate, values in table.items()}), "the rate")
        if got == best:
            continue
        if got == max(table, key=lambda rate: max(table[rate])):
            raise Wrong("this rate has the best single training; compare the means over the seeds.")
        if got == min(table, key=lambda rate: sum(table[rate])):
            raise Wrong("this rate has the lowest accuracy; take the highest.")
        if got not in table:
            raise Wrong(f"return the rate, a key of the table; got {got:g}.")
        raise Wrong(f"of {table} it is {best}, which has the highest mean; got {got:g}.")


HISTORIES = {  # name: (training loss, validation loss, verdict)
    "validation rises while training falls": ([2.2, 1.2, 0.6, 0.2, 0.05], [2.1, 1.4, 1.2, 1.5, 1.9], "overfits"),
    "both stay near log 10": ([2.31, 2.29, 2.28, 2.27, 2.26], [2.30, 2.30, 2.28, 2.27, 2.27], "underfits"),
    "both fall far": ([2.0, 1.1, 0.7, 0.5, 0.42], [1.7, 1.0, 0.75, 0.62, 0.60], "fits"),
    "both rise after a step that was too large": ([2.0, 1.8, 2.4, 2.9, 3.1], [1.9, 1.8, 2.4, 3.0, 3.2], "underfits"),
    "validation jumps by 3 % and is low": ([1.9, 0.9, 0.5, 0.35, 0.3], [1.6, 0.8, 0.52, 0.50, 0.515], "fits"),
    "training ends low and validation at twice its minimum": ([1.0, 0.4, 0.1, 0.01], [0.9, 0.7, 1.0, 1.4], "overfits"),
}


def check_judge(answer: Any, draw: torch.Generator) -> None:
    """`judge(history, num_classes)`: {"train_loss": [...], "val_loss": [...]} → "overfits", "underfits" or "fits"."""
    for name, (train, val, right) in HISTORIES.items():
        scale = 1 + 0.02 * torch.rand((), generator=draw).item()
        history = {"train_loss": [scale * one for one in train], "val_loss": [scale * one for one in val]}
        got = call(answer, history, 10)
        if got not in ("overfits", "underfits", "fits"):
            raise Wrong(f'return "overfits", "underfits" or "fits"; got {short(got)}.')
        if got != right:
            raise Wrong(f"{name}: training {train}, validation {val}. That {right}; you say {got}.")
    few = {"train_loss": [0.95, 0.9, 0.88, 0.87], "val_loss": [0.95, 0.92, 0.9, 0.89]}
    got = call(answer, few, 3)
    if got != "underfits":
        raise Wrong(f"with 3 classes a loss of 0.87 is far too high, log 3 is 1.10: it underfits; you say {got}.")


def check_wilson(answer: Any, draw: torch.Generator) -> None:
    """`wilson(right, count)` → (low, high), the 95 % interval of an accuracy."""
    z = 1.96
    for count in (20, 400, 10_000):
        for hits in (whole(draw, count // 2 + 1, count - 2), 0, count):
            low, high = pair(call(answer, hits, count), "the lower and the upper end")
            p, n = hits / count, count
            middle, scale = (p + z * z / (2 * n)), 1 + z * z / n
            half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
            right = torch.tensor([(middle - half) / scale, (middle + half) / scale], dtype=torch.float64)
            plain = z * math.sqrt(p * (1 - p) / n)
            unscaled = half - z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / z
            wrong = {
                "this is p ± 1.96·√(p(1-p)/n), which has no width at 0 % and 100 %; write Wilson's.": (
                    p - plain,
                    p + plain,
                ),
                "low and high are swapped.": (right[1].item(), right[0].item()),
                "the ends are in percent; return shares from 0 to 1.": (100 * right[0].item(), 100 * right[1].item()),
                "divide by 1 + z²/n.": (middle - half, middle + half),
                "the root lacks z²/4n².": ((middle - plain) / scale, (middle + plain) / scale),
                "the middle lacks z²/2n.": ((p - half) / scale, (p + half) / scale),
                "z is missing before the root; for 95 % it is 1.96.": (
                    (middle - half + unscaled) / scale,
                    (middle + half - unscaled) / scale,
                ),
            }
            got = torch.tensor([number(low, "the lower end"), number(high, "the upper end")], dtype=torch.float64)
            shown = {hint: torch.tensor(ends, dtype=torch.float64) for hint, ends in wrong.items()}
            otherwise = f"for {hits} of {count} it is {right[0].item():.4f} to {right[1].item():.4f}."
            compare(got, right, shown, otherwise, 1e-4)


def check_top_k(answer: Any, draw: torch.Generator) -> None:
    """`top_k(logits, classes, k)`: (B, K) → of each image the k most likely (name, probability), largest first."""
    classes = ["ant", "bee", "cat", "dog", "eel"]
    logits = 2 * torch.randn(4, 5, generator=draw) + torch.arange(5)[torch.randperm(5, generator=draw)]
    probabilities = logits.softmax(1)
    with attempt():
        rows = list(call(answer, logits.clone(), list(classes), 3))
    if len(rows) != 4:
        raise Wrong(f"there are 4 images, so return 4 lists; got {len(rows)}.")
    for row, p, z in zip(rows, probabilities, logits, strict=True):
        entries = [tuple(one) if isinstance(one, tuple | list) else one for one in row]
        if len(entries) != 3 or any(not isinstance(one, tuple) or len(one) != 2 for one in entries):
            raise Wrong("each image needs k pairs (name, probability).")
        names = [one[0] for one in entries]
        if any(not isinstance(name, str) for name in names):
            raise Wrong("the first of each pair is the name, classes[place]; got its number (or the order is swapped).")
        values = torch.tensor([number(one[1], "the probability") for one in entries])
        order = p.argsort(descending=True).tolist()
        if names == [classes[place] for place in order[::-1][:3]]:
            raise Wrong("these are the least likely classes: sort from large to small.")
        if sorted(names) == sorted(classes[place] for place in order[:3]) and names != [classes[i] for i in order[:3]]:
            raise Wrong("the right classes in the wrong order: the most likely one comes first.")
        if names != [classes[place] for place in order[:3]]:
            raise Wrong(f"the classes must be {[classes[i] for i in order[:3]]}, got {names}.")
        top = p[order[:3]]
        mistakes = {
            "these are logits; softmax makes probabilities of them.": z[order[:3]],
            "softmax runs over the images; the classes are dim=1.": torch.stack(
                [logits.softmax(0)[rows.index(row), i] for i in order[:3]]
            ),
            "softmax over the k classes alone; take it over all classes, then the largest k.": z[order[:3]].softmax(0),
            "these are percent; return shares from 0 to 1.": 100 * top,
        }
        compare(values, top, mistakes, "the probabilities are not those of softmax.")


def check_shift(answer: Any, draw: torch.Generator) -> None:
    """`(shift, shifted_accuracy)`: (B, C, H, W), pixels → the same; model, loader, pixels → accuracy, 0 to 1."""
    shift, shifted_accuracy = both(answer, "shift, shifted_accuracy")
    images = 0.1 + torch.rand(3, 2, 5, 7, generator=draw)
    for pixels in (2, 1, 0):
        given = images.clone()
        got = call(shift, given, pixels)
        if isinstance(got, Tensor) and got.shape[-1] != 7 and pixels:
            raise Wrong(f"the width must stay 7, got {got.shape[-1]}: fill with zeros on the left.")
        got = tensor(got, tuple(images.shape))
        if not torch.equal(given, images):
            raise Wrong("the images that were given are changed; begin with torch.zeros_like(images).")
        right, left = (F.pad(images, (n, -n, 0, 0)) for n in (pixels, -pixels))
        mistakes = {
            "with 0 pixels nothing may change; the slice [:-0] is empty. Use [: width - pixels].": 0 * images,
            "what leaves on the right comes in again on the left; fill with zeros.": images.roll(pixels, 3),
            "the images move to the left.": left,
            "the images move down; the columns are the last dimension.": F.pad(images, (0, 0, pixels, -pixels)),
            "the left border repeats the edge; fill it with zeros.": F.pad(images, (pixels, 0, 0, 0), mode="replicate")[
                ..., :7
            ],
        }
        compare(got, right, mistakes, "column j of the result is column j - pixels of the image, or 0.")
    _check_shifted_accuracy(shifted_accuracy, draw)


class _Brightest(nn.Module):
    """Says in which column the brightest pixel is; in training mode it is always wrong."""

    def forward(self, x: Tensor) -> Tensor:
        columns = x.amax((1, 2))
        return -columns if self.training else columns


def _check_shifted_accuracy(answer: Callable[..., Any], draw: torch.Generator) -> None:
    labels = torch.tensor([0, 3, 1, 4, 2, 5, 0, 2, 3, 1])
    places = (labels - torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2, 2])) % 6
    images = F.one_hot(places, 6).float().view(10, 1, 1, 6).expand(10, 1, 2, 6).contiguous()
    images += 0.01 * torch.rand(images.shape, generator=draw)
    loader: DataLoader[Any] = DataLoader(TensorDataset(images, labels), batch_size=4)
    model = _Brightest().train()
    for pixels in (1, 0):
        moved = F.pad(images, (pixels, -pixels, 0, 0))
        hits = (moved.amax((1, 2)).argmax(1) == labels).float()
        unmoved = (images.amax((1, 2)).argmax(1) == labels).float().mean().item()
        got = number(call(answer, model, loader, pixels), "the accuracy")
        mistakes: Hints = {
            "the model is in training mode: call model.eval() first.": (
                ((-moved.amax((1, 2))).argmax(1) == labels).float().mean().item()
            ),
            "the accuracy is in percent; return a share from 0 to 1.": 100 * hits.mean().item(),
            "this is a count; divide by the number of images.": hits.sum().item(),
            "this is the mean over batches; the last one is smaller, so count over all images.": sum(
                part.mean().item() for part in torch.split(hits, 4)
            )
            / 3,
            "only the last batch is counted.": hits[8:].mean().item(),
            "the images are not shifted.": unmoved,
        }
        compare_numbers(got, hits.mean().item(), mistakes, "count where argmax equals the label.", "the accuracy")


def check_filter(answer: Any, _: torch.Generator) -> None:
    """`(mine, preference)`: the number of a filter, and how much each filter prefers horizontal strokes, (filters,)."""
    mine, preference = pair(answer, "(mine, preference)")
    if mine is None or mine is ...:
        raise NotAnswered
    value = number(mine, "the number of the filter")
    scores = torch.as_tensor(preference).detach().float().flatten()
    if value != int(value) or not 0 <= value < len(scores):
        raise Wrong(f"filters are numbered from 0 to {len(scores) - 1}; got {mine}.")
    if scores[int(value)] < 0.5 * scores.max() and int(value) != int(scores.argmax()):
        if scores[int(value)] < 0:
            raise Wrong(f"filter {int(value)} prefers the vertical stroke. Compare its two maps again.")
        raise Wrong(f"filter {int(value)} hardly tells the strokes apart; another one prefers the horizontal far more.")
