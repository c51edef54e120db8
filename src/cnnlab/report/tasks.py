"""What the head of the page says of each task. A task of the user's own is shown by its accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cnnlab.report import confusion
from cnnlab.report.content import Report
from cnnlab.report.formatting import count, finite


@dataclass(frozen=True)
class TaskView:
    """How the result of a task is shown.

    Attributes:
        metric: the key of test.json of the main result; `label` is its name on the page.
        accuracy: what the accuracy of this task is called.
        counted: what the confusion matrix counts; `loss`: what the loss is.
        sentence: value and number of images → what the value was measured on.
        baseline: value of a classifier that ignores the images (`baseline_of` describes it); None where there is none.
    """

    metric: str = "accuracy"
    label: str = "accuracy"
    accuracy: str = "accuracy"
    counted: str = "images"
    loss: str = ""
    sentence: Callable[[float | None, float], str] = lambda value, n: f"n = {count(n)} images."
    baseline: Callable[[Report], float | None] = lambda report: None
    baseline_of: str = "Always predicting the most common class"


def _right(accuracy: float | None, n: float) -> str:
    if accuracy is None or not n:
        return f"n = {count(n)} images."
    return f"n = {count(n)} images, {count(accuracy * n)} of them correct."


def _majority_share(report: Report) -> float | None:
    matrix = (report.test or {}).get("confusion_matrix")
    return confusion.majority_share(matrix, report.classes) if matrix else None


def _mean_prevalence(report: Report) -> float | None:
    """Mean over the classes of the share of images that have one: the average precision of a random ranking."""
    test = report.test or {}
    counts = [row.get("n") for row in test.get("per_class") or []]
    n = finite(test.get("n"))
    return sum(count or 0 for count in counts) / len(counts) / n if counts and n else None


VIEWS = {
    "classification": TaskView(loss="cross-entropy per image", sentence=_right, baseline=_majority_share),
    "multilabel": TaskView(
        metric="mean_ap",
        label="mean average precision",
        accuracy="exact matches",
        loss="binary cross-entropy, mean over the classes",
        sentence=lambda _, n: f"Area under the precision-recall curve, mean over the classes; n = {count(n)} images.",
        baseline=_mean_prevalence,
        baseline_of="Ranking the images at random",
    ),
    "segmentation": TaskView(
        metric="mean_iou",
        label="mean IoU",
        accuracy="pixel accuracy",
        counted="pixels",
        loss="cross-entropy and Dice",
        sentence=lambda _, n: f"Mean over the classes of intersection over union; n = {count(n)} images.",
    ),
}


def view_of(report: Report) -> TaskView:
    """That of the task of the test, or of a run that was not tested by what was measured on validation."""
    if report.test is not None:
        return VIEWS.get(report.test.get("task", "classification"), TaskView())
    columns = report.history[-1] if report.history else {}
    others = (view for view in VIEWS.values() if view.metric != "accuracy" and f"val_{view.metric}" in columns)
    return next(others, VIEWS["classification"])
