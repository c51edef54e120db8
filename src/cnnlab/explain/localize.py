"""Where the objects are, from a network that was only taught what they are.

1. The fully-convolutional form gives the evidence of every place for every class. What it gives for a plain image of
   the same size, in the median colour, is taken off, so that an image of background alone is silent up to its border.
2. Where most of an image is plain, the map of the first stage tells object from background nearly to the pixel: how
   far its features are from the background's. Its product with the evidence is the heat map. On photographs the first
   stage sees structure everywhere; there the evidence alone is the heat map.
3. Connected parts above a threshold become boxes; the receptive fields say which pixels a place stands for.
4. Each box, with a margin, goes through the classifier: it names the object, and the evidence that the box adds over
   plain background must be large enough. On a plain image boxes are the connected parts of what differs from
   the background, whole ones only; the margin is what the objects of the run's own images have (`object_scale.py`).
5. The same on the image at half the size, a quarter, …, for larger objects; of overlapping boxes the first one stays.
6. A photograph that the classifier knows as a whole shows one object first of all: that class, with a box around the
   largest part of its activation map above a fifth of the largest value (Zhou et al. 2016, section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.explain.cam import activation_maps
from cnnlab.explain.fcn import FullyConvolutional, layer_fields
from cnnlab.explain.hooks import evaluation_mode, record_outputs
from cnnlab.explain.object_scale import OBJECT, UNMEASURED, ObjectScale, background, is_plain
from cnnlab.finite import check_answers
from cnnlab.geometry import ReceptiveField
from cnnlab.tasks.decision import SINGLE_LABEL, DecisionRule

FINE_THRESHOLD = 0.4  # of the largest value of the first stage's map
COARSE_THRESHOLD = 0.3  # of the largest evidence
SOFT = 0.12  # of the window: standard deviation by which the first stage's map is blurred in the heat map
GATE = 0.1  # of the largest evidence: a part that has less at every place is background
LEAST_EVIDENCE = 1.0  # in logits, that a place or a box adds over the background
LEAST_PROBABILITY = 0.6  # of the class that the classifier names
LEAST_SURE = 0.5  # of the class that the classifier names for a photograph as a whole
WHOLE_THRESHOLD = 0.2  # of the largest value of that class's activation map
SIDES = (0.7, 1.75)  # of an object in the run's own images: shortest and longest longer side of a box, at its scale
OVERLAP = 0.4  # intersection over union, or 0.7 of the smaller box: the same object
CONTAINED = 0.7

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels; right and bottom are outside


@dataclass(frozen=True)
class Found:
    """One object: its box in pixels of the image, the number of its class, and how sure that is.

    `probability` is the classifier's for the box; `evidence`, in logits, is what the class gains over plain background.
    """

    box: Box
    label: int
    probability: float
    evidence: float


@dataclass(frozen=True)
class Localization:
    """The objects, surest first, and the heat map (H, W) in [0, 1] at the size of the image."""

    objects: list[Found]
    heat: Tensor


@dataclass(frozen=True)
class _Map:
    """A map of places and the pixels they stand for: place i lies at start + i·jump, (top, left)."""

    values: Tensor  # (h, w)
    start: tuple[float, float]
    jump: tuple[float, float]

    def at(self, other: _Map) -> Tensor:
        """Its values at the places of another map, bilinear."""
        axes = []
        for axis in (0, 1):
            places = torch.arange(other.values.shape[axis]) * other.jump[axis] + other.start[axis]
            index = (places - self.start[axis]) / self.jump[axis]
            axes.append(2 * index / max(1, self.values.shape[axis] - 1) - 1)
        y, x = torch.meshgrid(*axes, indexing="ij")
        grid = torch.stack([x, y], dim=-1)[None].float()
        sampled = F.grid_sample(
            self.values[None, None], grid, mode="bilinear", padding_mode="border", align_corners=True
        )
        return sampled[0, 0]


@dataclass(frozen=True)
class _Shapes:
    """What differs from a plain background, to the pixel, in connected parts."""

    parts: np.ndarray  # (H, W): number of the part, 0 for background
    sizes: np.ndarray  # pixels of each
    places: list[tuple[slice, slice]]  # rows and columns of parts 1, 2, …

    @classmethod
    def of(cls, shown: Tensor) -> _Shapes:
        parts, count = ndimage.label(shown.numpy(), structure=np.ones((3, 3)))
        return cls(parts, np.bincount(parts.ravel(), minlength=count + 1), ndimage.find_objects(parts))

    @property
    def boxes(self) -> list[Box]:
        """Around each part."""
        return [(float(c.start), float(r.start), float(c.stop), float(r.stop)) for r, c in self.places]

    def around(self, box: Box) -> Box | None:
        """The edges of the parts that lie in a box, which is rounded up; None where it holds pieces of larger ones."""
        left, top = (max(0, math.floor(edge) - 1) for edge in box[:2])
        right, bottom = (math.ceil(edge) + 1 for edge in box[2:])
        inside = np.bincount(self.parts[top:bottom, left:right].ravel(), minlength=len(self.sizes))
        inside[0] = 0
        whole = np.flatnonzero((inside > 0) & (inside >= CONTAINED * self.sizes))
        if not len(whole) or 2 * inside[whole].sum() < inside.sum():
            return None
        rows, columns = zip(*(self.places[number - 1] for number in whole), strict=True)
        edges = min(c.start for c in columns), min(r.start for r in rows)
        return float(edges[0]), float(edges[1]), float(max(c.stop for c in columns)), float(max(r.stop for r in rows))


class Localizer:
    """Finds objects of the classes of a trained classifier on images of any size.

    Args:
        model: the classifier; shape: (C, h, w) of the images it was trained with; rule: that of its answers.
        scale: what the objects are like in these images; see `measure_objects`.

    Raises:
        ModelError: a model without a feature map, or a head without a fully-convolutional form; of a call: an image
            that is too small, or of plain background unlike that of the run's own images.

    Source: Oquab et al. 2015 and Zhou et al. 2016 for boxes from a classifier's maps; the rest is described above.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        rule: DecisionRule = SINGLE_LABEL,
        scale: ObjectScale = UNMEASURED,
    ) -> None:
        self.net = FullyConvolutional(model, shape)
        self.rule, self.scale = rule, scale
        self.model, self.shape = model, shape
        self.device = next(model.parameters()).device  # only the network computes there
        self.first, self.fine = _first_map(model, shape)
        self._last: tuple[object, tuple[Tensor, Tensor]] | None = None

    def __call__(self, image: Tensor) -> Localization:
        """Args:
        image: (C, H, W) normalised as the run's images are, of any size that is not below the net's stride.
        """
        height, width = image.shape[1:]
        if min(height, width) < self.net.stride:
            raise ModelError(
                f"an image of {height}×{width} pixels is smaller than the {self.net.stride} pixels from one place of"
                " the net's map to the next; give a larger one."
            )
        image = image.detach().float().cpu()
        colour = background(image[None])[0]
        distance = (image - colour).norm(dim=0)
        shapes = None
        if is_plain(distance):
            self.scale.check_background(colour.flatten())
            shapes = _Shapes.of(distance > OBJECT * distance.max())
        objects: list[Found] = []
        heat = torch.zeros(height, width)
        with evaluation_mode(self.model), torch.no_grad():
            for part in self._scales(height, width):
                scaled = (
                    image if part == 1 else _resize(image, max(1, round(height * part)), max(1, round(width * part)))
                )
                factors = scaled.shape[1] / height, scaled.shape[2] / width
                boxes, warm = self._boxes(scaled)
                if warm is not None:
                    heat = torch.maximum(heat, _resize(warm[None], height, width)[0])
                boxes = [_in_image(box, factors, height, width) for box in boxes]
                if shapes is not None:
                    around = [found for box in boxes if (found := shapes.around(box)) is not None]
                    boxes = [box for box in dict.fromkeys(around) if self._fits(box, factors)]
                    missed = [box for box in shapes.boxes if not any(_same(box, other) for other in boxes)]
                    boxes += [box for box in missed if self._fits(box, factors)]
                new = [box for box in boxes if not any(_same(box, found.box) for found in objects)]
                objects += self._name(image, new)
            objects.sort(key=lambda found: (-found.probability * min(found.evidence, 10.0), found.box))
            if shapes is None and (known := self._as_a_whole(image)) is not None:
                whole, seen = known
                objects = [whole, *(found for found in objects if not _same(found.box, whole.box))]
                heat = torch.maximum(heat, seen)
        return Localization(objects, heat / heat.max() if heat.max() > 0 else heat)

    def _as_a_whole(self, image: Tensor) -> tuple[Found, Tensor] | None:
        """What the classifier says of the whole image, if it is sure, and the map (H, W) of that class in [0, 1]."""
        view = _resize(image, *self.shape[1:])[None]
        colour = view.flatten(2).median(dim=2).values[:, :, None, None]
        logits, plain = self._answers(torch.cat([view, colour.expand(view.shape)]))
        probabilities, gain = self.rule.probabilities(logits[None])[0], (logits - plain).abs().max().item()
        label = int(probabilities.argmax())
        if probabilities[label] < LEAST_SURE or gain < LEAST_EVIDENCE:
            return None
        with torch.enable_grad():
            seen = activation_maps(self.model, view.to(self.device), target=label).detach().cpu()
        heat = _resize(seen, *image.shape[1:])[0]
        if heat.max() <= 0:
            return None
        places = _Map(heat, (0.0, 0.0), (1.0, 1.0))
        box = _parts(places, heat, WHOLE_THRESHOLD, 0.0, 0)[0]
        edges = _in_image(box, (1.0, 1.0), *image.shape[1:])
        return Found(edges, label, probabilities[label].item(), gain), heat

    def _scales(self, height: int, width: int) -> list[float]:
        """1, 1/2, 1/4, … down to where the image is one window; above 1 for an image smaller than that."""
        largest = min(height / self.shape[1], width / self.shape[2])
        if largest < 1:
            return [1 / largest]
        return [0.5**i for i in range(int(np.log2(largest)) + 1)]

    def _boxes(self, image: Tensor) -> tuple[list[Box], Tensor | None]:
        """Boxes in pixels of this image, and its heat map in [0, 1] (None: silence)."""
        margins = [side // 2 for side in self.shape[1:]]
        wide = F.pad(image[None], (margins[1], margins[1], margins[0], margins[0]), mode="replicate")
        logits, features = self._maps(wide)
        plain_logits, plain_features = self._plain(wide)
        evidence = (logits - plain_logits).amax(0)
        if evidence.max() < LEAST_EVIDENCE:
            return [], None
        coarse = _Map(evidence.relu(), self._start(margins, None), self._jump(None))
        used, threshold = coarse, COARSE_THRESHOLD
        heat = coarse.values
        if self.fine is not None:
            fine = _Map((features - plain_features).norm(dim=0), self._start(margins, self.fine), self._jump(self.fine))
            if is_plain(fine.values):
                gate = coarse.at(fine)
                used, threshold = fine, FINE_THRESHOLD
                widths = [SOFT * side / jump for side, jump in zip(self.shape[1:], fine.jump, strict=True)]
                soft = ndimage.gaussian_filter(fine.values.numpy(), widths)
                heat = torch.from_numpy(soft) * gate
        least = GATE * evidence.max().item()
        parts = _parts(used, coarse.at(used), threshold, least, self._closing(used))
        boxes = [box for box in parts if self._fits(box)]
        whole = _Map(torch.empty(image.shape[1:]), (0.0, 0.0), (1.0, 1.0))
        return boxes, _Map(heat / heat.max(), used.start, used.jump).at(whole)

    def _answers(self, images: Tensor) -> Tensor:
        """(B, C, h, w) → (B, K) logits, on the processor."""
        return check_answers(self.model(images.to(self.device)).float()).cpu()

    def _maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(1, C, H, W) → the class maps (K, h, w), and what the first stage gives (empty without one)."""
        names = [self.first] if self.first is not None else []
        with record_outputs(self.model, names) as recorded:
            logits = check_answers(self.net.class_maps(images.to(self.device)).float())[0].cpu()
        return logits, recorded[self.first][0].float().cpu() if self.first is not None else torch.empty(0)

    def _plain(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`_maps` of an image of the same size in the median colour; the last one is kept."""
        colour = images.flatten(2).median(dim=2).values[:, :, None, None]
        key = (images.shape, tuple(colour.flatten().tolist()))
        if self._last is None or self._last[0] != key:
            self._last = key, self._maps(colour.expand(images.shape).contiguous())
        return self._last[1]

    def _start(self, margins: list[int], fields: tuple[ReceptiveField, ReceptiveField] | None) -> tuple[float, float]:
        first, second = (float(fields[a].start) if fields else self.net.centre(a) for a in (0, 1))
        return first - margins[0], second - margins[1]

    def _jump(self, fields: tuple[ReceptiveField, ReceptiveField] | None) -> tuple[float, float]:
        first, second = (float(fields[a].jump) if fields else self.net.jump(a) for a in (0, 1))
        return first, second

    def _closing(self, places: _Map) -> int:
        """Places between two parts of one object: a sixteenth of the window, rounded down to whole places."""
        return int(min(self.shape[1:]) / 32 / max(places.jump))

    def _fits(self, box: Box, factors: tuple[float, float] = (1.0, 1.0)) -> bool:
        """Whether its size is an object's in an image that is shrunk by factors (of the height, of the width)."""
        longer = max((box[2] - box[0]) * factors[1] / self.shape[2], (box[3] - box[1]) * factors[0] / self.shape[1])
        return SIDES[0] <= longer / self.scale.fill <= SIDES[1]

    def _name(self, image: Tensor, boxes: list[Box]) -> list[Found]:
        """Ask the classifier for each box; drop those that say no more than the background."""
        if not boxes:
            return []
        plain = image.flatten(1).median(dim=1).values[:, None, None].expand(self.shape)
        views = torch.stack([plain, *(self._framed(image, box) for box in boxes)])
        logits = self._answers(views)
        gains = logits[1:] - logits[0]
        found = []
        for box, answer, gain in zip(boxes, self.rule.probabilities(logits[1:]), gains, strict=True):
            label = int(answer.argmax())
            moved = gain.abs().max().item()
            if moved >= LEAST_EVIDENCE and answer[label] >= LEAST_PROBABILITY:
                found.append(Found(box, label, answer[label].item(), moved))
        return found

    def _framed(self, image: Tensor, box: Box) -> Tensor:
        """The box in the middle of an image as the classifier knows them, with what is around it."""
        left, top, right, bottom = box
        high, wide = self.shape[1:]
        unit = max((bottom - top) / high, (right - left) / wide) / self.scale.fill  # pixels per pixel of the view
        y = (top + bottom) / 2 + (torch.arange(high) + 0.5 - high / 2) * unit - 0.5
        x = (left + right) / 2 + (torch.arange(wide) + 0.5 - wide / 2) * unit - 0.5
        if unit > 1:  # antialias: shrink the image first
            image = _resize(image, max(1, round(image.shape[1] / unit)), max(1, round(image.shape[2] / unit)))
            y, x = (y + 0.5) / unit - 0.5, (x + 0.5) / unit - 0.5
        rows, columns = (2 * (v + 0.5) / n - 1 for v, n in ((y, image.shape[1]), (x, image.shape[2])))
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)[None].float()
        return F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def _first_map(
    model: nn.Module, shape: tuple[int, int, int]
) -> tuple[str | None, tuple[ReceptiveField, ReceptiveField] | None]:
    """Name and fields of the first stage that gives a map; None where no stage does."""
    for name in getattr(model, "stages", ()):
        try:
            return name, layer_fields(model, shape, name)
        except ModelError:  # of this stage: it gives no map
            continue
    return None, None


def _parts(places: _Map, evidence: Tensor, threshold: float, least: float, closing: int) -> list[Box]:
    """Boxes around the connected parts of what is above a share of the largest value, largest sum first; only those
    with some place of at least `least` evidence."""
    values = places.values.numpy()
    mask = values > threshold * values.max()
    closed = ndimage.binary_dilation(mask, iterations=closing) if closing else mask
    parts, _ = ndimage.label(closed, structure=np.ones((3, 3)))
    parts *= mask
    found = []
    for number, place in enumerate(ndimage.find_objects(parts), 1):
        if place is None or evidence.numpy()[place][parts[place] == number].max() < least:
            continue
        rows, columns = place
        weight = values[place][parts[place] == number].sum()
        top, bottom = (places.start[0] + (i - 0.5) * places.jump[0] + 0.5 for i in (rows.start, rows.stop))
        left, right = (places.start[1] + (i - 0.5) * places.jump[1] + 0.5 for i in (columns.start, columns.stop))
        found.append((-float(weight), (left, top, right, bottom)))
    return [box for _, box in sorted(found)]


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    """(C, H, W) → (C, height, width), antialiased."""
    return F.interpolate(images[None], (height, width), mode="bilinear", antialias=True)[0]


def _in_image(box: Box, factors: tuple[float, float], height: int, width: int) -> Box:
    left, top, right, bottom = box
    return (
        min(max(left / factors[1], 0.0), width - 1.0),
        min(max(top / factors[0], 0.0), height - 1.0),
        max(min(right / factors[1], float(width)), 1.0),
        max(min(bottom / factors[0], float(height)), 1.0),
    )


def intersection(one: Box, other: Box) -> float:
    """Pixels that two boxes share."""
    wide, high = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(0.0, wide) * max(0.0, high)


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def intersection_over_union(one: Box, other: Box) -> float:
    """0 for boxes apart, 1 for equal ones."""
    shared = intersection(one, other)
    union = area(one) + area(other) - shared
    return shared / union if union > 0 else 0.0


def _same(one: Box, other: Box) -> bool:
    shared = intersection(one, other)
    smaller = min(area(one), area(other))
    return intersection_over_union(one, other) > OVERLAP or (smaller > 0 and shared / smaller > CONTAINED)
