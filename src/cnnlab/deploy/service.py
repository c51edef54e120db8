"""What a demonstration can answer about a run; it knows nothing of the web."""

from __future__ import annotations

import base64
import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from cnnlab.data.decode import kept_box
from cnnlab.data.preprocess import Preprocess
from cnnlab.deploy.look_page import LookPage
from cnnlab.deploy.predictor import Predictor
from cnnlab.errors import ModelError
from cnnlab.evaluation.samples import SampleImage, png, samples_of
from cnnlab.explain import Localizer, activation_maps
from cnnlab.explain.cam import method_of
from cnnlab.explain.images import class_number, find_objects
from cnnlab.explain.object_scale import UNMEASURED, ObjectScale
from cnnlab.finite import check_answers
from cnnlab.models.folding import fold_batch_norm
from cnnlab.models.summary import summarise
from cnnlab.models.table import facts
from cnnlab.runs.folder import open_folder
from cnnlab.runs.weights import load_model
from cnnlab.tasks.decision import SINGLE_LABEL, DecisionRule

MAX_BYTES = 10_000_000  # of an upload
MAX_PIXELS = 50_000_000  # what a telephone takes; 200 MB while it is decoded
OVERLAY = 448  # pixels of the longer side of a map that is sent
LOCALIZED = 1_000_000  # pixels of an image that objects are looked for on, at the most


class Service:
    """A run with its card and samples. Every method may be called by many threads.

    Args:
        model: in evaluation mode, on the processor.
        card: what `load_run` gives beside it.
        test: the content of test.json, None if the run was not tested.
        samples: images to try.
        rule: how answers become classes.
        look: the page in which the network computes, if there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        card: dict[str, Any],
        test: dict[str, Any] | None,
        samples: list[SampleImage],
        rule: DecisionRule = SINGLE_LABEL,
        scale: ObjectScale = UNMEASURED,
        look: LookPage | None = None,
    ) -> None:
        self.classes: list[str] = card["classes"]
        self.preprocess = Preprocess.from_dict(card["preprocess"])
        layout = self.preprocess.layout
        self.shape = (layout.channels, layout.height, layout.width)
        if check_answers(model(torch.zeros(1, *self.shape))).ndim != 2:
            raise ModelError("this model classifies every pixel; the demonstration is for classes of whole images.")
        folded = fold_batch_norm(model, torch.randn(2, *self.shape))
        self.predictor = Predictor(folded, self.classes, self.preprocess, torch.device("cpu"), rule)
        self.samples = samples
        self.look = look
        self._looking = threading.Lock()  # maps hook into the model's layers, so they have a copy of their own
        self._model = copy.deepcopy(model)
        self._method = _method(self._model)
        self._localizer = _localizer(self._model, self.shape, rule, scale)
        self.card = self._describe(card, test)

    @classmethod
    def from_run(cls, run: str | Path, trust_code: bool = False) -> Service:
        """From a run folder of this machine. Raises RunError for one without a trained model."""
        folder = open_folder(run)
        model, card = load_model(folder, "cpu", trust_code)
        Preprocess.from_dict(card["preprocess"]).refuse_own()
        rule, scale = folder.decision_rule(card), ObjectScale.of(folder, len(card["preprocess"]["mean"]))
        look = LookPage(folder.path, trust_code)
        return cls(model, card, folder.test_metrics(), samples_of(folder, card), rule, scale, look)

    def probabilities(self, pixels: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """B images as `preprocess.pixels` gives them → (B, K)."""
        images = self.preprocess.normalise(torch.from_numpy(np.stack(pixels)))
        return self.predictor.probabilities(images).numpy()

    def top(self, row: np.ndarray[Any, Any], count: int) -> list[dict[str, Any]]:
        """(K,) probabilities → the likeliest classes, likeliest first."""
        order = np.argsort(-row, kind="stable")[:count]
        pairs = zip(order.tolist(), row[order].tolist(), strict=True)
        return [{"label": self.classes[number], "probability": value} for number, value in pairs]

    def labels(self, row: np.ndarray[Any, Any]) -> list[str]:
        """(K,) probabilities → the classes that the image is given, likeliest first."""
        chosen = self.predictor.rule.chosen(torch.from_numpy(row)[None])[0]
        return [self.classes[number] for number in np.argsort(-row, kind="stable").tolist() if chosen[number]]

    def explain(self, image: Image.Image, target: str | None) -> dict[str, Any]:
        """An activation map as a transparent image to lay over the part `seen` of an image of `size`.

        Raises ModelError for a class that does not exist or a model without a feature map.
        """
        if self._method is None:
            raise ModelError("this model has no feature map, so it cannot tell where it looks.")
        images = self.preprocess(image)[None]
        row = self.predictor.probabilities(images)[0]
        number = int(row.argmax()) if target is None else class_number(target, self.classes)
        with self._looking:
            heat = activation_maps(self._model, images, self._method, number)[0].numpy()
        return {
            "label": self.classes[int(row.argmax())],
            "target": self.classes[number],
            "method": {"cam": "CAM", "gradcam": "Grad-CAM"}[self._method],
            "size": list(image.size),
            "seen": list(kept_box(image.size, self.preprocess.layout)),
            "overlay": data_uri(coloured(heat)),
        }

    def localize(self, image: Image.Image) -> dict[str, Any]:
        """Objects on an image, surest first, boxes as [left, top, right, bottom] in its pixels.

        Raises ModelError for a model without a fully-convolutional form.
        """
        if self._localizer is None:
            raise ModelError("this model has no fully-convolutional form, so it cannot tell where objects are.")
        with self._looking:
            objects, _, _ = find_objects(self._localizer, image, self.preprocess, self.classes, LOCALIZED)
        return {"size": list(image.size), "objects": objects}

    def _describe(self, card: dict[str, Any], test: dict[str, Any] | None) -> dict[str, Any]:
        layout, summary = self.preprocess.layout, facts(summarise(self._model, self.shape))
        accuracy = test and {"value": test["accuracy"], "interval": test["accuracy_interval"], "n": test["n"]}
        kept = ("name", "kind", "input", "output", "parameters", "multiply_adds", "receptive_field")
        return {
            "model": card["model"]["name"],
            "data": card.get("data"),
            "epoch": card["epoch"],
            "classes": self.classes,
            "input": {"channels": layout.channels, "height": layout.height, "width": layout.width},
            "dark_background": sum(self.preprocess.mean) / len(self.preprocess.mean) < 0.5,
            "accuracy": accuracy or None,
            "thresholds": self.predictor.rule.thresholds,
            "parameters": summary["parameters"],
            "multiply_adds": summary["multiply_adds"],
            "receptive_field": summary["receptive_field"],
            "layers": [{key: row[key] for key in kept} for row in summary["layers"]],
            "samples": len(self.samples),
            "explains": self._method is not None,
            "looks": self.look is not None,
            "localizes": self._localizer is not None,
            "limits": {"bytes": MAX_BYTES, "pixels": MAX_PIXELS},
        }


def _localizer(
    model: nn.Module, shape: tuple[int, int, int], rule: DecisionRule, scale: ObjectScale
) -> Localizer | None:
    try:
        return Localizer(model, shape, rule, scale)
    except ModelError:
        return None


def _method(model: nn.Module) -> str | None:
    """How the maps of a model are made; None: it has none."""
    try:
        return method_of(model)
    except ModelError:
        return None


def coloured(heat: np.ndarray[Any, Any]) -> Image.Image:
    """(h, w) map in [0, 1] → RGBA image, see-through where the map is 0."""
    from matplotlib import colormaps

    factor = max(1, OVERLAY // max(heat.shape))
    size = heat.shape[1] * factor, heat.shape[0] * factor
    grown = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    pixels = colormaps["inferno"](grown)
    pixels[..., 3] = np.sqrt(grown)
    return Image.fromarray(np.rint(255 * pixels).astype(np.uint8))


def data_uri(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()
