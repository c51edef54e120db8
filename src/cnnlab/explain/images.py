"""Maps and boxes for image files: what `cnnlab explain` and `cnnlab localize` write."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnnlab.data.decode import arrange, find_images, read_image, seen_part
from cnnlab.data.preprocess import Preprocess
from cnnlab.device import choose_device, exact_float32
from cnnlab.errors import DataError, ModelError, RunError, nearest
from cnnlab.explain.cam import activation_maps, chosen_method
from cnnlab.explain.draw import draw_boxes, draw_map
from cnnlab.explain.localize import Localizer
from cnnlab.explain.object_scale import ObjectScale
from cnnlab.files import given_output
from cnnlab.finite import check_answers
from cnnlab.runs.files import write_json
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.opened import opened_run
from cnnlab.runs.weights import load_model

LARGEST = 2_000_000  # pixels of an image to localize on; a larger one is shrunk, and the answer says so
SHOWN = 1024  # pixels of the longer side of what is drawn


@dataclass(frozen=True)
class Explained:
    """One image: what the model answers, the class whose map was drawn, and the file."""

    image: str
    label: str
    probability: float
    target: str
    target_probability: float
    file: Path


@dataclass(frozen=True)
class Located:
    """One image: its objects, each {label, probability, evidence, box: [left, top, right, bottom] in pixels}."""

    image: str
    objects: list[dict[str, Any]]
    file: Path
    shrunk: float = 1.0  # the side that was looked at over the image's own

    def facts(self) -> dict[str, Any]:
        facts = {"picture": self.image, "shrunk": round(self.shrunk, 4), "objects": self.objects}
        return facts | {"file": str(self.file)}


def explain_images(
    run: str | Path,
    paths: Sequence[str],
    method: str = "auto",
    target: str | None = None,
    layer: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    trust_code: bool = False,
) -> Iterator[Explained]:
    """Draw the activation map of each image beside it, one PNG per image.

    Args:
        paths: files, or folders with images anywhere below.
        method, layer: see `activation_maps`.
        target: name or number of a class; None: what the model answers.
        out: folder for the files; None: `explain` in the run folder.

    Raises:
        CnnlabError: before the first image, what is wrong with the run, the class or the layer.
        DataError: after the last one, the images that could not be read.
    """
    names = list(find_images(paths))
    place = choose_device(device)
    with opened_run(run, writes=True) as folder:
        yield from _explain(RunFolder(folder), names, method, target, layer, out, place, trust_code)


def _explain(
    folder: RunFolder,
    names: Sequence[str],
    method: str,
    target: str | None,
    layer: str | None,
    out: str | Path | None,
    place: torch.device,
    trust_code: bool,
) -> Iterator[Explained]:
    """See `explain_images`."""
    model, card = load_model(folder, place, trust_code)
    rule = folder.decision_rule(card)
    classes, preprocess = card["classes"], Preprocess.from_dict(card["preprocess"])
    preprocess.refuse_own()
    number = None if target is None else class_number(target, classes)
    method = chosen_method(model, method, layer)
    shape = (preprocess.layout.channels, preprocess.layout.height, preprocess.layout.width)
    activation_maps(model, torch.zeros(1, *shape, device=place), method, number, layer)  # says now what is wrong

    def explain(name: str, file: Path) -> Explained:
        image = read_image(name)
        images = preprocess(image)[None].to(place)
        with torch.inference_mode(), exact_float32():
            probabilities = rule.probabilities(check_answers(model(images).float()))[0].cpu()
        answer = int(probabilities.argmax())
        chosen = answer if number is None else number
        heat = activation_maps(model, images, method, chosen, layer)[0].cpu().numpy()
        shown = seen_part(image, preprocess.layout)
        shown.thumbnail((SHOWN, SHOWN))
        title = f"{classes[answer]} {100 * float(probabilities[answer]):.1f} %"
        if chosen != answer:
            title += f", {classes[chosen]} {100 * float(probabilities[chosen]):.1f} %"
        draw_map(np.asarray(shown), heat, title, f"{NAMES[method]} of {classes[chosen]}", file)
        told = float(probabilities[answer]), classes[chosen], float(probabilities[chosen])
        return Explained(name, classes[answer], *told, file)

    parts = [method, *([layer] if layer else []), *([classes[number]] if number is not None else [])]
    ending = "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
    yield from each_image(names, output_folder(folder, out, "explain"), f"-{ending}.png", explain)


NAMES = {"cam": "CAM", "gradcam": "Grad-CAM", "layercam": "Layer-CAM"}


def localize_images(
    run: str | Path, paths: Sequence[str], out: str | Path | None = None, trust_code: bool = False
) -> Iterator[Located]:
    """Draw the boxes and the heat map of each image, one PNG and one JSON file per image; arguments and errors as for
    `explain_images`."""
    names = list(find_images(paths))
    with opened_run(run, writes=True) as folder:
        yield from _localize(RunFolder(folder), names, out, trust_code)


def _localize(folder: RunFolder, names: Sequence[str], out: str | Path | None, trust_code: bool) -> Iterator[Located]:
    """See `localize_images`."""
    model, card = load_model(folder, "cpu", trust_code)
    classes, preprocess = card["classes"], Preprocess.from_dict(card["preprocess"])
    preprocess.refuse_own()
    layout = preprocess.layout
    shape = (layout.channels, layout.height, layout.width)
    localizer = Localizer(model, shape, folder.decision_rule(card), ObjectScale.of(folder, layout.channels))

    def localize(name: str, file: Path) -> Located:
        image = read_image(name)
        try:
            objects, heat, factor = find_objects(localizer, image, preprocess, classes)
        except ModelError as error:  # of this image: the others can still be done
            raise DataError(str(error).rstrip(".")) from None
        shown = image.copy()
        shown.thumbnail((SHOWN, SHOWN))
        scale = shown.width / image.width
        draw_boxes(np.asarray(shown), heat.numpy(), objects, scale, file)
        facts = {"picture": name, "size": list(image.size), "shrunk": round(factor, 4), "objects": objects}
        write_json(file.with_suffix(".json"), facts)
        return Located(name, objects, file, factor)

    yield from each_image(names, output_folder(folder, out, "localize"), ".png", localize)


def find_objects(
    localizer: Localizer, image: Image.Image, preprocess: Preprocess, classes: Sequence[str], largest: int = LARGEST
) -> tuple[list[dict[str, Any]], Tensor, float]:
    """Objects on an upright image, surest first, as in `Located`.

    Args:
        largest: pixels; a larger image is shrunk to that.

    Returns:
        The objects, the heat map (h, w) in [0, 1], and how far the image was shrunk: 1 is not at all.
    """
    factor = min(1.0, (largest / (image.width * image.height)) ** 0.5)
    width, height = (max(1, round(side * factor)) for side in image.size)
    layout = dataclasses.replace(preprocess.layout, height=height, width=width, fit="squash")
    across, down = image.width / width, image.height / height  # not 1/factor, which leads beyond the image
    found = localizer(preprocess.normalise(torch.from_numpy(arrange(image, layout))[None])[0])
    objects = [
        {
            "label": classes[one.label],
            "probability": round(one.probability, 6),
            "evidence": round(one.evidence, 3),
            "box": [round(edge * side, 1) for edge, side in zip(one.box, (across, down, across, down), strict=True)],
        }
        for one in found.objects
    ]
    return objects, found.heat, factor


def class_number(name: str, classes: Sequence[str]) -> int:
    """Number of the class of that name, or of that number. Raises ModelError with the nearest name."""
    if name in classes:
        return list(classes).index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    raise ModelError(f"the model has no class {name!r}.{nearest(name, classes)}")


def output_folder(folder: RunFolder, out: str | Path | None, name: str) -> Path:
    return folder.path / name if out is None else given_output(out)


def each_image(names: Sequence[str], folder: Path, ending: str, work: Callable[[str, Path], Any]) -> Iterator[Any]:
    """The good images one by one; then the bad ones, by name, as one error. No empty folder is left behind."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder} ({error.strerror}); give another one with --out.") from None
    try:
        yield from _each_image(names, folder, ending, work)
    finally:
        if new:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()


def _each_image(names: Sequence[str], folder: Path, ending: str, work: Callable[[str, Path], Any]) -> Iterator[Any]:
    bad: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem = Path(name).stem
        number = 2
        while stem in taken:
            stem, number = f"{Path(name).stem}-{number}", number + 1
        taken.add(stem)
        try:
            yield work(name, folder / f"{stem}{ending}")
        except DataError as error:
            bad.append(f"{name} ({error})")
    if bad:
        rest = len(names) - len(bad)
        done = "" if not rest else "; the other one is done" if rest == 1 else f"; the other {rest} are done"
        raise DataError(f"not done: {', '.join(bad)}{done}. Fix or leave out what is named.")
