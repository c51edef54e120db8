"""Lab 1, checks of what happens to images: normalisation, blur, edges, size, colour, augmentation, equal images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.labs.answers import NotAnswered, Wrong, attempt, call, close, compare, pair, short, tensor

GREY = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # of red, green and blue; ITU-R BT.601


def both(answer: Any, names: str) -> tuple[Any, Any]:
    """The two functions of an exercise that asks for two. Raises Wrong."""
    first, second = pair(answer, f"give both functions, ({names})")
    if not callable(first) or not callable(second):
        raise Wrong(f"give both functions by name, ({names}).")
    return first, second


def check_normalise(answer: Any, draw: torch.Generator) -> None:
    """`(channel_statistics, normalise)`: (N, C, H, W) → (C,), (C,); (N, C, H, W), (C,), (C,) → (N, C, H, W)."""
    statistics, normalise = both(answer, "channel_statistics, normalise")
    scale = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1)
    images = scale * torch.rand(8, 3, 5, 7, generator=draw)
    axes = (0, 2, 3)
    mean, std = pair(call(statistics, images.clone()), "the means and the standard deviations")
    right_mean, right_std = images.mean(axes), images.std(axes)
    for name, value, overall in (("mean", mean, images.mean()), ("std", std, images.std())):
        if isinstance(value, Tensor) and value.numel() == 1:
            raise Wrong(f"the {name} is one number for all; each channel has its own: mean over images, rows, columns.")
        if isinstance(value, Tensor) and value.shape == images.shape[:2]:
            raise Wrong(f"the {name} is that of each image; take it over all images too.")
        if isinstance(value, Tensor) and value.numel() > 3:
            raise Wrong(f"the {name} has shape {tuple(value.shape)}; one number per channel is wanted: dim=(0, 2, 3).")
        if isinstance(value, Tensor) and close(value.flatten(), overall.expand(3)):
            raise Wrong(f"the {name} is the same for all channels; take it for each channel alone.")
    got_mean, got_std = tensor(torch.as_tensor(mean).flatten(), (3,)), tensor(torch.as_tensor(std).flatten(), (3,))
    compare(got_mean, right_mean, {"mean and std are swapped.": right_std}, "the mean over (0, 2, 3) is wrong.")
    if not close(got_std, images.std(axes, correction=0)):
        each = images.std((2, 3)).mean(0)
        mistakes = {
            "this is the variance; the standard deviation is its square root.": right_std**2,
            "this is the mean of the deviations inside of each image; take one over all images.": each,
        }
        compare(got_std, right_std, mistakes, "the standard deviation over (0, 2, 3) is wrong.")
    mean, std = torch.rand(3, generator=draw), 0.2 + torch.rand(3, generator=draw)
    m, s = mean.view(3, 1, 1), std.view(3, 1, 1)
    given = images.clone()
    got = tensor(call(normalise, given, mean.clone(), std.clone()), tuple(images.shape))
    mistakes = {
        "the mean is not subtracted.": images / s,
        "the result is not divided by the standard deviation.": images - m,
        "divide by the standard deviation, do not multiply.": (images - m) * s,
        "subtract the mean first, then divide: (x - μ) / σ.": images / s - m,
        "use the mean and std that are given: those of the training images, not of these ones.": (
            images - right_mean.view(3, 1, 1)
        )
        / right_std.view(3, 1, 1),
    }
    compare(got, (images - m) / s, mistakes, "normalise must give (x - μ) / σ, channel by channel.")
    if not torch.equal(given, images):
        raise Wrong("the images that were given are changed; return new ones.")


def sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """(H, W) → change to the right and downwards, each (H-2, W-2)."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    right, down = F.conv2d(x[None, None], torch.stack([kernel, kernel.T])[:, None])[0]
    return right, down


def check_blur_and_edges(answer: Any, draw: torch.Generator) -> None:
    """`(blur, edges)`: (H, W), size → (H-size+1, W-size+1); (H, W), threshold → (H-2, W-2) true at edges."""
    blur, edges = both(answer, "blur, edges")
    x = torch.rand(9, 12, generator=draw)
    for size in (3, 5):
        right = F.avg_pool2d(x[None], size, 1)[0]
        got = call(blur, x.clone(), size)
        if isinstance(got, Tensor) and got.shape == x.shape:
            raise Wrong("the result is as large as the image; without padding it is (H-size+1, W-size+1).")
        got = tensor(got, tuple(right.shape), "the blurred image")
        wide = F.avg_pool2d(x[None], (1, size), 1)[0, : right.shape[0]]
        mistakes = {
            "this is the sum of the window; divide by size², or the image gets brighter.": right * size**2,
            "the sum is divided by size; the window has size² pixels.": right * size,
            "the window has one row; blur downwards too.": wide,
            "this is the largest value of the window; take the mean.": F.max_pool2d(x[None], size, 1)[0],
        }
        compare(got, right, mistakes, f"each pixel must be the mean of its {size}×{size} window.")
    right, down = sobel(x)
    strength = (right**2 + down**2).sqrt()
    between = strength.flatten().sort().values[strength.numel() // 2 - 1 :][:2]
    threshold = between.mean().item()  # the median, with as much room as there is
    truth = strength > threshold
    got = call(edges, x.clone(), threshold)
    if isinstance(got, Tensor) and got.shape == truth.shape and len(set(got.flatten().tolist())) > 2:
        raise Wrong("this is the strength; the answer is true or false: strength > threshold.")
    got = tensor(got, tuple(truth.shape), "the edges").bool()
    flat = torch.tensor([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]])
    prewitt = F.conv2d(x[None, None], torch.stack([flat, flat.T])[:, None])[0].norm(dim=0)
    wrong = {
        "true and false are swapped: an edge is where the strength is above the threshold.": ~truth,
        "only changes to the right are found; use the transposed kernel as well.": right.abs() > threshold,
        "only changes downwards are found; use both kernels.": down.abs() > threshold,
        "the strength is a root: √(gx² + gy²).": right**2 + down**2 > threshold,
        "|gx| + |gy| is larger at slanted edges; take √(gx² + gy²).": right.abs() + down.abs() > threshold,
        "gx + gy cancel where one is negative; take √(gx² + gy²).": right + down > threshold,
        "the middle row of Sobel's kernel counts twice: -2, 0, 2.": prewitt > threshold,
    }
    mistakes = {hint: one.float() for hint, one in wrong.items()}
    compare(got.float(), truth.float(), mistakes, "edges are where √(gx² + gy²) > threshold.")


def check_resize(answer: Any, draw: torch.Generator) -> None:
    """`resize(x, height, width)`: (C, H, W) → (C, height, width), nearest neighbour or bilinear."""
    for height, width in ((4, 5), (13, 18), (6, 20)):
        x = torch.rand(2, 7, 10, generator=draw)
        got = call(answer, x.clone(), height, width)
        if isinstance(got, Tensor) and got.shape == (2, width, height):
            raise Wrong("height and width are swapped: the result is (C, height, width).")
        got = tensor(got, (2, height, width))
        places = torch.arange(height) * 7 // height, torch.arange(width) * 10 // width
        floor, upside_down = (one[:, places[0]][:, :, places[1]] for one in (x, x.flip(1)))
        rows, columns = ((2 * torch.arange(n) + 1) * m // (2 * n) for n, m in ((height, 7), (width, 10)))
        middle = x[:, rows][:, :, columns]
        smooth = F.interpolate(x[None], (height, width), mode="bilinear")[0]
        if any(close(got, right) for right in (floor, middle, smooth)):
            continue
        by_height = x[:, torch.arange(height) * 7 // height]
        mistakes = {
            "the columns use the scale of the rows; each axis has its own.": by_height[
                :, :, (torch.arange(width) * 7 // height).clamp(max=9)
            ],
            "this is the upper left part of the image, not all of it made smaller.": x[:, :height, :width],
            "with align_corners=True pixels count as points, not areas; use the default.": F.interpolate(
                x[None], (height, width), mode="bilinear", align_corners=True
            )[0],
            "the rows are upside down; row 0 is the top.": upside_down,
        }
        otherwise = "row i of the result is row i·H // height of the image, and the columns alike."
        compare(got, floor, mistakes, otherwise)


def check_saturate(answer: Any, draw: torch.Generator) -> None:
    """`saturate(x, factor)`: (3, H, W), 0 to 1 → the same; 0 is grey, 1 the image, above 1 stronger colours."""
    x = torch.rand(3, 6, 8, generator=draw)
    grey = (GREY * x).sum(0, keepdim=True)
    mean = x.mean(0, keepdim=True)
    for factor in (0.5, 0.0, 2.5):
        right = (grey + factor * (x - grey)).clamp(0, 1)
        got = call(answer, x.clone(), factor)
        if isinstance(got, Tensor) and got.shape in ((6, 8), (1, 6, 8)):
            raise Wrong("the result has one channel; a grey pixel of a colour image has three equal ones.")
        got = tensor(got, (3, 6, 8))
        mistakes = {
            "values leave 0 to 1: add .clamp(0, 1).": grey + factor * (x - grey),
            "grey is the plain mean of the channels; the eye sees green brightest: 0.299, 0.587, 0.114.": (
                mean + factor * (x - mean)
            ).clamp(0, 1),
            "this changes the brightness; move each pixel away from its own grey.": (factor * x).clamp(0, 1),
            "factor 0 must be grey and 1 the image; here it is the other way round.": (x + factor * (grey - x)).clamp(
                0, 1
            ),
            "this is the difference from grey alone; add the grey again.": (factor * (x - grey)).clamp(0, 1),
            "the image is as before.": x,
        }
        compare(got, right, mistakes, "the result must be grey + factor · (x - grey), in 0 to 1.")


def check_augment(answer: Any, draw: torch.Generator) -> None:
    """`augment(x, padding)`: (C, H, W) → a random crop of the padded image, mirrored in half of the cases."""
    x = 0.1 + torch.rand(2, 5, 6, generator=draw)
    padded = F.pad(x, (1, 1, 1, 1))
    crops = {(top, left): padded[:, top : top + 5, left : left + 6] for top in range(3) for left in range(3)}
    places, both_ways = list(crops), torch.stack([*crops.values(), *(crop.flip(2) for crop in crops.values())])
    seen: set[tuple[int, int]] = set()
    count, mirrored = 200, 0
    given = x.clone()
    for _ in range(count):
        got = call(answer, given, 1)
        if isinstance(got, Tensor) and tuple(got.shape) == tuple(padded.shape):
            raise Wrong("the result is as large as the padded image; cut a window of the old size from it.")
        got = tensor(got, tuple(x.shape))
        nearest = int((both_ways - got).abs().amax((1, 2, 3)).argmin())
        if not close(got, both_ways[nearest]):
            _explain_crop(got, x, padded, crops)
        mirrored += nearest >= len(places)
        seen.add(places[nearest % len(places)])
    if not torch.equal(given, x):
        raise Wrong("the image that was given is changed; return a new one.")
    if len(seen) == 1:
        raise Wrong("the crop is always at the same place: draw top and left anew in each call.")
    if len({top for top, _ in seen}) == 1 or len({left for _, left in seen}) == 1:
        raise Wrong("the crop moves along one axis only; draw both top and left.")
    if (0, 2) not in seen and (2, 0) not in seen and all(top == left for top, left in seen):
        raise Wrong("top and left are always equal; draw each for itself.")
    if len(seen) < 9:
        raise Wrong("some places never come: from 0 to 2·padding, both included; randint leaves out its upper end.")
    if mirrored in (0, count):
        raise Wrong(f"the image is {'never' if not mirrored else 'always'} mirrored; do it in half of the cases.")
    if not 0.3 < mirrored / count < 0.7:
        raise Wrong(f"{mirrored / count:.0%} of the images are mirrored; half should be.")


def _explain_crop(got: Tensor, x: Tensor, padded: Tensor, crops: Mapping[tuple[int, int], Tensor]) -> None:
    if any(close(got.flip(1), crop) or close(got.flip(1, 2), crop) for crop in crops.values()):
        raise Wrong("the image is turned upside down; a mirror swaps left and right, the last dimension.")
    edge = F.pad(x[None], (1, 1, 1, 1), mode="replicate")[0]
    reflected = F.pad(x[None], (1, 1, 1, 1), mode="reflect")[0]
    for other in (edge, reflected, padded.roll((1, 1), (1, 2))):
        views = [other[:, top : top + 5, left : left + 6] for top in range(3) for left in range(3)]
        if any(close(got, view) or close(got.flip(2), view) for view in views):
            raise Wrong("the border is filled with pixels of the image; fill it with 0, as F.pad does.")
    if all(any(close(got[c], crop[c]) for crop in crops.values()) for c in range(len(x))):
        raise Wrong("each channel is cut at another place, so colours come apart; cut all at the same.")
    raise Wrong("the result is no window of the padded image, nor the mirror of one.")


CHANGES = ("mirror", "shift by a pixel", "half turn", "a bit brighter", "crop to one corner")
KEEPS = {
    "digits": {"shift by a pixel", "a bit brighter"},
    "photographs": {"mirror", "shift by a pixel", "a bit brighter"},
}
OPEN = {"digits": set[str](), "photographs": {"half turn"}}  # one may argue either way


def check_keeps(answer: Any, _: torch.Generator) -> None:
    """`KEEPS`: {"digits": [...], "photographs": [...]}, of each the changes after which the label is still true."""
    if not isinstance(answer, Mapping) or set(answer) != set(KEEPS):
        raise Wrong(f"give a dict with the keys 'digits' and 'photographs', got {short(answer)}.")
    if any(value is ... or value is None for value in answer.values()):
        raise NotAnswered
    for name, value in answer.items():
        if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset):
            raise Wrong(f"{name!r} must be a list of changes, got {short(value)}.")
        for change in value:
            if change not in CHANGES:
                raise Wrong(f"{change!r} is none of the changes: {', '.join(CHANGES)}.")
    reasons = {
        ("digits", "mirror"): "is a mirrored 2 still a 2? A network that must say so learns less of the real ones.",
        ("digits", "half turn"): "a 6 that is turned by half becomes a 9, with the label of the 6.",
        ("digits", "crop to one corner"): "one corner of a digit is a stroke that many digits have.",
        ("photographs", "crop to one corner"): "one corner of a photograph is often sky or grass, without the object.",
        ("photographs", "mirror"): "a mirrored cat is still a cat.",
    }
    for name, needed in KEEPS.items():
        given = set(answer[name])
        for change in sorted(given - needed - OPEN[name]):
            raise Wrong(f"{name}, {change!r}: {reasons[name, change]}")
        for change in sorted(needed - given):
            said = reasons.get((name, change), "you would still give the same label.")
            raise Wrong(f"{name}, {change!r} is missing: {said}")


def check_equal_images(answer: Any, draw: torch.Generator) -> None:
    """`equal_images(a, b)`: (N, C, H, W), (M, C, H, W) uint8 → the pairs (i, j) with a[i] equal to b[j]."""
    a, b = (torch.randint(0, 256, (n, 2, 4, 5), generator=draw, dtype=torch.uint8) for n in (6, 9))
    b[5], b[7], b[0], b[3] = a[2], a[2], a[4], a[3]
    b[4] = a[1].flip(2)  # the same pixels elsewhere
    b[6] = a[0]
    b[6, 0, 1, 2] ^= 1  # nearly the same
    b[8] = a[5]
    b[8, 1] ^= 1  # only the first channel is the same
    right = {(2, 5), (2, 7), (4, 0), (3, 3)}
    with attempt():
        got = list(call(answer, a.clone(), b.clone()))
        pairs = [tuple(int(place) for place in one) if hasattr(one, "__iter__") else one for one in got]
    if any(not isinstance(one, tuple) or len(one) != 2 for one in pairs):
        raise Wrong("return a list of pairs (i, j): the place in a and the place in b.")
    found = set(pairs)
    if found == right and len(pairs) == len(right):
        return
    if found == right:
        raise Wrong("some pairs are found twice; each belongs into the list once.")
    if found == {(j, i) for i, j in right}:
        raise Wrong("i and j are swapped: i is the place in a, j that in b.")
    if found == {(3, 3)}:
        raise Wrong("only images at the same place are compared; compare each of a with each of b.")
    hints = {
        (1, 4): "an image with the same pixels at other places counts as equal; compare pixel by pixel.",
        (0, 6): "an image that differs in one pixel counts as equal; all pixels must be.",
        (5, 8): "only the first channel is compared; compare all.",
    }
    for one, hint in hints.items():
        if one in found:
            raise Wrong(hint)
    missing = sorted(right - found)
    if not found - right and {(2, 5), (2, 7)} & set(missing):
        raise Wrong("an image may have several copies; here only one of them is found.")
    raise Wrong(f"the pairs must be {sorted(right)}, got {sorted(found)}.")
