"""What the page shows of a trained network: its answers, where it looks, what its stages see, and its layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.data.data import Data
from cnnlab.errors import ModelError
from cnnlab.evaluation.hardest import first_places
from cnnlab.evaluation.intervals import mean_interval
from cnnlab.evaluation.outputs import ImageOutputs, Outputs
from cnnlab.explain.cam import activation_maps, method_of
from cnnlab.explain.faithfulness import deletion_insertion, random_maps
from cnnlab.explain.overlay import legend_colours, overlay
from cnnlab.explain.stages import stage_maps
from cnnlab.models.summary import Summary, summarise
from cnnlab.models.table import extent_text, shape_text, short_bytes, short_count
from cnnlab.models.trace import ArithmeticMismatch
from cnnlab.report.content import Area, Faithfulness, Insight, Layer, Sample, Stage
from cnnlab.report.gather_pixels import gather_scenes
from cnnlab.report.images import BOX

SAMPLES = 24
MISTAKES = 12
CHANNELS = 16  # of a stage
LEGEND = 11  # colours
PIXELS = 400_000  # of the images whose maps are made at once
STEPS = 10  # of deletion and insertion
JUDGED = (8, 32)  # images, fewest and most, that deletion and insertion are measured on
COST = 4.5e11  # multiply-adds that this may take on a processor: about a quarter of a minute
NAMES = {"cam": "CAM", "gradcam": "Grad-CAM"}


def gather(model: nn.Module, data: Data, outputs: Outputs | None) -> tuple[list[Sample], Insight]:
    """Sample images of the test split and what lies behind the answers; nothing of what the model cannot give.

    Args:
        outputs: of the test split; None where there is none.
    """
    shape = (data.in_channels, *data.image_size)
    try:
        summary = summarise(model, shape)
    except (ModelError, ArithmeticMismatch):  # a model of the user's own can look at numbers, and there are none then
        summary = Summary(shape)
    gathered = GATHERERS.get(outputs.metrics.get("task", "classification")) if outputs is not None else None
    samples, insight = gathered(model, data, outputs, summary) if gathered is not None else ([], Insight())
    return samples, dataclasses.replace(insight, layers=layer_rows(summary), totals=totals_of(summary))


def gather_labels(
    model: nn.Module, data: Data, outputs: ImageOutputs, summary: Summary
) -> tuple[list[Sample], Insight]:
    """Samples, the worst mistakes, where the network looks, and what its stages see."""
    chosen, worst = sample_places(outputs, data.config.seed), worst_places(outputs)
    images = images_at(data, [*chosen, *worst])
    try:
        method = method_of(model)
        maps = maps_of(model, images)
        judged = faithfulness(model, data, outputs, summary.multiply_adds)
        stages = strongest(stage_maps(model, images[traced_place(outputs, chosen)]))
    except Exception as error:  # a run must get its report, whatever a model of the user's own does with a hook
        reason = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        samples = as_samples(data, outputs, [*chosen, *worst], images, None)
        return samples[: len(chosen)], Insight(samples[len(chosen) :], without_maps=reason)
    samples = as_samples(data, outputs, [*chosen, *worst], images, maps)
    insight = Insight(
        mistakes=samples[len(chosen) :],
        method=NAMES[method],
        legend=legend_colours(LEGEND),
        traced=samples[traced_place(outputs, chosen)],
        stages=stages,
        faithfulness=judged,
    )
    return samples[: len(chosen)], insight


GATHERERS: dict[str, Callable[..., tuple[list[Sample], Insight]]] = {  # by the task's name
    "classification": gather_labels,
    "multilabel": gather_labels,
    "segmentation": gather_scenes,
}


# ---- images


def sample_places(outputs: ImageOutputs, seed: int) -> list[int]:
    """Places in the split, in order, a random sample; half of them misclassified if there are so many."""
    missed = outputs.wrong.numpy()
    random = np.random.Generator(np.random.PCG64(seed))
    wrong = random.permutation(np.flatnonzero(missed))[: SAMPLES // 2]
    others = random.permutation(np.setdiff1d(np.arange(len(missed)), wrong))[: SAMPLES - len(wrong)]
    return np.sort(np.concatenate([wrong, others])).tolist()


def worst_places(outputs: ImageOutputs) -> list[int]:
    """Places of the wrong answers with the highest loss, the worst first."""
    wrong = outputs.wrong.nonzero()[:, 0]
    return wrong[first_places(outputs.losses[wrong], MISTAKES, descending=True)].tolist()


def traced_place(outputs: ImageOutputs, places: Sequence[int]) -> int:
    """Number among `places` of the first image that is classified correctly, else of the first."""
    right = (~outputs.wrong)[list(places)].int()
    return int(right.argmax())


def images_at(data: Data, places: Sequence[int]) -> Tensor:
    """(B, C, H, W) test images as the model sees them, on its device."""
    numbers = data.split.test[np.asarray(places, dtype=np.int64)]
    return next(data.evaluation_loader(numbers, len(places)).epoch()).images


def as_samples(
    data: Data, outputs: ImageOutputs, places: Sequence[int], images: Tensor, maps: Tensor | None
) -> list[Sample]:
    shown = data.preprocess.denormalise(images).cpu().numpy()
    losses, probabilities, chosen = outputs.losses, outputs.probabilities, outputs.rule.chosen(outputs.probabilities)
    several = outputs.rule.multi_label
    samples = []
    for row, place in enumerate(places):
        image = shown[row, :, :, 0] if shown.shape[3] == 1 else shown[row]
        true = [data.classes[number] for number in outputs.true_classes(place)]
        answered = [data.classes[number] for number in chosen[place].nonzero()[:, 0].tolist()]
        samples.append(
            Sample(
                image=image,
                name=outputs.names[place],
                true=true if several else true[0],
                answered=answered if several else None,
                probabilities=probabilities[place].numpy(),
                overlay=None if maps is None else overlay(enlarged(image), maps[row].cpu().numpy()),
                loss=losses[place].item(),
            )
        )
    return samples


def enlarged(image: np.ndarray) -> np.ndarray:
    """A small image with each pixel as a square, so that the map over it can be smooth."""
    factor = max(1, BOX // max(image.shape[:2]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


# ---- where the network looks, and what it sees


def maps_of(model: nn.Module, images: Tensor) -> Tensor:
    """(B, H, W) maps of the classes that the model answers, some images at a time: gradients take memory."""
    size = max(1, PIXELS // (images.shape[2] * images.shape[3]))
    return torch.cat([activation_maps(model, part) for part in torch.split(images, size)])


def faithfulness(model: nn.Module, data: Data, outputs: ImageOutputs, multiply_adds: int) -> Faithfulness:
    """Deletion and insertion over random test images; fewer of them where a large model is slow."""
    passes = 4 * (STEPS + 1)  # two curves of two kinds of map
    fewest, most = JUDGED
    count = most
    if data.test.device.type == "cpu" and multiply_adds:
        count = min(most, max(fewest, int(COST / (passes * multiply_adds))))
    random = np.random.Generator(np.random.PCG64(data.config.seed))
    places = random.permutation(len(outputs.logits))[:count]
    images, targets = images_at(data, places.tolist()), outputs.logits.argmax(1)[torch.from_numpy(places)]
    height, width = images.shape[2:]
    rivals = (maps_of(model, images), random_maps(len(images), height, width, data.config.seed))
    ours, theirs = (deletion_insertion(model, images, maps, targets, STEPS, outputs.rule) for maps in rivals)
    return Faithfulness(
        n=len(images),
        steps=STEPS,
        maps=(area(ours["deletion"]), area(ours["insertion"])),
        random=(area(theirs["deletion"]), area(theirs["insertion"])),
        better=(
            int((ours["deletion"] < theirs["deletion"]).sum()),
            int((ours["insertion"] > theirs["insertion"]).sum()),
        ),
    )


def area(values: Tensor) -> Area:
    return Area(*mean_interval(values.tolist()))


def strongest(stages: Sequence[tuple[str, Tensor]]) -> list[Stage]:
    """Of each stage the channels with the largest sum of squares, in their order."""
    chosen = []
    for name, maps in stages:
        strength = maps.square().sum((1, 2)).nan_to_num()
        places = sorted(first_places(strength, CHANNELS, descending=True))
        chosen.append(Stage(name, tuple(maps.shape), maps[places].cpu().numpy()))
    return chosen


# ---- layers


def layer_rows(summary: Summary) -> list[Layer]:
    return [
        Layer(
            name=row.name,
            kind=row.kind,
            output=shape_text(row.output),
            arithmetic=row.arithmetic,
            parameters=row.parameters,
            multiply_adds=row.multiply_adds,
            receptive_field=extent_text(row.receptive_field),
        )
        for row in summary.layers
    ]


def totals_of(summary: Summary) -> dict[str, str]:
    if not summary.layers:
        return {}
    return {
        "input": shape_text(summary.input),
        "parameters": f"{summary.parameters:,} ({short_bytes(summary.parameter_bytes)})",
        "multiply-adds": f"{short_count(summary.multiply_adds)} per image",
        "receptive field": extent_text(summary.receptive_field),
        "activations": f"{short_bytes(summary.activation_bytes)} per image",
    }
