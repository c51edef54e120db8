"""Lab 3, checks of maps and boxes: class activation maps, finer maps, mistakes by pair, localization."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.labs.answers import NotAnswered, Wrong, attempt, call, close, compare, number, short, tensor, whole

Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two one past the last pixel


def check_class_activation_map(answer: Any, draw: torch.Generator) -> None:
    """`class_activation_map(features, weight, target)`: (K, h, w), (classes, K), a class → (h, w)."""
    channels, classes = whole(draw, 4, 6), whole(draw, 7, 9)
    features = torch.randn(channels, 4, 5, generator=draw)
    weight = torch.randn(classes, channels, generator=draw)
    target = whole(draw, 1, classes - 2)
    got = call(answer, features, weight, torch.tensor(target))
    if isinstance(got, Tensor) and tuple(got.shape) == tuple(features.shape):
        raise Wrong("the channels are still apart: the map is the sum over all of them.")
    got = tensor(got, (4, 5), "the map")
    products = weight[target][:, None, None] * features
    right = products.sum(0)
    mistakes = {
        "this is the mean over the channels; the sum is asked for.": products.mean(0),
        "negative places are cut off: M may be negative. Cutting is for drawing.": right.relu(),
        "all channels count alike: multiply each with its weight of the class.": features.sum(0),
        "the weights of the last class are used: take weight[target].": torch.einsum("k,khw->hw", weight[-1], features),
        "the weights of the first class are used: take weight[target].": torch.einsum("k,khw->hw", weight[0], features),
        "the strongest channel alone is used; sum over all.": products.amax(0),
        "the map is scaled to [0, 1]; that is for drawing.": (right - right.min()) / (right.max() - right.min()),
    }
    compare(got, right, mistakes, "this is not the sum of w_ck · f_k over the channels.")


def check_finer(answer: Any, draw: torch.Generator) -> None:
    """`finer(stage)`: stride 2 → 1, and dilation 2 behind it."""
    stage = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, padding=1),
    ).eval()
    x = torch.randn(1, 3, 12, 12, generator=draw)
    with torch.no_grad():
        old = stage(x)
        made = call(answer, stage)
        if not isinstance(made, nn.Module):
            raise Wrong(f"return the changed copy of the stage, got {short(made)}.")
        if made is stage or stage(x).shape != old.shape:
            raise Wrong("the stage that was given has changed: work on copy.deepcopy(stage).")
        with attempt():
            new = made.eval()(x)
    if tuple(new.shape) == tuple(old.shape):
        raise Wrong("the map is as large as before: the first convolution needs stride 1.")
    if tuple(new.shape[2:]) != (12, 12):
        raise Wrong(
            f"the map should be 12×12, it is {new.shape[2]}×{new.shape[3]}: "
            "with dilation 2 a 3×3 kernel needs padding 2."
        )
    if close(new[:, :, ::2, ::2], old, 1e-3):
        return
    convolutions = [layer for layer in made.modules() if isinstance(layer, nn.Conv2d)]
    if convolutions[0].dilation != (1, 1):
        raise Wrong("the strided convolution itself keeps dilation 1: its input has the same grid as before.")
    if all(layer.dilation == (1, 1) for layer in convolutions[1:]):
        raise Wrong("the convolutions behind it see half as far as before: give them dilation 2 and padding 2.")
    if any(layer.dilation == (1, 1) for layer in convolutions[1:]):
        raise Wrong("a convolution behind it still has dilation 1: all of them need dilation 2 and padding 2.")
    raise Wrong("at every second place the new map should have the old values; are the weights the same?")


def check_group_mistakes(answer: Any, draw: torch.Generator) -> None:
    """`group_mistakes(labels, answers)`: a dict (true, answer) → numbers of the images, the largest first."""
    pairs = [(2, 0)] * 2 + [(1, 3)] * 4 + [(0, 1)] + [(1, 1)] * 5 + [(3, 1)] * 3
    order = torch.randperm(len(pairs), generator=draw).tolist()
    labels, answers = (torch.tensor([pairs[i][k] for i in order]) for k in (0, 1))
    right: dict[tuple[int, int], list[int]] = {}
    for i in range(len(pairs)):
        if labels[i] != answers[i]:
            right.setdefault((int(labels[i]), int(answers[i])), []).append(i)
    got = call(answer, labels.clone(), answers.clone())
    if not isinstance(got, dict):
        raise Wrong(f"return a dict, got {short(got)}.")
    if not got:
        raise NotAnswered
    keys = list(got)
    if any(isinstance(part, Tensor) for key in keys if isinstance(key, tuple) for part in key):
        raise Wrong("the keys hold tensors, and two tensors are never the same key: use .tolist() or int(…).")
    if any(not isinstance(key, tuple) or len(key) != 2 for key in keys):
        raise Wrong(f"the keys are pairs (true, answer), got {short(keys[0])}.")
    if (1, 1) in got:
        raise Wrong("images that are right, such as the key (1, 1), must be in no group.")
    if set(keys) == {(answer, true) for true, answer in right} and set(keys) != set(right):
        raise Wrong("the pairs are the wrong way round: (true class, answer).")
    if set(keys) != set(right):
        raise Wrong(f"the pairs should be {sorted(right)}, they are {sorted(map(_plain, keys))}.")
    for key, members in right.items():
        mine = got[key]
        if not isinstance(mine, list | tuple):
            raise Wrong(f"each group is a list of the images' numbers; that of {key} is {short(mine)}.")
        if sorted(int(i) for i in mine) != members:
            raise Wrong(f"the group of {key} should hold the images {members}, it holds {short(list(mine))}.")
    sizes = [len(got[key]) for key in keys]
    if sizes != sorted(sizes, reverse=True):
        raise Wrong(f"the largest group comes first; their sizes are {sizes}.")


def check_to_convolution(answer: Any, draw: torch.Generator) -> None:
    """`to_convolution(linear)`: nn.Linear(K, classes) → nn.Conv2d(K, classes, 1) that does the same at each place."""
    channels, classes = whole(draw, 3, 5), whole(draw, 6, 8)
    linear = nn.Linear(channels, classes)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    made = call(answer, linear)
    if not isinstance(made, nn.Conv2d):
        raise Wrong(f"return an nn.Conv2d, got {short(made)}.")
    if made.kernel_size != (1, 1):
        raise Wrong(f"the kernel must be 1×1, it is {made.kernel_size[0]}×{made.kernel_size[1]}.")
    x = torch.randn(2, channels, 3, 4, generator=draw)
    with torch.no_grad(), attempt():
        got = made(x)
    with torch.no_grad():
        right = linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        b = linear.bias[:, None, None]
        got = tensor(got, tuple(right.shape), "its output")
        if close(got, right):
            return
        if close(got, right - b):
            raise Wrong("the bias is missing: copy linear.bias too.")
        if made.bias is not None and close(got - made.bias[:, None, None], right - b):
            raise Wrong("the weights are right, the bias is not: copy linear.bias too.")
        if made.bias is not None and close(made.bias, linear.bias):
            raise Wrong("the bias is right, the weights are not: weight (classes, K) becomes (classes, K, 1, 1).")
    raise Wrong("it gives other numbers than the linear layer at the same place: copy weight and bias.")


def check_find_boxes(answer: Any, draw: torch.Generator) -> None:
    """`find_boxes(mask)`: (H, W) bool → (left, top, right, bottom) of each connected part."""
    mask = np.zeros((14, 20), bool)
    top, left = whole(draw, 1, 2), whole(draw, 1, 3)
    mask[top : top + 4, left] = True  # an L
    mask[top + 3, left : left + 5] = True
    mask[top, left + 4] = True  # inside the L's box, but not connected
    mask[9:13, 12:19] = True
    mask[10:12, 13:18] = False  # a ring
    mask[8, 4], mask[9, 5] = True, True  # touch at a corner alone
    right: set[Box] = {
        (left, top, left + 5, top + 4),
        (left + 4, top, left + 5, top + 1),
        (12, 9, 19, 13),
        (4, 8, 5, 9),
        (5, 9, 6, 10),
    }
    got = call(answer, mask.copy())
    if not isinstance(got, list | tuple) or any(not isinstance(box, list | tuple) or len(box) != 4 for box in got):
        raise Wrong(f"return a list of (left, top, right, bottom), got {short(got)}.")
    boxes = {(int(a), int(b), int(c), int(d)) for a, b, c, d in got}
    if boxes == right and len(got) == len(right):
        return
    if boxes == right:
        raise Wrong("a part is found more than once: take its pixels out when it has been framed.")
    corner = (right - {(4, 8, 5, 9), (5, 9, 6, 10)}) | {(4, 8, 6, 10)}
    if boxes == corner:
        raise Wrong("pixels that touch at a corner alone are not neighbours here: left, right, above, below.")
    if boxes == {(a, b, c - 1, d - 1) for a, b, c, d in right}:
        raise Wrong("right and bottom are one past the last pixel: add 1.")
    if boxes == {(b, a, d, c) for a, b, c, d in right}:
        raise Wrong("rows and columns are swapped: left and right are columns, top and bottom rows.")
    if len(boxes) == 1:
        raise Wrong("this is one box around everything; each connected part has its own.")
    if (12, 9, 19, 13) not in boxes:
        raise Wrong("the ring from (12, 9) to (19, 13) is one part: go on from each neighbour to its neighbours.")
    raise Wrong(f"the parts of the mask are {sorted(right)}, you have {sorted(boxes)[:6]}.")


def check_iou(answer: Any, draw: torch.Generator) -> None:
    """`iou(a, b)`: two boxes → intersection over union."""
    cases: list[tuple[Box, Box, str]] = [
        ((0, 0, 4, 2), (2, 0, 5, 2), "boxes that overlap"),
        ((1, 1, 5, 4), (1, 1, 5, 4), "equal boxes"),
        ((0, 0, 2, 2), (5, 0, 7, 2), "boxes beside each other"),
        ((0, 0, 3, 3), (4, 5, 6, 7), "boxes apart in both directions"),
        ((0, 0, 10, 10), (2, 3, 4, 6), "one box inside the other"),
        ((0, 0, 2, 2), (2, 0, 4, 2), "boxes that share an edge"),
    ]
    shift = whole(draw, 0, 9)
    for a, b, said in cases:
        a, b = ((box[0] + shift, box[1] + shift, box[2] + shift, box[3] + shift) for box in (a, b))
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        both = max(0, wide) * max(0, high)
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
        right = both / (sum(areas) - both)
        got = number(call(answer, a, b))
        if abs(got - right) < 1e-6:
            continue
        hints = {
            both / sum(areas): "the union counts the common part once: divide by area + area - intersection.",
            both / min(areas): "divide by the union, not by the smaller box.",
            both / max(areas): "divide by the union, not by the larger box.",
            2 * both / sum(areas): "this is Dice, twice the intersection over both areas; IoU divides by the union.",
            wide * high / (sum(areas) - wide * high): "sides that do not overlap are negative: take max(0, …) of each.",
            float(both): "this is the area of the intersection; divide by that of the union.",
        }
        found = [hint for value, hint in hints.items() if abs(got - value) < 1e-6]
        raise Wrong(f"{said}: {found[0] if found else f'{got:.3f}, should be {right:.3f}.'}")


def _plain(key: tuple[Any, Any]) -> tuple[int, int]:
    return int(key[0]), int(key[1])
