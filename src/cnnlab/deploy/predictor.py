"""A trained run that answers: images in, classes and probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cnnlab.data.preprocess import Preprocess
from cnnlab.deploy.exported import read_export
from cnnlab.deploy.opened import opened_export
from cnnlab.device import choose_device, exact_float32
from cnnlab.errors import DataError, DeviceError, ModelError
from cnnlab.finite import check_answers
from cnnlab.representation import as_html, as_text
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.opened import opened_run
from cnnlab.runs.weights import load_model
from cnnlab.tasks.decision import SINGLE_LABEL, DecisionRule

ImageLike = str | Path | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """`label` is the likeliest class; `probabilities` maps every class to its probability, likeliest first.

    `labels` are the classes that the image is given, likeliest first: the likeliest alone, or those of a multi-label
    model whose probability reaches the class's threshold, which may be none.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    labels: tuple[str, ...]

    def top(self, count: int) -> Prediction:
        """The same with the `count` likeliest classes alone."""
        return replace(self, probabilities=dict(islice(self.probabilities.items(), count)))


class Predictor:
    """Classifies images with the best weights of a run, or with an export of them, through the run's own preprocess.

    Nothing in it changes after it is made, so any number of threads may ask one Predictor.

    Example:
        >>> Predictor.from_run("runs/first").predict(["a.jpg", "b.png"])[0].label
        >>> Predictor.from_export("runs/first/export").predict("a.jpg")[0].label
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        preprocess: Preprocess,
        device: torch.device,
        rule: DecisionRule = SINGLE_LABEL,
    ) -> None:
        self.model = model.to(device).eval()
        self.classes = list(classes)
        self.preprocess = preprocess
        self.device = device
        self.rule = rule

    def __repr__(self) -> str:
        return as_text("Predictor", self._facts)

    def _repr_html_(self) -> str:
        return as_html("Predictor", self._facts)

    @property
    def _facts(self) -> dict[str, str]:
        layout = self.preprocess.layout
        shown = ", ".join(self.classes[:10]) + (", …" if len(self.classes) > 10 else "")
        return {
            "model": f"{type(self.model).__name__} on {self.device}",
            "images": f"{layout.height}×{layout.width}×{layout.channels}",
            "classes": f"{len(self.classes)}: {shown}",
        }

    @classmethod
    def from_run(
        cls, run: str | Path, device: str = "auto", trust_code: bool = False, model: nn.Module | None = None
    ) -> Predictor:
        """Raises RunError for a folder without a trained model. `trust_code`, `model`: see `load_run`."""
        place = choose_device(device)
        with opened_run(run) as folder:
            net, card = load_model(RunFolder(folder), place, trust_code, model)
            rule = RunFolder(folder).decision_rule(card)
        return cls(net, card["classes"], Preprocess.from_dict(card["preprocess"]), place, rule)

    @classmethod
    def from_export(cls, path: str | Path, device: str = "auto") -> Predictor:
        """An .onnx file of `cnnlab export`, float or int8, or a folder with one; it runs on the processor.

        Raises ExportError for anything else.
        """
        if device != "auto" and choose_device(device).type != "cpu":
            raise DeviceError(
                f"an export runs on the processor, not on {device}; use --device auto, or the run itself."
            )
        with opened_export(path) as file:
            model = read_export(path if file is None else file)
        preprocess = Preprocess.from_dict(model.facts["preprocess"])
        rule = DecisionRule.of(model.facts, model.facts.get("thresholds"))
        return cls(model, model.facts["classes"], preprocess, torch.device("cpu"), rule)

    def predict(self, images: ImageLike | Iterable[ImageLike], batch_size: int = 64) -> list[Prediction]:
        """Paths, bytes, Pillow images or (H, W[, 3]) uint8 arrays → one prediction each, in order.

        Raises:
            DataError: an image that cannot be read, by its name.
        """
        single = isinstance(images, str | Path | bytes | Image.Image | np.ndarray)
        items: list[Any] = [images] if single else list(images)  # type: ignore[arg-type]
        answers: list[Prediction] = []
        for first in range(0, len(items), batch_size):
            batch = torch.stack([self._read(item) for item in items[first : first + batch_size]])
            rows = self.probabilities(batch)
            answers += [self._answer(*pair) for pair in zip(rows, self.rule.chosen(rows), strict=True)]
        return answers

    @torch.inference_mode()
    @exact_float32()
    def probabilities(self, images: Tensor) -> Tensor:
        """(B, C, H, W) preprocessed images → (B, K) probabilities, on the processor.

        Raises ModelError where one is no number.
        """
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        logits = self.model(images).float()
        if logits.ndim == 4 and logits.shape[2:] == (1, 1):  # a fully-convolutional form, asked about one window
            logits = logits.flatten(1)
        if logits.ndim != 2:
            raise ModelError("this model classifies every pixel; it has no single class for an image.")
        return self.rule.probabilities(check_answers(logits)).cpu()

    def _read(self, image: ImageLike) -> Tensor:
        try:
            if isinstance(image, np.ndarray):
                shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
                if image.dtype != np.uint8 or not shaped or not image.size:
                    raise DataError(f"an array must be (H, W) or (H, W, 3) uint8, got {image.shape} {image.dtype}")
                image = Image.fromarray(image)
            return self.preprocess(image)
        except DataError as error:
            name = image if isinstance(image, str | Path) else f"the {type(image).__name__}"
            raise DataError(f"{name} cannot be read as an image: {error}.") from None

    def _answer(self, row: Tensor, chosen: Tensor) -> Prediction:
        """(K,) probabilities, and (K,) bool which classes they give."""
        values, order = row.sort(descending=True, stable=True)
        ranked = {self.classes[i]: value for i, value in zip(order.tolist(), values.tolist(), strict=True)}
        labels = tuple(self.classes[i] for i in order.tolist() if chosen[i])
        label, probability = next(iter(ranked.items()))
        return Prediction(label, probability, ranked, labels)
