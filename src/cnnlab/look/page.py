"""One HTML file in which a run's network computes: its graph and weights, images, and the scripts of `web`."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.data.decode import find_images, read_image
from cnnlab.data.preprocess import Preprocess
from cnnlab.device import exact_float32
from cnnlab.errors import DataError
from cnnlab.evaluation.samples import samples_of
from cnnlab.finite import check_answers
from cnnlab.look.compute import check_graph, choose_precision
from cnnlab.look.graph import Graph, export_graph
from cnnlab.look.likes import strongest_places
from cnnlab.look.output import html_file, write_page
from cnnlab.look.scripts import bundle, read
from cnnlab.models.base import count_parameters
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.opened import opened_run
from cnnlab.runs.weights import load_model
from cnnlab.values import to_json

SAMPLES = 8  # images of the test split, where none are given
MOST_TRIED, TRIED_BYTES = 100, 1_500_000  # test images among which filters have favourites
MOST_IMAGES = 24
CHECKED = 2  # images on which the graph is compared with the model before anything is written
ANSWERS = {"classification": "Probabilities", "multilabel": "Probabilities", "segmentation": "Share of the pixels"}


@dataclass(frozen=True)
class LookImage:
    """An image as it goes into the page: its name, its class if it is known, and (height, width, channels) uint8."""

    name: str
    label: str | None
    pixels: np.ndarray[Any, Any]


def write_look(
    run: str | Path, images: Sequence[str] = (), out: str | Path | None = None, trust_code: bool = False
) -> Path:
    """Write the page of a run and return its file.

    Args:
        images: files, or folders with images anywhere below; none: eight images of the run's test split.
        out: the file; None: `look.html` in the run folder.
        trust_code: see `load_run`.

    Raises:
        ConfigError: `out` is a folder, no HTML file, or cannot be written to.
        RunError: no run, or no weights.
        DataError: an image that cannot be read, or none at all.
        ModelError: a network with an operation that the page does not know, or too many weights for a page.
    """
    target = None if out is None else html_file(out, "look.html")
    with opened_run(run, writes=target is None) as folder:
        page = look_page(RunFolder(folder), images, trust_code)
        return write_page(Path(folder) / "look.html" if target is None else target, page)


def look_page(folder: RunFolder, paths: Sequence[str] = (), trust_code: bool = False) -> str:
    """The page of a run folder of this machine; arguments and errors as for `write_look`."""
    model, card = load_model(folder, "cpu", trust_code)
    preprocess = Preprocess.from_dict(card["preprocess"])
    preprocess.refuse_own()
    tried = _test_images(folder, card, preprocess)
    return page_of(model, card, preprocess, _given(preprocess, paths) if paths else _spread(tried), tried)


def page_of(
    model: nn.Module,
    card: dict[str, Any],
    preprocess: Preprocess,
    images: Sequence[LookImage],
    tried: Sequence[LookImage] = (),
) -> str:
    """The page of a model in evaluation mode. Raises ModelError, see `write_look`.

    Args:
        card: model {name, arguments}, classes, task and data, as `load_run` gives it.
        images: at least one, of the size that `preprocess` makes.
        tried: images among which each filter's favourites are looked for; they go into the page too.
    """
    batch = _batch(preprocess, images)
    graph = export_graph(model, batch[:1])
    check_graph(graph, model, batch[:CHECKED])
    choose_precision(graph, batch[:CHECKED])
    return render(graph, card, preprocess, images, _logits(model, batch), count_parameters(model), tried)


def render(
    graph: Graph,
    card: dict[str, Any],
    preprocess: Preprocess,
    images: Sequence[LookImage],
    logits: Tensor,
    weights: int,
    tried: Sequence[LookImage] = (),
) -> str:
    """The page of a graph. logits: (B, numbers of an answer), what PyTorch answers to the images."""
    likes = strongest_places(graph, _batch(preprocess, tried)) if tried else {}
    name, data, bits = card["model"]["name"], card.get("data"), 16 if graph.half else 32
    task = card.get("task") or "classification"
    facts = {
        "classes": card["classes"],
        "task": task,
        "preprocess": preprocess.to_dict(),
        "reads_images": preprocess.layout.rearrange == "none",
        "dark_background": sum(preprocess.mean) / len(preprocess.mean) < 0.5,
        "graph": graph.to_dict(),
        "images": [
            {"name": image.name, "label": image.label, "pixels": _base64(image.pixels), "logits": row.tolist()}
            for image, row in zip(images, logits, strict=True)
        ],
        "tried": [{"label": image.label, "pixels": _base64(image.pixels)} for image in tried],
        "likes": {number: _base64(places) for number, places in likes.items()},
    }
    parts = {
        "title": _text(name),
        "heading": _text(f"{name} trained on {data}" if data else name),
        "subject": f"{weights:,} weights ({bits} bits), {len(graph.nodes) - 1} operations. The network"
        " runs in this page: nothing leaves it.",
        "answers": ANSWERS.get(task, "Answers"),
        "style": read("style.css"),
        "card": to_json(facts, ensure_ascii=False).replace("<", "\\u003c"),
        "weights": graph.block(),
        "worker": bundle("worker"),
        "script": bundle("app"),
    }
    return _filled(read("page.html"), parts)


def write_layer(out: str | Path = "layer.html") -> Path:
    """Write a page with a convolution to play with, which needs no run. Raises as `write_look`, of its path."""
    parts = {"style": read("style.css") + read("layer.css"), "script": bundle("layer")}
    return write_page(html_file(out, "layer.html"), _filled(read("layer.html"), parts))


def _filled(page: str, parts: dict[str, str]) -> str:
    """In one pass: a class may be called as a place to fill is."""
    return re.sub(r"\{\{ (\w+) \}\}", lambda place: parts[place[1]], page)


def _given(preprocess: Preprocess, paths: Sequence[str]) -> list[LookImage]:
    names = list(find_images(paths))
    if len(names) > MOST_IMAGES:
        raise DataError(f"a page holds {MOST_IMAGES} images at most, and these are {len(names)}; name fewer.")
    return [_read(preprocess, Path(name)) for name in names]


def _read(preprocess: Preprocess, path: Path) -> LookImage:
    try:
        pixels = _pixels(preprocess, read_image(path))
    except DataError as error:
        raise DataError(f"{path} cannot be read as an image: {error}; fix it or leave it out.") from None
    return LookImage(path.name.encode(errors="replace").decode(), None, pixels)


def _test_images(folder: RunFolder, card: dict[str, Any], preprocess: Preprocess) -> list[LookImage]:
    """Images of the run's test split, of all classes in turn; none where the set is not on this machine."""
    layout = preprocess.layout
    count = max(SAMPLES, min(MOST_TRIED, TRIED_BYTES // (layout.height * layout.width * layout.channels)))
    return [
        LookImage(f"test image {number}", sample.label or None, _pixels(preprocess, read_image(sample.content)))
        for number, sample in enumerate(samples_of(folder, card, count))
    ]


def _spread(tried: Sequence[LookImage]) -> list[LookImage]:
    """A few of them, of all classes in turn."""
    if not tried:
        raise DataError("the run's test images are not on this machine; give images: cnnlab look RUN IMAGE...")
    return [tried[int(i)] for i in np.linspace(0, len(tried) - 1, min(SAMPLES, len(tried)))]


def _batch(preprocess: Preprocess, images: Sequence[LookImage]) -> Tensor:
    """(B, C, H, W), as the network takes them."""
    return preprocess.normalise(torch.from_numpy(np.stack([image.pixels for image in images]))).contiguous()


def _pixels(preprocess: Preprocess, image: Any) -> np.ndarray[Any, Any]:
    return preprocess.pixels(image)[:, :, : preprocess.layout.channels]


def _logits(model: nn.Module, batch: Tensor) -> Tensor:
    """(B, C, H, W) → (B, numbers of an answer), an image at a time as the page computes them."""
    with torch.no_grad(), exact_float32():
        return torch.stack([check_answers(model(image[None])).flatten() for image in batch])


def _base64(pixels: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode()


def _text(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;")
