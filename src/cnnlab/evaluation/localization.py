"""How well objects are found: pointing game, CorLoc, precision, recall and F1 of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnnlab.data.canvases import Canvas
from cnnlab.explain.localize import Box, Found, Localization, intersection_over_union
from cnnlab.proportions import wilson_interval

HIT = 0.5  # intersection over union from which on a box counts


def match_boxes(found: Sequence[Box], true: Sequence[Box], least: float = HIT) -> list[int | None]:
    """For each found box, in order, the number of the true box that it hits, each of them once at the most.

    A hit is an intersection over union of at least `least` (Everingham et al. 2010, PASCAL VOC, section 4.2).
    """
    free = set(range(len(true)))
    matches: list[int | None] = []
    for box in found:
        best = max(free, key=lambda number: (intersection_over_union(box, true[number]), -number), default=None)
        if best is not None and intersection_over_union(box, true[best]) >= least:
            free.remove(best)
            matches.append(best)
        else:
            matches.append(None)
    return matches


def localization_metrics(answers: Sequence[Localization], canvases: Sequence[Canvas]) -> dict[str, Any]:
    """Metrics of localization on images whose boxes are known.

    Returns:
        pointing: share of images whose strongest place of the heat map lies in a true box (Zhang et al. 2016);
        corloc: share of images whose surest box hits a true one (Deselaers et al. 2012);
        precision, recall, f1: of all boxes at an intersection over union of 0.5, whatever their class;
        named: share of the hits with the right class; n images and objects; 95 % Wilson intervals of the shares.
    """
    pointed = first = hits = named = boxes = objects = 0
    for answer, canvas in zip(answers, canvases, strict=True):
        true: list[Box] = [tuple(map(float, box)) for box in canvas.boxes]  # type: ignore[misc]
        y, x = divmod(int(answer.heat.argmax()), answer.heat.shape[1])
        silent = not bool(answer.heat.any())
        pointed += not silent and any(box[0] <= x < box[2] and box[1] <= y < box[3] for box in true)
        found: list[Found] = answer.objects
        matches = match_boxes([one.box for one in found], true)
        first += bool(match_boxes([one.box for one in found[:1]], true) not in ([], [None]))
        hits += sum(match is not None for match in matches)
        named += sum(
            match is not None and int(canvas.labels[match]) == one.label
            for one, match in zip(found, matches, strict=True)
        )
        boxes += len(found)
        objects += len(true)
    count = len(canvases)
    precision, recall = hits / max(1, boxes), hits / max(1, objects)
    return {
        "n": count,
        "objects": objects,
        "pointing": pointed / max(1, count),
        "pointing_interval": list(wilson_interval(pointed, count)),
        "corloc": first / max(1, count),
        "corloc_interval": list(wilson_interval(first, count)),
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / max(1, boxes + objects),
        "named": named / max(1, hits),
    }
