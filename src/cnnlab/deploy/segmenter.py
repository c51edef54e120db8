"""A class for every pixel of image files: masks, and overlays for people."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cnnlab.data.decode import find_images, read_image, seen_box
from cnnlab.data.preprocess import Preprocess
from cnnlab.device import choose_device, exact_float32
from cnnlab.errors import DataError
from cnnlab.explain.images import each_image, output_folder
from cnnlab.explain.overlay import class_colours, paint_classes
from cnnlab.finite import check_answers
from cnnlab.runs.files import write_whole
from cnnlab.runs.folder import RunFolder, open_folder
from cnnlab.runs.opened import opened_run
from cnnlab.runs.weights import load_model

UNSEEN = 255  # in a mask: the model's layout cuts this part of the image off


@dataclass(frozen=True)
class Segmented:
    """One image: the share of the pixels that the model saw in each class, and the two files."""

    image: str
    shares: dict[str, float]
    mask: Path
    overlay: Path

    def facts(self) -> dict[str, Any]:
        files = {"mask": str(self.mask), "overlay": str(self.overlay)}
        return {"picture": self.image, "shares": self.shares} | files


class Segmenter:
    """Classifies pixels with the best weights of a segmentation run, through the run's own preprocess."""

    def __init__(self, run: str | Path, device: str = "auto", trust_code: bool = False) -> None:
        self.device = choose_device(device)
        self.model, card = load_model(open_folder(run), self.device, trust_code)
        if card.get("task") != "segmentation":
            raise DataError(f"the model of {run} answers once per image, not for every pixel; use cnnlab.Predictor.")
        self.classes: list[str] = card["classes"]
        self.preprocess = Preprocess.from_dict(card["preprocess"])

    @torch.inference_mode()
    @exact_float32()
    def segment(self, image: str | Path | bytes | Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """One image → (H, W) uint8 numbers of classes; UNSEEN where the model does not look (data.fit=crop).

        Raises:
            DataError: it cannot be read.
        """
        if not isinstance(image, Image.Image):
            image = read_image(image)
        logits = check_answers(self.model(self.preprocess(image)[None].to(self.device)))
        answer = logits.argmax(1)[0].byte().cpu().numpy()
        left, top, right, bottom = seen_box(image, self.preprocess.layout)
        whole = np.full((image.height, image.width), UNSEEN, np.uint8)
        grown = Image.fromarray(answer).resize((right - left, bottom - top), Image.Resampling.NEAREST)
        whole[top:bottom, left:right] = np.asarray(grown)
        return whole


def write_image(file: Path, image: Image.Image) -> None:
    """Write a PNG. Raises RunError."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    write_whole(file, stream.getvalue())


def segment_images(
    run: str | Path,
    paths: Sequence[str],
    out: str | Path | None = None,
    device: str = "auto",
    trust_code: bool = False,
) -> Iterator[Segmented]:
    """Write <name>-mask.png (a palette image of the numbers of classes) and <name>-overlay.png for each image.

    Args:
        out: folder for the files; None: `predict` in the run folder.

    Raises:
        CnnlabError: what is wrong with the run; after the last image, those that could not be read.
    """
    names = list(find_images(paths))
    with opened_run(run, writes=True) as folder:
        yield from _segment(RunFolder(folder), names, out, Segmenter(folder, device, trust_code))


def _segment(
    folder: RunFolder, names: Sequence[str], out: str | Path | None, segmenter: Segmenter
) -> Iterator[Segmented]:
    """See `segment_images`."""
    colours = class_colours(len(segmenter.classes))

    def segment(name: str, file: Path) -> Segmented:
        image = read_image(name)
        classes = segmenter.segment(image)
        mask = Image.fromarray(classes).convert("P")
        mask.putpalette(colours.flatten().tolist())
        write_image(file, mask)
        pixels = np.asarray(image.convert("RGB"))
        beside = file.with_name(file.name.replace("-mask.png", "-overlay.png"))
        write_image(beside, Image.fromarray(paint_classes(pixels, np.where(classes == UNSEEN, 0, classes), colours)))
        seen = classes[classes != UNSEEN]
        counts = np.bincount(seen, minlength=len(segmenter.classes)) / seen.size
        return Segmented(name, dict(zip(segmenter.classes, counts.round(6).tolist(), strict=True)), file, beside)

    yield from each_image(names, output_folder(folder, out, "predict"), "-mask.png", segment)
