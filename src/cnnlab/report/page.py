"""`report.html`: one file that shows what a run learned, how well, where it errs, and how to repeat it.

The page asks nothing of the network (its own policy forbids it), needs no script to be read, and is the same for the
same report, byte for byte.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from cnnlab.imports import names_code
from cnnlab.report import charts, formatting, sections
from cnnlab.report.content import Report
from cnnlab.report.formatting import SPACE, as_interval, between, count, duration, finite, number, percent
from cnnlab.report.sections import best_row, markup
from cnnlab.report.tasks import view_of

MAX_SAMPLES = 100  # a photograph of 256 pixels is about 25 kB on the page


@dataclass(frozen=True)
class Fact:
    """One value of the header: its label, the value, and what it was measured on."""

    label: str
    value: str
    note: str = ""
    interval: str = ""


@cache
def environment() -> Any:
    """Where the templates of this folder come from; a study, or a notebook, renders them many times."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # 60 ms that only this function owes

    found = Environment(
        loader=PackageLoader("cnnlab", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (count, percent, number, duration, formatting.plain, formatting.share, formatting.breakable)
    found.filters |= {function.__name__: function for function in filters}
    return found


def template() -> Any:
    """The compiled page of a run."""
    return environment().get_template("page.html.j2")


def render(report: Report) -> str:
    """Return the page as one HTML string that encodes to UTF-8.

    Raises:
        ValueError: a sample image or the confusion matrix has an impossible shape.
    """
    page = template().render(
        title=report.title,
        subject=subject(report),
        headline=headline(report),
        facts=facts(report),
        hints=report.hints,
        split=sections.split_view(report.split),
        curves=sections.curves(report),
        history=report.history,
        best_epoch=report.best_epoch,
        counted=view_of(report).counted,
        confusion=sections.confusion_view(report),
        per_class=(report.test or {}).get("per_class") or [],
        calibration=sections.calibration_view(report.test),
        samples=[sections.sample_view(sample, report.classes) for sample in report.samples[:MAX_SAMPLES]],
        samples_total=len(report.samples),
        mistakes=[sections.sample_view(sample, report.classes) for sample in report.insight.mistakes],
        scenes=sections.scenes_view(report.insight, report.classes),
        maps=sections.maps_view(report.insight),
        stages=sections.stages_view(report.insight),
        filters=sections.filters_view(report.filters),
        layers=report.insight.layers,
        totals=report.insight.totals,
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
        view = view_of(report)
        return {
            "label": f"Validation {view.label}",
            "value": percent(best_row(report).get(f"val_{view.metric}")),
            "sentence": "Not tested yet. The best epoch was chosen by this value, so it is too optimistic.",
            "strip": None,
        }
    test = report.test
    view = view_of(report)
    accuracy, images = finite(test.get(view.metric)), finite(test.get("n"))
    digits = 2 if (images or 0) >= 10_000 else 1
    interval = as_interval(test.get(f"{view.metric}_interval"))
    baseline = view.baseline(report)
    parts = []
    if interval:
        parts.append(f"95{SPACE}% interval {percent(interval[0], digits)} to {percent(interval[1], digits)}.")
    if images is not None:
        parts.append(view.sentence(accuracy, images))
    if baseline is not None:
        parts.append(f"{view.baseline_of} (the vertical tick) would score {percent(baseline)}.")
    split = str(test.get("split") or "test")
    named_split = {"test": "Test", "val": "Validation", "train": "Training"}.get(split)
    return {
        "label": f"{named_split} {view.label}" if named_split else f"{view.label.capitalize()} on {split}",
        "value": percent(accuracy, digits),
        "sentence": " ".join(parts),
        "strip": None if accuracy is None else markup(charts.interval_strip(accuracy, interval, baseline)),
    }


def _val_note(report: Report) -> str:
    """What the validation accuracy rests on: "best epoch, 3; n = 120 images"."""
    n = (report.split.get("sizes") or {}).get("val")
    return f"best epoch, {report.best_epoch}" + (f"; n = {count(n)} images" if n else "")


def facts(report: Report) -> list[Fact]:
    """Return the smaller values of the header, those of the test first. One that is unknown is left out."""
    test, best, view = report.test or {}, best_row(report), view_of(report)
    seconds = [value for row in report.history if (value := finite(row.get("seconds"))) is not None]
    speeds = [value for row in report.history if (value := finite(row.get("images_per_second"))) is not None]
    planned = (report.config.get("trainer") or {}).get("epochs")
    views = test.get("views") or {}
    intervals = test.get("intervals") or {}

    def tested(label: str, key: str, note: str, write: Callable[[Any], str] = percent) -> Fact:
        return Fact(label, write(test.get(key)), note, between(intervals.get(key), write))

    folds = report.folds or {}
    found = [
        Fact(
            "Cross-validation",
            percent(folds.get("mean")),
            f"mean accuracy of {len(folds.get('accuracies', []))} folds",
            between(folds.get("interval"), percent),
        ),
        *(
            Fact(f"Validation {label}", percent(best.get(f"val_{key}")), _val_note(report))
            for key, label in {view.metric: view.label, "accuracy": view.accuracy}.items()
        ),
        *(
            [tested("Top-5 accuracy", "top5_accuracy", "true class among the five most probable")]
            if len(report.classes) > 5
            else []
        ),
        Fact(
            "With test-time augmentation",
            percent(views.get("accuracy")),
            str(views.get("views", "")).replace("_", " and "),
            between(views.get("accuracy_interval"), percent),
        ),
        Fact(
            "Pixel accuracy",
            percent(test.get("accuracy") if "mean_iou" in test else None),
            "",
            between(test.get("accuracy_interval"), percent),
        ),
        Fact(
            "Exact matches",
            percent(test.get("accuracy") if "mean_ap" in test else None),
            "images whose classes are all correct",
            between(test.get("accuracy_interval"), percent),
        ),
        tested("Micro F1", "micro_f1", "over all images and classes"),
        Fact("Dice", percent(test.get("dice")), "mean over the classes"),
        Fact("Boundary F1", percent(test.get("boundary_f1")), "mean over images and classes"),
        tested("Mean class accuracy", "mean_class_accuracy", "mean recall over the classes"),
        tested("Macro F1", "macro_f1", "mean over the classes"),
        tested(
            "Loss",
            "loss",
            view.loss,
            as_number,
        ),
        *(
            Fact(name.split(":")[-1], number(one["value"], 3), "your metric", between(one["interval"], as_number))
            for name, one in (test.get("metrics") or {}).items()
        ),
        tested("Calibration error", "ece", f"confidence against accuracy, 0 is best{_debiased(test)}"),
        Fact("Epochs", count(len(report.history)), f"of {planned} planned" if planned else ""),
        Fact("Training time", duration(sum(seconds) if seconds else None), "all epochs"),
        Fact("Images per second", count(median(speeds) if speeds else None), "median of the epochs"),
    ]
    left_out = {
        f"Validation {view.label}": report.test is None,  # it is the headline then
        "Top-5 accuracy": len(report.classes) <= 5,  # always 100 %
    }
    return [fact for fact in found if fact.value != formatting.DASH and not left_out.get(fact.label)]


def as_number(value: Any) -> str:
    return number(value, 3)


def _debiased(test: Mapping[str, Any]) -> str:
    """The calibration error debiased to it; folders of older runs do not have it."""
    value = finite(test.get("ece_debiased"))
    return "" if value is None else f"; {percent(value)} debiased"


def commands(report: Report) -> list[tuple[str, str]]:
    """Return (what it does, command line). A run started from Python has no command to train it again."""
    overrides, command = report.config.get("overrides"), report.environment.get("command")
    train = ""
    if isinstance(overrides, Sequence) and not isinstance(overrides, str):
        train = shlex.join(["cnnlab", "train", *map(str, overrides)])
    elif command:
        train = command if isinstance(command, str) else shlex.join(map(str, command))
    run = (report.config.get("run") or {}).get("dir") or f"runs/{report.title}"
    named = [(report.config.get(section) or {}).get("name") for section in ("data", "model")]
    trust = ["--trust-code"] if any(names_code(name) for name in [*named, report.config.get("task")]) else []
    test = shlex.join(["cnnlab", "test", str(run), *trust])
    return [*([("Train again", train)] if train else []), ("Test the saved model again", test)]
