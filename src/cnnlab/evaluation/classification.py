"""One split through a model that gives each image one label: metrics, and a row per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cnnlab.config import TestConfig
from cnnlab.data.data import Data
from cnnlab.data.loader import Loader
from cnnlab.errors import CnnlabError, ConfigError
from cnnlab.evaluation.calibration import Temperature, calibration_metrics, fit_temperature
from cnnlab.evaluation.hardest import hardest_images
from cnnlab.evaluation.intervals import difference_interval, mean_interval_of_skewed, metric_intervals, paired_change
from cnnlab.evaluation.metrics import accuracy_metrics, classification_metrics, image_losses
from cnnlab.evaluation.outputs import PLAIN, ImageOutputs
from cnnlab.evaluation.views import average_views
from cnnlab.finite import check_answers
from cnnlab.tasks import Task
from cnnlab.tasks.decision import SINGLE_LABEL, DecisionRule
from cnnlab.tasks.metrics import METRICS
from cnnlab.training.forward import forward_all


@dataclass(frozen=True)
class LabelOutputs(ImageOutputs):
    """With (n, K) logits and (n,) labels on the processor, and the K classes."""

    logits: Tensor
    labels: Tensor
    classes: list[str]
    rule: DecisionRule = SINGLE_LABEL

    @property
    def losses(self) -> Tensor:
        return image_losses(self.logits, self.labels)

    @property
    def wrong(self) -> Tensor:
        return self.logits.argmax(1) != self.labels

    def true_classes(self, place: int) -> list[int]:
        return [int(self.labels[place])]

    def table(self) -> Iterator[Sequence[object]]:
        probabilities = self.logits.softmax(1)
        columns = self.names, self.labels.tolist(), probabilities.argmax(1).tolist(), probabilities.tolist()
        yield ["picture", "true", "predicted", *self.classes]
        for name, label, answer, row in zip(*columns, strict=True):
            yield [name, self.classes[label], self.classes[answer], *(f"{p:.6g}" for p in row)]

    def against(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """`own_test`: the accuracy before, how much larger this one is (negative: it fell), and its 95 % interval."""
        return accuracy_change(self.metrics, before)


def accuracy_change(metrics: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """See `LabelOutputs.against`."""
    right, known = (round(part["accuracy"] * part["n"]) for part in (metrics, before))
    change = {
        "accuracy": before["accuracy"],
        "difference": metrics["accuracy"] - before["accuracy"],
        "interval": list(difference_interval((right, metrics["n"]), (known, before["n"]))),
    }
    return {"own_test": change}


def evaluate_classification(
    task: Task,
    model: nn.Module,
    data: Data,
    split: str,
    settings: TestConfig = PLAIN,
    known: Mapping[str, Any] | None = None,
) -> LabelOutputs:
    """Logits and metrics of a model over one split.

    The metrics are those of the images as they are, as `predict` and an export answer; what further views give stands
    beside them, under `views`, and what a temperature gives, under `calibration`.

    Args:
        known: test.json of the run, whose temperature is used; None fits one on the validation split of the data.
    """
    loader, classes = data.evaluation_loader(split), data.classes
    logits, labels = (value.cpu() for value in forward_all(model, loader))
    check_answers(logits)
    names = data.names(split)
    if known is None:
        temperature = temperature_of(model, data, (logits, labels) if split == "val" else None)
    else:
        calibration = known.get("calibration") or {}
        temperature = Temperature(calibration.get("temperature"), calibration.get("n", 0))
    metrics = {
        "split": split,
        **classification_metrics(logits, labels, classes),
        "intervals": metric_intervals(logits, labels),
        **({"metrics": own_metrics(settings.metrics, logits, labels)} if settings.metrics else {}),
        "calibration": calibration_metrics(logits, labels, temperature),
        "hardest": hardest_images(logits, labels, names, classes),
    }
    if settings.views != "none":
        metrics["views"] = views_metrics(model, loader, logits, labels, settings)
        if split != "val" and data.val.count:
            validation = data.evaluation_loader("val")
            answers, truth = (value.cpu() for value in forward_all(model, validation))
            metrics["views"]["validation"] = views_metrics(model, validation, answers, truth, settings)["change"]
    return LabelOutputs(metrics, names, logits, labels, classes)


def views_metrics(
    model: nn.Module, loader: Loader, logits: Tensor, labels: Tensor, settings: TestConfig
) -> dict[str, Any]:
    """loss and accuracy with further views, and under `change` how much larger the accuracy is than without, with its
    95 % interval over the same images."""
    averaged = average_views(model, loader, logits.to(loader.device), settings.views, settings.share).cpu()
    change, interval = paired_change(logits.argmax(1) == labels, averaged.argmax(1) == labels)
    return {
        "views": settings.views,
        "share": settings.share,
        **accuracy_metrics(averaged, labels),
        "change": {"accuracy": change, "interval": list(interval)},
    }


def temperature_of(model: nn.Module, data: Data, known: tuple[Tensor, Tensor] | None = None) -> Temperature:
    """The temperature fitted on the validation split, whose logits and labels may be known already."""
    if not data.val.count:
        return Temperature(None, 0)
    logits, labels = known or forward_all(model, data.evaluation_loader("val"))
    return fit_temperature(logits.cpu(), labels.cpu())


def own_metrics(names: Sequence[str], logits: Tensor, labels: Tensor) -> dict[str, dict[str, Any]]:
    """Name → mean over the images and its 95 % interval, of the metrics that test.metrics names.

    Raises:
        ConfigError: one that is not known, fails, or gives no number for each image.
    """
    found = {}
    for name in names:
        try:
            values = METRICS.find(name)(logits, labels)
        except CnnlabError:
            raise
        except Exception as error:  # the user's own code can fail in any way
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else "no message"
            raise ConfigError(f"test.metrics={name} fails ({type(error).__name__}: {reason}).") from error
        if not isinstance(values, Tensor) or values.shape != labels.shape[:1] or not values.double().isfinite().all():
            what = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
            raise ConfigError(f"test.metrics={name} must give a finite number per image, ({len(labels)},), got {what}.")
        interval = mean_interval_of_skewed(values.double())
        found[name] = {"value": values.double().mean().item(), "interval": list(interval)}
    return found
