"""One split through a model that gives each image any number of classes: metrics, and a row per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.config import TestConfig
from cnnlab.data.data import Data
from cnnlab.errors import RunError
from cnnlab.evaluation.classification import accuracy_change, own_metrics
from cnnlab.evaluation.intervals import mean_ap_interval, mean_interval_of_skewed, ratio_interval
from cnnlab.evaluation.outputs import PLAIN, ImageOutputs, refuse_views
from cnnlab.finite import check_answers
from cnnlab.proportions import wilson_interval
from cnnlab.tasks import DecisionRule
from cnnlab.tasks.decision import THRESHOLD, are_thresholds
from cnnlab.tasks.losses import losses_of
from cnnlab.tasks.multilabel import MultiLabel, average_precision, exact_matches, mean_of_known
from cnnlab.training.forward import forward_all

JOIN = ";"  # between the classes of an image in predictions.csv


@dataclass(frozen=True)
class MultiLabelOutputs(ImageOutputs):
    """With (n, K) logits and targets of 0 and 1, and (n,) losses, on the processor; the K classes, and the rule."""

    logits: Tensor
    targets: Tensor
    classes: list[str]
    rule: DecisionRule
    image_losses: Tensor

    @property
    def losses(self) -> Tensor:
        return self.image_losses

    @property
    def wrong(self) -> Tensor:
        return ~exact_matches(self.chosen, self.targets)

    def true_classes(self, place: int) -> list[int]:
        return self.targets[place].nonzero()[:, 0].tolist()

    @property
    def chosen(self) -> Tensor:
        """(n, K) bool."""
        return self.rule.chosen(self.probabilities)

    def table(self) -> Iterator[Sequence[object]]:
        yield ["picture", "true", "predicted", *self.classes]
        columns = self.names, self.targets.bool().tolist(), self.chosen.tolist(), self.probabilities.tolist()
        for name, true, chosen, row in zip(*columns, strict=True):
            yield [name, self._joined(true), self._joined(chosen), *(f"{p:.6g}" for p in row)]

    def _joined(self, has: Sequence[bool]) -> str:
        return JOIN.join(name for name, one in zip(self.classes, has, strict=True) if one)

    def against(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """`own_test`, see `LabelOutputs.against`; the accuracy is that of exact matches."""
        return accuracy_change(self.metrics, before)


def evaluate_multilabel(
    task: MultiLabel,
    model: nn.Module,
    data: Data,
    split: str,
    settings: TestConfig = PLAIN,
    known: Mapping[str, Any] | None = None,
) -> MultiLabelOutputs:
    """Logits and metrics of a model over one split.

    Args:
        known: test.json of the run, whose thresholds are used; None fits them on the validation split of the data.

    Returns:
        In `metrics`: loss, accuracy (images whose classes are all correct), mean_ap (mean over the classes of average
        precision), label_accuracy (of all yes and no, 1 less the Hamming loss), micro_f1 and macro_f1, their 95 %
        intervals over the images, n images, thresholds (values, and the number of images that they were fitted on) and
        per_class (class, n, precision, recall, f1, f1_interval, ap, threshold).
    """
    refuse_views(settings)
    answers = forward_all(model, data.evaluation_loader(split))
    losses = losses_of(task.plain_loss, *answers).cpu().double()
    logits, targets = (value.cpu() for value in answers)
    check_answers(logits)
    names = data.names(split)
    if known is None:
        thresholds, fitted = fitted_thresholds(model, data, (logits, targets) if split == "val" else None)
    else:
        found = known.get("thresholds") or {}
        thresholds, fitted = found.get("values") or [THRESHOLD] * data.num_classes, found.get("n", 0)
        if not are_thresholds(thresholds, data.classes):
            raise RunError("test.json is damaged: its thresholds are no numbers from 0 to 1 per class; test it again.")
    rule = DecisionRule(tuple(thresholds))
    metrics = {
        "split": split,
        "task": task.name,
        "loss": losses.mean().item(),
        **multi_label_metrics(logits, targets, rule, data.classes),
        **({"metrics": own_metrics(settings.metrics, logits, targets)} if settings.metrics else {}),
        "thresholds": {"values": list(rule.thresholds or ()), "n": fitted},
    }
    metrics["intervals"]["loss"] = list(mean_interval_of_skewed(losses))
    return MultiLabelOutputs(metrics, names, logits, targets, data.classes, rule, losses)


def multi_label_metrics(logits: Tensor, targets: Tensor, rule: DecisionRule, classes: Sequence[str]) -> dict[str, Any]:
    """What test.json holds, less the loss; see `evaluate_multilabel`.

    Args:
        logits: (n, K) float; targets: (n, K) of 0 and 1.
    """
    chosen, true = rule.chosen(rule.probabilities(logits)), targets.bool()
    hits, sizes = 2.0 * (chosen & true).double(), chosen.double() + true.double()  # F1 is the ratio of their sums
    exact = int(exact_matches(chosen, targets).sum())
    precision_of_rank = average_precision(logits, targets)
    micro, macro = (ratio_interval(part.view(len(logits), -1), whole.view(len(logits), -1)) for part, whole in (
        (hits.sum(1), sizes.sum(1)), (hits, sizes)
    ))  # fmt: skip
    f1 = ratio(hits.sum(0), sizes.sum(0))
    return {
        "accuracy": exact / len(logits),
        "accuracy_interval": list(wilson_interval(exact, len(logits))),
        "mean_ap": mean_of_known(precision_of_rank),
        "mean_ap_interval": list(mean_ap_interval(logits, targets)),
        "label_accuracy": (chosen == true).double().mean().item(),
        "micro_f1": ratio(hits.sum(), sizes.sum()).item() if bool(sizes.any()) else None,
        "macro_f1": mean_of_known(f1),
        "intervals": {"micro_f1": list(micro), "macro_f1": list(macro)},
        "n": len(logits),
        "per_class": [
            {
                "class": name,
                "n": int(true[:, k].sum()),
                "precision": number(ratio(hits[:, k].sum() / 2, chosen[:, k].sum())),
                "recall": number(ratio(hits[:, k].sum() / 2, true[:, k].sum())),
                "f1": number(f1[k]),
                "f1_interval": list(ratio_interval(hits[:, k : k + 1], sizes[:, k : k + 1])),
                "ap": number(precision_of_rank[k]),
                "threshold": (rule.thresholds or ())[k],
            }
            for k, name in enumerate(classes)
        ],
    }


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Not a number where the whole is 0."""
    return part.double() / whole.double()


def number(value: Tensor) -> float | None:
    return value.item() if value.isfinite() else None


def fitted_thresholds(
    model: nn.Module, data: Data, known: tuple[Tensor, Tensor] | None = None
) -> tuple[list[float], int]:
    """Thresholds of the classes fitted on the validation split, and the number of its images; 0.5 without one.

    Args:
        known: logits and targets of the validation split, where they are there already.
    """
    if not data.val.count:
        return [THRESHOLD] * data.num_classes, 0
    logits, targets = known or forward_all(model, data.evaluation_loader("val"))
    return best_thresholds(logits.cpu().sigmoid(), targets.cpu()), len(logits)


def best_thresholds(probabilities: Tensor, targets: Tensor) -> list[float]:
    """For each class the probability from which on the answer is yes, so that F1 is highest (Lipton et al. 2014).

    It lies in the middle between the last probability that is taken in and the next one. 0.5 for a class that no
    image has, and where that is as good.

    Args:
        probabilities: (n, K); targets: (n, K) of 0 and 1.
    """
    found = []
    for scores, truth in zip(probabilities.double().T, targets.double().T, strict=True):
        ordered, order = scores.sort(descending=True, stable=True)
        hits = truth[order].cumsum(0)
        f1 = 2 * hits / (torch.arange(1, len(scores) + 1) + hits[-1])
        after = torch.cat([ordered[1:], torch.zeros(1, dtype=torch.float64)])
        f1 = torch.where(ordered > after, f1, -1)  # equal probabilities are taken in together
        usual = scores >= THRESHOLD
        f1_usual = 2 * truth[usual].sum() / (usual.sum() + hits[-1])
        best = int(f1.argmax())
        middle = ((ordered[best] + after[best]) / 2).float()
        middle = middle if middle > after[best] else ordered[best]  # neighbours in float32 have nothing between them
        found.append(middle.item() if hits[-1] > 0 and f1[best] > f1_usual else THRESHOLD)
    return found
