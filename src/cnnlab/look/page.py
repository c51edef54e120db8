"""One HTML file in which a run's network computes: its graph and weights, images, and the scripts of `web`."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.data.decode import find_images, read_image
from cnnlab.data.preprocess import Preprocess
from cnnlab.device import exact_float32
from cnnlab.errors import DataError, RunError
from cnnlab.evaluation.samples import samples_of
from cnnlab.finite import check_answers
from cnnlab.look.compute import check_graph, choose_precision
from cnnlab.look.graph import Graph, export_graph
from cnnlab.look.likes import strongest_places
from cnnlab.look.output import html_file, write_page
from cnnlab.look.scripts import bundle, read
from cnnlab.models.base import count_parameters
from cnnlab.models.registry import create_model, find_model, rebuild_arguments
from cnnlab.runs.folder import RunFolder, read_config
from cnnlab.runs.opened import opened_run
from cnnlab.runs.weights import load_model
from cnnlab.training.reproduce import BEFORE_TRAINING, seed_step
from cnnlab.values import to_json

SAMPLES = 8  # images of the test split, where none are given
MOST_TRIED, TRIED_BYTES = 100, 1_500_000  # test images among which filters have favourites
MOST_IMAGES = 24
UNTRAINED = "untrained"  # in the place of another run: the network before its training
CHECKED = 2  # images on which the graph is compared with the model before anything is written
ANSWERS = {"classification": "Probabilities", "multilabel": "Probabilities", "segmentation": "Share of the pixels"}


@dataclass(frozen=True)
class LookImage:
    """An image as it goes into the page: its name, its class if it is known, and (height, width, channels) uint8."""

    name: str
    label: str | None
    pixels: np.ndarray[Any, Any]


@dataclass(frozen=True)
class LookNetwork:
    """A network of the page. logits: (B, numbers of an answer), what PyTorch answers to the page's images."""

    title: str
    graph: Graph
    preprocess: Preprocess
    logits: Tensor
    weights: int


def write_look(
    run: str | Path,
    images: Sequence[str] = (),
    out: str | Path | None = None,
    trust_code: bool = False,
    beside: str | Path | None = None,
) -> Path:
    """Write the page of a run and return its file.

    Args:
        images: files, or folders with images anywhere below; none: eight images of the run's test split.
        out: the file; None: `look.html` in the run folder.
        trust_code: see `load_run`.
        beside: another run, whose network answers to the same images beside that of `run`; "untrained": the network of
            `run` with the random weights of its seed.

    Raises:
        ConfigError: `out` is a folder, no HTML file, or cannot be written to.
        RunError: no run, or no weights; or two runs that do not read the same images, or know other classes.
        DataError: an image that cannot be read, or none at all.
        ModelError: a network with an operation that the page does not know, or too many weights for a page.
    """
    target = None if out is None else html_file(out, "look.html")
    with ExitStack() as opened:
        folder = opened.enter_context(opened_run(run, writes=target is None))
        other = None if beside in (None, UNTRAINED) else opened.enter_context(opened_run(str(beside)))
        second = UNTRAINED if beside == UNTRAINED else None if other is None else RunFolder(other)
        page = look_page(RunFolder(folder), images, trust_code, second)
        return write_page(Path(folder) / "look.html" if target is None else target, page)


def look_page(
    folder: RunFolder, paths: Sequence[str] = (), trust_code: bool = False, beside: RunFolder | str | None = None
) -> str:
    """The page of a run folder of this machine; arguments and errors as for `write_look`."""
    model, card = load_model(folder, "cpu", trust_code)
    preprocess = Preprocess.from_dict(card["preprocess"])
    preprocess.refuse_own()
    if beside is not None:
        second = _beside(folder, card, beside, trust_code)
    tried = _test_images(folder, card, preprocess)
    images = _given(preprocess, paths) if paths else _spread(tried)
    if card.get("data") == "folder":
        card = card | {"data": Path(read_config(folder).data.root).name}
    if beside is None:
        return render([network_of(card["model"]["name"], model, preprocess, images)], card, images, tried)
    networks = [network_of(folder.path.resolve().name, model, preprocess, images), network_of(*second, images)]
    return render(networks, card, images, tried)


def _beside(
    folder: RunFolder, card: dict[str, Any], other: RunFolder | str, trust_code: bool
) -> tuple[str, nn.Module, Preprocess]:
    """What the second network is called, the network, and how it reads images."""
    preprocess = Preprocess.from_dict(card["preprocess"])
    if isinstance(other, str):
        name = card["model"]["name"]
        seed = read_config(folder).seed
        with torch.random.fork_rng(devices=[]):
            seed_step(seed, BEFORE_TRAINING)
            model = create_model(name, **card["model"]["arguments"] | rebuild_arguments(find_model(name)))
        return f"{folder.path.resolve().name}, {UNTRAINED}", model.eval(), preprocess
    model, theirs = load_model(other, "cpu", trust_code)
    if theirs["classes"] != card["classes"]:
        raise RunError(f"{other.path} has other classes than {folder.path}; give a run with the same classes.")
    tasks = [facts.get("task") or "classification" for facts in (card, theirs)]
    if tasks[0] != tasks[1]:
        raise RunError(f"{other.path} is a {tasks[1]} and {folder.path} a {tasks[0]}; give a run of the same task.")
    reads = Preprocess.from_dict(theirs["preprocess"])
    if reads.layout != preprocess.layout:
        raise RunError(
            f"{other.path} takes {_size(reads)}, {folder.path} {_size(preprocess)}; give a run that takes the same."
        )
    name = other.path.resolve().name
    return name if name != folder.path.resolve().name else str(other.path), model, reads


def _size(preprocess: Preprocess) -> str:
    layout = preprocess.layout
    kind = "grey" if layout.mode == "L" else "colour"
    rearranged = "" if layout.rearrange == "none" else f", {layout.rearrange}"
    return f"{kind} images of {layout.height}×{layout.width} ({layout.fit}{rearranged})"


def network_of(title: str, model: nn.Module, preprocess: Preprocess, images: Sequence[LookImage]) -> LookNetwork:
    """A model in evaluation mode as the page takes it. Raises ModelError, see `write_look`.

    Args:
        images: at least one, of the size that `preprocess` makes.
    """
    batch = _batch(preprocess, images)
    graph = export_graph(model, batch[:1])
    check_graph(graph, model, batch[:CHECKED])
    choose_precision(graph, batch[:CHECKED])
    return LookNetwork(title, graph, preprocess, _logits(model, batch), count_parameters(model))


def render(
    networks: Sequence[LookNetwork],
    card: dict[str, Any],
    images: Sequence[LookImage],
    tried: Sequence[LookImage] = (),
) -> str:
    """The page of one network or two.

    Args:
        networks: their answers are to `images`; they read them alike, up to mean and standard deviation.
        card: model {name, arguments}, classes, task and data of the first, as `load_run` gives it.
        tried: images among which each filter's favourites are looked for; they go into the page too.
    """
    first, name, data = networks[0], card["model"]["name"], card.get("data")
    task = card.get("task") or "classification"
    facts = {
        "classes": card["classes"],
        "task": task,
        "preprocess": first.preprocess.to_dict(),
        "reads_images": first.preprocess.layout.rearrange == "none",
        "dark_background": sum(first.preprocess.mean) / len(first.preprocess.mean) < 0.5,
        "images": [{"name": image.name, "label": image.label, "pixels": _base64(image.pixels)} for image in images],
        "tried": [{"label": image.label, "pixels": _base64(image.pixels)} for image in tried],
        "networks": [_facts(network, tried) for network in networks],
    }
    title = f"{name} trained on {data}" if data else name
    parts = {
        "title": _text(name),
        "heading": _text(title if len(networks) == 1 else " beside ".join(network.title for network in networks)),
        "subject": " · ".join(_described(network) for network in networks) + ". Nothing leaves this page.",
        "answers": ANSWERS.get(task, "Answers"),
        "style": read("style.css"),
        "card": to_json(facts, ensure_ascii=False).replace("<", "\\u003c"),
        "weights": "\n".join(
            f'<script class="weights" type="text/plain">{network.graph.block()}</script>' for network in networks
        ),
        "worker": bundle("worker"),
        "script": bundle("app"),
    }
    return _filled(read("page.html"), parts)


def _facts(network: LookNetwork, tried: Sequence[LookImage]) -> dict[str, Any]:
    preprocess = network.preprocess
    likes = strongest_places(network.graph, _batch(preprocess, tried)) if tried else {}
    return {
        "title": network.title,
        "graph": network.graph.to_dict(),
        "mean": preprocess.mean,
        "std": preprocess.std,
        "logits": network.logits.tolist(),
        "likes": {number: _base64(places) for number, places in likes.items()},
    }


def _described(network: LookNetwork) -> str:
    bits = 16 if network.graph.half else 32
    return f"{network.weights:,} weights ({bits} bits), {len(network.graph.nodes) - 1} operations"


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
