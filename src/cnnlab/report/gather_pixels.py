"""What the page shows of a network that classifies pixels: image, truth, answer and error side by side."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from cnnlab.data.data import Data
from cnnlab.device import exact_float32
from cnnlab.evaluation.segmentation import ROW, PixelOutputs
from cnnlab.explain.overlay import class_colours, paint_classes
from cnnlab.models.summary import Summary
from cnnlab.report.content import Insight, Sample, Scene

WORST, OTHERS = 6, 6  # scenes: those of the lowest mean IoU, and random others


@torch.inference_mode()
@exact_float32()
def gather_scenes(
    model: nn.Module, data: Data, outputs: PixelOutputs, summary: Summary
) -> tuple[list[Sample], Insight]:
    """Scenes of the test split and the CSS colours of the classes; no samples, since these are whole images."""
    overlap = np.array([row[ROW.index("mean_iou")] for row in outputs.rows])
    worst = np.argsort(overlap, kind="stable")[:WORST]
    random = np.random.Generator(np.random.PCG64(data.config.seed))
    others = np.sort(random.permutation(np.setdiff1d(np.arange(len(overlap)), worst))[:OTHERS])
    places = np.concatenate([worst, others])
    numbers = data.split.test[places]
    batch = next(data.evaluation_loader(numbers, len(places)).epoch())
    answers, truths = model(batch.images).argmax(1).cpu().numpy(), batch.targets.cpu().numpy()
    images = data.preprocess.denormalise(batch.images).cpu().numpy()
    colours = class_colours(data.num_classes)
    scenes = []
    for place, image, truth, answer in zip(places, images, truths, answers, strict=True):
        metrics = dict(zip(ROW, outputs.rows[place], strict=True))
        wrong = (truth != answer)[..., None].repeat(3, 2)
        scenes.append(
            Scene(
                name=outputs.names[place],
                metrics=f"mean IoU {100 * metrics['mean_iou']:.1f} %, pixels {100 * metrics['pixel_accuracy']:.1f} %",
                image=image,
                truth=paint_classes(image, truth, colours),
                answer=paint_classes(image, answer, colours),
                error=np.where(wrong, np.uint8(255), image // 4),
            )
        )
    return [], Insight(scenes=scenes, colours=[f"rgb({r}, {g}, {b})" for r, g, b in colours.tolist()])
