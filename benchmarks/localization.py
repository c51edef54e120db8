"""A classifier of single digits finds digits on larger canvases: pointing game, CorLoc, F1.

    CNNLAB_DATA=ROOT uv run python benchmarks/localization.py RUN [CANVASES]

RUN is a run that was trained on MNIST alone, such as `cnnlab train data=mnist` makes. The canvases are of the official
test split: 96 pixels, digits at 0.75 to 1.5 times their size, seed 2026.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

import cnnlab
from cnnlab.data.canvases import Canvas, digit_canvases
from cnnlab.data.preprocess import Preprocess
from cnnlab.evaluation.localization import localization_metrics
from cnnlab.explain import Localizer
from cnnlab.explain.object_scale import ObjectScale
from cnnlab.runs.environment import describe
from cnnlab.runs.folder import open_folder

SEED = 2026


def main() -> None:
    root = Path(os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root"))
    run = sys.argv[1] if len(sys.argv) > 1 else sys.exit("give the run folder of a classifier of MNIST")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    model, card = cnnlab.load_run(run)
    preprocess = Preprocess.from_dict(card["preprocess"])
    data = cnnlab.load_data("mnist", root=root)
    test = data.split.test
    digits, labels = data.test.pixels[test][..., 0].numpy(), data.images.labels[test]
    shape = (1, preprocess.layout.height, preprocess.layout.width)
    localizer = Localizer(model, shape, scale=ObjectScale.of(open_folder(run), 1))
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n")
    print(f"{card['model']['name']}, seed {SEED}, n = {count} canvases a row\n")
    print("| objects | background | pointing | CorLoc | precision | recall | F1 | class right | ms per image |")
    print("|---|---|---|---|---|---|---|---|---|")
    for objects in ((1, 1), (1, 5)):
        for background in ("blank", "clutter"):
            canvases = digit_canvases(digits, labels, count, objects=objects, background=background, seed=SEED)
            began = time.perf_counter()
            answers = [localizer(as_image(canvas, preprocess)) for canvas in canvases]
            spent = 1000 * (time.perf_counter() - began) / count
            metrics = localization_metrics(answers, canvases)
            cells = [
                "1" if objects == (1, 1) else "1–5",
                background,
                *(f"{100 * metrics[k]:.1f} %" for k in ("pointing", "corloc")),
                *(f"{metrics[k]:.3f}" for k in ("precision", "recall", "f1")),
                f"{100 * metrics['named']:.1f} %",
                f"{spent:.0f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


def as_image(canvas: Canvas, preprocess: Preprocess) -> torch.Tensor:
    return preprocess.normalise(torch.from_numpy(canvas.image[None, ..., None]))[0]


if __name__ == "__main__":
    main()
