"""What a report is made from. Plain numbers and pixels: the page is drawn without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Sample:
    """One image and what the model said of it."""

    image: np.ndarray[Any, Any]  # (H, W) or (H, W, 3) uint8, as the model saw it
    name: str  # path or index
    true: str | Sequence[str]  # its class, or its classes where it may have several or none
    probabilities: np.ndarray[Any, Any]  # (num_classes,); of one class per image they sum to 1
    overlay: np.ndarray[Any, Any] | None = None  # (H, W, 3) uint8: the image under its activation map
    loss: float | None = None
    answered: Sequence[str] | None = None  # the classes that it was given; None: the likeliest


@dataclass(frozen=True)
class Stage:
    """What one image became after a part of the network."""

    name: str
    shape: tuple[int, ...]  # (channels, height, width)
    maps: np.ndarray[Any, Any]  # (k, height, width) float, the strongest channels


@dataclass(frozen=True)
class Area:
    """Areas under the curves of some images: their mean, standard deviation, and half of its 95 % interval."""

    mean: float
    spread: float
    half: float


@dataclass(frozen=True)
class Faithfulness:
    """Deletion and insertion of activation maps beside random ones, over the same `n` images.

    `better`: in how many of them the activation map had the smaller area of deletion, and the larger one of insertion.
    """

    n: int
    steps: int
    maps: tuple[Area, Area]  # deletion, insertion
    random: tuple[Area, Area]
    better: tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One row of the layer table, as text."""

    name: str
    kind: str
    output: str
    arithmetic: Sequence[str]
    parameters: int
    multiply_adds: int
    receptive_field: str


@dataclass(frozen=True)
class Scene:
    """One image whose pixels were classified: (H, W, 3) uint8 each, and its metrics in words."""

    name: str
    metrics: str
    image: np.ndarray[Any, Any]
    truth: np.ndarray[Any, Any]
    answer: np.ndarray[Any, Any]
    error: np.ndarray[Any, Any]  # white where the answer is wrong


@dataclass(frozen=True)
class Insight:
    """What the network does with images.

    Attributes:
        mistakes: the wrong answers with the highest loss, the worst first.
        method: of the activation maps, None where there are none; `without_maps` says why.
        legend: CSS colours of a map from 0 to 1.
        scenes: images whose pixels were classified, the worst first; `colours` are the CSS colours of the classes.
        traced: the image whose `stages` are shown.
    """

    mistakes: Sequence[Sample] = ()
    method: str | None = None
    without_maps: str = ""
    legend: Sequence[str] = ()
    traced: Sample | None = None
    stages: Sequence[Stage] = ()
    faithfulness: Faithfulness | None = None
    layers: Sequence[Layer] = ()
    scenes: Sequence[Scene] = ()
    colours: Sequence[str] = ()
    totals: Mapping[str, str] = field(default_factory=dict)  # of the whole network


@dataclass(frozen=True)
class Report:
    """Everything the page shows. Numbers may be None or NaN; `test` is None for a run that was not tested."""

    title: str
    classes: Sequence[str]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    split: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    best_epoch: int
    test: Mapping[str, Any] | None
    samples: Sequence[Sample]
    filters: np.ndarray[Any, Any] | None = None  # (units, C, h, w) float weights of the first layer
    insight: Insight = field(default_factory=Insight)
    folds: Mapping[str, Any] | None = None  # folds.json of a cross-validation
    hints: Sequence[tuple[str, str]] = ()  # what is wrong with the training, and what to try
