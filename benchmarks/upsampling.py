"""Transposed convolution against bilinear upsampling in a U-Net: metrics of three seeds, and what the maps look like.

    uv run python benchmarks/upsampling.py ROOT BACKGROUNDS [IMAGE]

6,000 images of mnist_m_seg, two epochs. For the last step up, the spread over the four places of a 2×2 cell is the
standard deviation of their mean magnitudes over the mean of all: 0 where no checkerboard is laid over the map.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import cnnlab
from cnnlab.data.data import Data
from cnnlab.evaluation.evaluate import data_of_run
from cnnlab.explain.hooks import evaluation_mode, record_outputs
from cnnlab.runs.folder import open_folder

KINDS, SEEDS = ("deconv", "bilinear"), (0, 1, 2)
LAYER = "decoder.1.up"


def main() -> None:
    root, backgrounds = sys.argv[1:3]
    image = Path(sys.argv[3] if len(sys.argv) > 3 else "upsampling.png")
    print("| upsampling | digit IoU | boundary F1 | spread in a 2×2 cell |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        shown = {}
        for kind in KINDS:
            runs = [train(Path(folder) / f"{kind}{seed}", kind, seed, root, backgrounds) for seed in SEEDS]
            shown[kind] = report(kind, runs)
        draw(shown, image)


def train(run: Path, kind: str, seed: int, root: str, backgrounds: str) -> Path:
    words = ["data=mnist_m_seg", f"data.root={root}", f"data.backgrounds={backgrounds}", "data.limit=6000"]
    words += [f"model.upsample={kind}", f"seed={seed}", f"run.dir={run}"]
    subprocess.run([sys.executable, "-m", "cnnlab", "train", *words], check=True, stdout=subprocess.DEVNULL)
    return run


def report(kind: str, runs: list[Path]) -> tuple[Tensor, Tensor, Data]:
    """Print a row; give images and maps of the first run."""
    tests = [json.loads((run / "test.json").read_text()) for run in runs]
    maps = [maps_of(run) for run in runs]
    columns = (
        [test["per_class"][1]["iou"] for test in tests],
        [test["boundary_f1"] for test in tests],
        [cell_spread(features) for _, features, _ in maps],
    )
    cells = [f"{statistics.mean(v):.4f} ± {statistics.stdev(v):.4f}" for v in columns]
    print(f"| {kind} | {' | '.join(cells)} |", flush=True)
    return maps[0]


@torch.inference_mode()
def maps_of(run: Path) -> tuple[Tensor, Tensor, Data]:
    """200 test images (B, C, H, W), and what the last step up makes of them (B, F, H, W)."""
    model, card = cnnlab.load_run(run)
    data, _ = data_of_run(open_folder(run), card, torch.device("cpu"))
    images = next(data.evaluation_loader("test", 200).epoch()).images
    assert isinstance(model, nn.Module)
    with evaluation_mode(model), record_outputs(model, [LAYER]) as outputs:
        model(images)
    return images, outputs[LAYER], data


def cell_spread(features: Tensor) -> float:
    """Standard deviation over mean of the magnitudes at the four places of a 2×2 cell, the mean over the channels."""
    sizes = torch.stack([features[:, :, y::2, x::2].abs().mean(dim=(0, 2, 3)) for y in (0, 1) for x in (0, 1)])
    return (sizes.std(0) / sizes.mean(0)).mean().item()


def draw(shown: dict[str, tuple[Tensor, Tensor, Data]], path: Path) -> None:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(len(shown), 5)
    for row, (kind, (images, features, data)) in zip(axes, shown.items(), strict=True):
        strongest = features[0].square().sum(dim=(1, 2)).argsort(descending=True)[:4]
        panels = [data.preprocess.denormalise(images[:1])[0].numpy(), *np.asarray(features[0][strongest])]
        for axis, pixels in zip(row, panels, strict=True):
            axis.imshow(pixels, cmap="gray", interpolation="nearest")
            axis.set_axis_off()
        row[0].set_title(f"image, {kind}", fontsize=9)
        row[1].set_title("strongest channels of the last step up", fontsize=9, loc="left")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
