"""`report.html`: one file that shows what a run learned, how well, where it errs, and how to repeat it.

The page asks nothing of the network (its own policy forbids it), needs no script to be read, and is the same for the
same report, byte for byte.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from cnnlab.report import charts, formatting
from cnnlab.report.formatting import SPACE, count, duration, finite, number, percent

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup

MAX_SAMPLES = 100  # a photograph of 256 pixels is about 25 kB on the page
MAX_FILTERS = 64  # the strongest units of the first layer
MAX_NAMES = 1000  # quarantined pictures listed by name
LOSS_LOG_FROM = 100.0  # a loss that spans two decades is drawn on a logarithmic axis


@dataclass(frozen=True)
class Sample:
    """One picture and what the model said of it."""

    image: np.ndarray[Any, Any]  # (H, W) or (H, W, 3) uint8
    name: str  # path or index
    true: str
    probabilities: np.ndarray[Any, Any]  # (num_classes,), sums to 1


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


@dataclass(frozen=True)
class Fact:
    """One figure of the header: what it is, the figure, and what it rests on."""

    label: str
    value: str
    note: str = ""


def render(report: Report) -> str:
    """Return the page as one HTML string that encodes to UTF-8.

    Raises:
        ValueError: a sample image or the confusion matrix has an impossible shape.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # 60 ms that only this function owes

    environment = Environment(
        loader=PackageLoader("cnnlab", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (count, percent, number, duration, formatting.plain, formatting.share, formatting.breakable)
    environment.filters |= {function.__name__: function for function in filters}
    page = environment.get_template("page.html.j2").render(
        title=report.title,
        subject=subject(report),
        headline=headline(report),
        facts=facts(report),
        split=split_view(report.split),
        curves=curves(report),
        history=report.history,
        best_epoch=report.best_epoch,
        confusion=confusion_view(report),
        per_class=(report.test or {}).get("per_class") or [],
        samples=[sample_view(sample, report.classes) for sample in report.samples[:MAX_SAMPLES]],
        samples_total=len(report.samples),
        filters=filters_view(report.filters),
        settings=formatting.groups({key: value for key, value in report.config.items() if key != "overrides"}),
        environment=formatting.groups(report.environment),
        commands=commands(report),
    )
    # A file name that is not valid UTF-8 carries lone surrogates, which cannot be written out.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def subject(report: Report) -> str:
    """Say what was trained on what: "resnet trained on cifar10 · 10 classes"."""
    model, data = (named(report.config.get(key)) for key in ("model", "data"))
    trained = {
        (True, True): f"{model} trained on {data}",
        (True, False): f"{model}",
        (False, True): f"trained on {data}",
        (False, False): "",
    }[bool(model), bool(data)]
    return " · ".join(part for part in (trained, f"{count(len(report.classes))} classes") if part)


def named(group: Any) -> str:
    name = group.get("name") if isinstance(group, Mapping) else group
    return name if isinstance(name, str) else ""


def headline(report: Report) -> dict[str, Any]:
    """Return the result in large: label, value, a sentence, and the interval drawn (or None)."""
    if report.test is None:
        accuracy = best_row(report).get("val_accuracy")
        return {
            "label": "Validation accuracy",
            "value": percent(accuracy),
            "sentence": "Not tested yet. The best epoch was chosen on this figure, so it flatters the model.",
            "strip": None,
        }
    test = report.test
    accuracy, pictures = finite(test.get("accuracy")), finite(test.get("n"))
    digits = 2 if (pictures or 0) >= 10_000 else 1
    interval = as_interval(test.get("accuracy_interval"))
    baseline = majority_share(report)
    parts = []
    if interval:
        parts.append(f"95{SPACE}% interval {percent(interval[0], digits)} to {percent(interval[1], digits)}.")
    if accuracy is not None and pictures:
        parts.append(f"n = {count(pictures)} pictures, {count(accuracy * pictures)} of them right.")
    elif pictures is not None:
        parts.append(f"n = {count(pictures)} pictures.")
    if baseline is not None:
        parts.append(f"Always answering the most common class (the upright tick) would score {percent(baseline)}.")
    split = str(test.get("split") or "test")
    return {
        "label": {"test": "Test accuracy", "val": "Validation accuracy", "train": "Training accuracy"}.get(
            split, f"Accuracy on {split}"
        ),
        "value": percent(accuracy, digits),
        "sentence": " ".join(parts),
        "strip": None if accuracy is None else markup(charts.interval_strip(accuracy, interval, baseline)),
    }


def as_interval(bounds: Any) -> tuple[float, float] | None:
    low, high = (finite(bound) for bound in bounds or (None, None))
    return None if low is None or high is None else (low, high)


def majority_share(report: Report) -> float | None:
    from cnnlab.report import confusion

    matrix = (report.test or {}).get("confusion_matrix")
    return confusion.majority_share(matrix, report.classes) if matrix else None


def best_row(report: Report) -> Mapping[str, Any]:
    return next((row for row in report.history if row.get("epoch") == report.best_epoch), {})


def facts(report: Report) -> list[Fact]:
    """Return the smaller figures of the header, those of the test first. One that is unknown is left out."""
    test, best = report.test or {}, best_row(report)
    seconds = [value for row in report.history if (value := finite(row.get("seconds"))) is not None]
    speeds = [value for row in report.history if (value := finite(row.get("images_per_second"))) is not None]
    planned = (report.config.get("trainer") or {}).get("epochs")
    views = test.get("views") or {}
    found = [
        Fact("Validation accuracy", percent(best.get("val_accuracy")), f"best epoch, {report.best_epoch}"),
        Fact("Top-5 accuracy", percent(test.get("top5_accuracy")), "true class among five answers"),
        Fact("With further views", percent(views.get("accuracy")), str(views.get("views", "")).replace("_", " and ")),
        Fact("Mean class accuracy", percent(test.get("mean_class_accuracy")), "mean recall over the classes"),
        Fact("Macro F1", percent(test.get("macro_f1")), "mean over the classes"),
        Fact("Loss", number(test.get("loss"), 3), "cross-entropy per picture"),
        Fact("Calibration error", percent(test.get("ece")), "confidence against accuracy, 0 is best"),
        Fact("Epochs", count(len(report.history)), f"of {planned} planned" if planned else ""),
        Fact("Training time", duration(sum(seconds) if seconds else None), "all epochs"),
        Fact("Images per second", count(median(speeds) if speeds else None), "median of the epochs"),
    ]
    left_out = {
        "Validation accuracy": report.test is None,  # it is the headline then
        "Top-5 accuracy": len(report.classes) <= 5,  # always 100 %
    }
    return [fact for fact in found if fact.value != formatting.DASH and not left_out.get(fact.label)]


def split_view(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes with their shares, the pictures set aside with the reasons counted, and the other settings."""
    sizes = {key: int(value or 0) for key, value in (split.get("sizes") or {}).items()}
    total = sum(sizes.values())
    names = {"train": "training", "val": "validation", "test": "test"}
    quarantined = list(split.get("quarantined") or [])
    return {
        "sizes": [(names.get(key, key), size, size / total if total else 0.0) for key, size in sizes.items()],
        "quarantined": quarantined[:MAX_NAMES],
        "quarantined_total": len(quarantined),
        "reasons": Counter(str(entry.get("reason") or "no reason given") for entry in quarantined).most_common(5),
        "other": formatting.flatten({k: v for k, v in split.items() if k not in ("sizes", "quarantined")}),
    }


def curves(report: Report) -> list[tuple[str, Markup, str]]:
    """Return (heading, SVG, caption) of loss, accuracy and learning rate; what was never measured is left out."""
    epochs = [float(row["epoch"]) for row in report.history]
    if not epochs:
        return []
    best = best_row(report)

    def both(key: str) -> list[charts.Series]:
        parts = (("training", f"train_{key}"), ("validation", f"val_{key}"))
        return [charts.Series(name, [row.get(part) for row in report.history], name) for name, part in parts]

    def at_best(key: str, write: Any) -> str:
        train, val = write(best.get(f"train_{key}")), write(best.get(f"val_{key}"))
        return f"Epoch {report.best_epoch}: training {train}, validation {val}." if best else ""

    rate = [charts.Series("learning rate", [row.get("lr") for row in report.history], "validation")]
    marked = float(report.best_epoch)
    drawn = [
        (
            "Loss",
            charts.line_chart("loss", "Loss", epochs, both("loss"), marked_epoch=marked, log_from=LOSS_LOG_FROM),
            at_best("loss", number),
        ),
        (
            "Accuracy",
            charts.line_chart("accuracy", "Accuracy", epochs, both("accuracy"), write=percentage, marked_epoch=marked),
            at_best("accuracy", percent),
        ),
        ("Learning rate", charts.line_chart("rate", "Learning rate", epochs, rate), "At the end of each epoch."),
    ]
    return [(heading, markup(svg), caption) for heading, svg, caption in drawn if svg]


def percentage(share: float) -> str:
    """Write a share for an axis: 60 %, 99.5 %."""
    return f"{number(100 * share)}{SPACE}%"


def confusion_view(report: Report) -> dict[str, Any] | None:
    """Return rows of counts (few classes) or a heat map (many), and the pairs most often confused."""
    matrix = (report.test or {}).get("confusion_matrix")
    if not matrix:
        return None
    from cnnlab.report import confusion

    small = len(report.classes) <= confusion.MAX_TABLE_CLASSES
    return {
        "rows": confusion.table_rows(matrix, report.classes) if small else [],
        "upright": max(len(name) for name in report.classes) > 3,
        "heat_map": None if small else markup(confusion.heat_map(matrix, report.classes)),
        "zoom": len(report.classes) > confusion.MAX_NAMED_CLASSES,
        "pairs": confusion.most_confused(matrix, report.classes),
    }


def sample_view(sample: Sample, classes: Sequence[str]) -> dict[str, Any]:
    from cnnlab.report import pictures

    answers = pictures.top_answers(sample.probabilities, list(classes), sample.true)
    return {
        "picture": pictures.as_picture(sample.image),
        "name": sample.name,
        "true": sample.true,
        "answers": answers,
        "right": answers[0].is_true,
    }


def filters_view(weights: np.ndarray[Any, Any] | None) -> dict[str, Any] | None:
    """The strongest units as one sheet; None where the weights are no pictures of one or three channels."""
    import numpy as np

    from cnnlab.report import pictures

    if weights is None or weights.shape[1] not in (1, 3) or not np.isfinite(weights).all():
        return None
    strength = np.square(weights).sum(axis=(1, 2, 3))
    chosen = np.sort(np.argsort(-strength, kind="stable")[:MAX_FILTERS])
    return {
        "picture": pictures.weight_grid(weights[chosen]),
        "shown": len(chosen),
        "units": len(weights),
        "size": f"{weights.shape[2]}×{weights.shape[3]}",
    }


def commands(report: Report) -> list[tuple[str, str]]:
    """Return (what it does, command line). A run started from Python has no command to train it again."""
    overrides, command = report.config.get("overrides"), report.environment.get("command")
    train = ""
    if isinstance(overrides, Sequence) and not isinstance(overrides, str):
        train = shlex.join(["cnnlab", "train", *map(str, overrides)])
    elif command:
        train = command if isinstance(command, str) else shlex.join(map(str, command))
    run = (report.config.get("run") or {}).get("dir") or f"runs/{report.title}"
    test = shlex.join(["cnnlab", "test", str(run)])
    return [*([("Train again", train)] if train else []), ("Test the saved model again", test)]


def markup(svg: str) -> Markup:
    """Vouch for a string of our own making, whose foreign parts were escaped where it was built."""
    from markupsafe import Markup

    return Markup(svg)
