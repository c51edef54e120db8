"""Images of a run's test split, to try a network on."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from cnnlab.data.build import build_data
from cnnlab.data.preprocess import Preprocess
from cnnlab.errors import CnnlabError
from cnnlab.runs.folder import RunFolder, read_config

SAMPLES = 24
SHOWN = 1024  # pixels of the longer side of an image that is sent


@dataclass(frozen=True)
class SampleImage:
    """One image of the test split: a PNG file and its true class."""

    content: bytes
    label: str


def samples_of(folder: RunFolder, card: dict[str, Any], count: int = SAMPLES) -> list[SampleImage]:
    """Images of the run's test split, of all classes in turn; none where the set is not on this machine."""
    config = read_config(folder)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, download=False))
    try:
        data = build_data(config, torch.device("cpu"), preprocess=Preprocess.from_dict(card["preprocess"]))
        members, labels = data.split.test, data.images.labels
        order = members[np.argsort(labels[members], kind="stable")]
        chosen = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
        return [
            SampleImage(png(data.images.load_image(int(i))), ", ".join(data.images.class_names_of(int(i))))
            for i in chosen
        ]
    except CnnlabError:
        return []


def png(image: Image.Image) -> bytes:
    """A PNG file of an image, which is shrunk to SHOWN pixels on its longer side: a copy could take 200 MB."""
    image.thumbnail((SHOWN, SHOWN))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
