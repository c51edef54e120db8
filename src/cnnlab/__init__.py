"""cnnlab: from a set of images to a trained and tested convolutional network.

Everything here is loaded when it is first used: `import cnnlab` alone imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cnnlab import datasets, explain, geometry, labs
    from cnnlab.data.audit import audit
    from cnnlab.data.data import Data
    from cnnlab.data.load import load_data
    from cnnlab.data.show import show_batch
    from cnnlab.deploy.export import export_run
    from cnnlab.deploy.predictor import Prediction, Predictor
    from cnnlab.errors import CnnlabError
    from cnnlab.evaluation.evaluate import evaluate
    from cnnlab.evaluation.plots import plot_curves
    from cnnlab.experiment import Run
    from cnnlab.fitting import fit
    from cnnlab.look.notebook import show as look
    from cnnlab.models.base import Classifier, FeatureInfo
    from cnnlab.models.registry import create_model, list_models, register_model
    from cnnlab.models.summary import summarise
    from cnnlab.report.network import Drawing, draw_network
    from cnnlab.runs.weights import load_run
    from cnnlab.study.rate_range import find_learning_rate
    from cnnlab.study.search import run_search
    from cnnlab.study.study import Study, run_study
    from cnnlab.tasks import register_loss, register_metric, register_task

_HOME = {
    "Classifier": "cnnlab.models.base",
    "CnnlabError": "cnnlab.errors",
    "Data": "cnnlab.data.data",
    "Drawing": "cnnlab.report.network",
    "FeatureInfo": "cnnlab.models.base",
    "Prediction": "cnnlab.deploy.predictor",
    "Predictor": "cnnlab.deploy.predictor",
    "Run": "cnnlab.experiment",
    "Study": "cnnlab.study.study",
    "audit": "cnnlab.data.audit",
    "create_model": "cnnlab.models.registry",
    "draw_network": "cnnlab.report.network",
    "evaluate": "cnnlab.evaluation.evaluate",
    "export_run": "cnnlab.deploy.export",
    "find_learning_rate": "cnnlab.study.rate_range",
    "fit": "cnnlab.fitting",
    "list_models": "cnnlab.models.registry",
    "load_data": "cnnlab.data.load",
    "load_run": "cnnlab.runs.weights",
    "plot_curves": "cnnlab.evaluation.plots",
    "register_loss": "cnnlab.tasks",
    "register_metric": "cnnlab.tasks",
    "register_model": "cnnlab.models.registry",
    "register_task": "cnnlab.tasks",
    "run_search": "cnnlab.study.search",
    "run_study": "cnnlab.study.study",
    "show_batch": "cnnlab.data.show",
    "summarise": "cnnlab.models.summary",
}

__all__ = [
    "Classifier",
    "CnnlabError",
    "Data",
    "Drawing",
    "FeatureInfo",
    "Prediction",
    "Predictor",
    "Run",
    "Study",
    "audit",
    "create_model",
    "datasets",
    "draw_network",
    "evaluate",
    "explain",
    "export_run",
    "find_learning_rate",
    "fit",
    "geometry",
    "labs",
    "list_models",
    "load_data",
    "load_run",
    "look",
    "plot_curves",
    "register_loss",
    "register_metric",
    "register_model",
    "register_task",
    "run_search",
    "run_study",
    "show_batch",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in ("datasets", "explain", "geometry", "labs", "look"):
        return importlib.import_module(f"cnnlab.{name}")
    raise AttributeError(f"module 'cnnlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names alone: what completion shows."""
    return __all__
