"""A class for every pixel of picture files: masks, and overlays for people."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cnnlab.data.decode import find_pictures, read_picture, seen_box
from cnnlab.data.preprocess import Preprocess
from cnnlab.device import choose_device, exact_float32
from cnnlab.errors import DataError
from cnnlab.explain.overlay import class_colours, paint_classes
from cnnlab.explain.pictures import each_picture, output_folder
from cnnlab.finite import check_answers
from cnnlab.runs.files import write_whole
from cnnlab.runs.weights import load_run

UNSEEN = 255  # in a mask: the model's layout cuts this part of the picture off


@dataclass(frozen=True)
class Segmented:
    """One picture: the share of the pixels that the model saw in each class, and the two files."""

    picture: str
    shares: dict[str, float]
    mask: Path
    overlay: Path

    def facts(self) -> dict[str, Any]:
        files = {"mask": str(self.mask), "overlay": str(self.overlay)}
        return {"picture": self.picture, "shares": self.shares} | files


class Segmenter:
    """Classifies pixels with the best weights of a segmentation run, through the run's own preprocess."""

    def __init__(self, run: str | Path, device: str = "auto", trust_code: bool = False) -> None:
        self.device = choose_device(device)
        self.model, card = load_run(run, self.device, trust_code)
        if card.get("task") != "segmentation":
            raise DataError(f"the model of {run} answers once a picture, not for every pixel; use cnnlab.Predictor.")
        self.classes: list[str] = card["classes"]
        self.preprocess = Preprocess.from_dict(card["preprocess"])

    @torch.inference_mode()
    @exact_float32()
    def segment(self, picture: str | Path | bytes | Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """One picture → (H, W) uint8 numbers of classes; UNSEEN where the model does not look (data.fit=crop).

        Raises:
            DataError: it cannot be read.
        """
        image = picture if isinstance(picture, Image.Image) else read_picture(picture)
        logits = check_answers(self.model(self.preprocess(image)[None].to(self.device)))
        answer = logits.argmax(1)[0].byte().cpu().numpy()
        left, top, right, bottom = seen_box(image, self.preprocess.layout)
        whole = np.full((image.height, image.width), UNSEEN, np.uint8)
        grown = Image.fromarray(answer).resize((right - left, bottom - top), Image.Resampling.NEAREST)
        whole[top:bottom, left:right] = np.asarray(grown)
        return whole


def write_picture(file: Path, picture: Image.Image) -> None:
    """Write a PNG. Raises RunError."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    write_whole(file, stream.getvalue())


def segment_pictures(
    run: str | Path,
    paths: Sequence[str],
    out: str | Path | None = None,
    device: str = "auto",
    trust_code: bool = False,
) -> Iterator[Segmented]:
    """Write <name>-mask.png (a palette picture of the numbers of classes) and <name>-overlay.png for each picture.

    Args:
        out: folder for the files; None: `predict` in the run folder.

    Raises:
        CnnlabError: what is wrong with the run; after the last picture, those that could not be read.
    """
    names = list(find_pictures(paths))
    segmenter = Segmenter(run, device, trust_code)
    colours = class_colours(len(segmenter.classes))

    def segment(name: str, file: Path) -> Segmented:
        picture = read_picture(name)
        classes = segmenter.segment(picture)
        mask = Image.fromarray(classes).convert("P")
        mask.putpalette(colours.flatten().tolist())
        write_picture(file, mask)
        pixels = np.asarray(picture.convert("RGB"))
        beside = file.with_name(file.name.replace("-mask.png", "-overlay.png"))
        write_picture(beside, Image.fromarray(paint_classes(pixels, np.where(classes == UNSEEN, 0, classes), colours)))
        seen = classes[classes != UNSEEN]
        counts = np.bincount(seen, minlength=len(segmenter.classes)) / seen.size
        return Segmented(name, dict(zip(segmenter.classes, counts.round(6).tolist(), strict=True)), file, beside)

    yield from each_picture(names, output_folder(run, out, "predict"), "-mask.png", segment)
