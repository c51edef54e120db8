"""What each section of the page shows, ready for the template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnlab.evaluation.confusion import most_confused
from cnnlab.report import charts, formatting
from cnnlab.report.content import Area, Insight, Report, Sample
from cnnlab.report.formatting import SPACE, number, percent
from cnnlab.report.tasks import view_of

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup

MAX_FILTERS = 64  # the strongest units of the first layer
MAX_NAMES = 1000  # quarantined images listed by name
LOSS_LOG_FROM = 100.0  # a loss that spans two decades is drawn on a logarithmic axis


def best_row(report: Report) -> Mapping[str, Any]:
    return next((row for row in report.history if row.get("epoch") == report.best_epoch), {})


def split_view(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes with their shares, the images set aside with the reasons counted, and the other settings."""
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
    """Return (heading, SVG, caption) of each column of the history; what was never measured is left out."""
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

    def one(name: str, key: str) -> list[charts.Series]:
        return [charts.Series(name, [row.get(key) for row in report.history], "validation")]

    marked = float(report.best_epoch)
    view = view_of(report)
    accuracy = view.accuracy.capitalize()
    metric = one("validation", f"val_{view.metric}") if view.metric != "accuracy" else []
    drawn = [
        (
            "Loss",
            charts.line_chart("loss", "Loss", epochs, both("loss"), marked_epoch=marked, log_from=LOSS_LOG_FROM),
            at_best("loss", number),
        ),
        (
            accuracy,
            charts.line_chart("accuracy", accuracy, epochs, both("accuracy"), write=percentage, marked_epoch=marked),
            at_best("accuracy", percent),
        ),
        (
            view.label[:1].upper() + view.label[1:],
            charts.line_chart("metric", view.label, epochs, metric, write=percentage, marked_epoch=marked),
            "On the validation split; the best epoch is chosen by this metric.",
        ),
        (
            "Learning rate",
            charts.line_chart("rate", "Learning rate", epochs, one("learning rate", "lr")),
            "At the end of each epoch.",
        ),
        (
            "Gradient",
            charts.line_chart(
                "gradient", "Norm of the gradient", epochs, one("norm", "gradient_norm"), log_from=LOSS_LOG_FROM
            ),
            "Norm of the gradient of all parameters before clipping; mean over the steps of the epoch.",
        ),
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
        "pairs": most_confused(matrix, report.classes),
    }


def true_classes(sample: Sample) -> list[str]:
    return [sample.true] if isinstance(sample.true, str) else list(sample.true)


def sample_view(sample: Sample, classes: Sequence[str]) -> dict[str, Any]:
    from cnnlab.report import images

    true = true_classes(sample)
    answers = images.top_answers(sample.probabilities, list(classes), true)
    return {
        "image": images.embed(sample.image),
        "overlay": None if sample.overlay is None else images.embed(sample.overlay),
        "loss": sample.loss,
        "name": sample.name,
        "true": ", ".join(true) or "none",
        "answers": answers,
        "answered": None if sample.answered is None else ", ".join(sample.answered) or "none",
        "right": answers[0].is_true if sample.answered is None else set(sample.answered) == set(true),
    }


def calibration_view(test: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return diagrams without and with the temperature: (heading, SVG, loss, ECE), and the first one's bins."""
    known = (test or {}).get("calibration")
    if not known:
        return None
    from cnnlab.report.reliability import edges, reliability_diagram

    headings = {"before": "As trained", "after": f"With the temperature {number(known.get('temperature'), 3)}"}
    drawn = [
        (heading, markup(svg), known[key]["loss"], known[key]["ece"])
        for key, heading in headings.items()
        if known.get(key) and (svg := reliability_diagram(f"reliability-{key}", heading, known[key]["bins"]))
    ]
    bins = known["before"]["bins"]
    return {
        "drawn": drawn,
        "temperature": known.get("temperature"),
        "n": known.get("n"),
        "bins": [(edges(one, len(bins)), one) for one in bins if one["n"]],
    }


def scenes_view(insight: Insight, classes: Sequence[str]) -> dict[str, Any] | None:
    """Images whose pixels were classified, each with truth, answer and error; None where there are none."""
    from cnnlab.report import images

    if not insight.scenes:
        return None
    rows = [
        (
            scene.name,
            scene.metrics,
            [
                (title, images.embed(image))
                for title, image in (
                    ("image", scene.image),
                    ("truth", scene.truth),
                    ("answer", scene.answer),
                    ("errors", scene.error),
                )
            ],
        )
        for scene in insight.scenes
    ]
    return {"rows": rows, "legend": list(zip(classes, insight.colours, strict=True))[1:]}


def maps_view(insight: Insight) -> dict[str, Any]:
    """The method of the maps, the colours of their legend, and how faithful they are beside random maps."""
    judged = insight.faithfulness
    rows = []
    if judged is not None:
        measures = (("Deletion", "lower is better", 0), ("Insertion", "higher is better", 1))
        for name, direction, place in measures:
            ours, random = in_numbers(judged.maps[place]), in_numbers(judged.random[place])
            rows.append((name, direction, ours, random, judged.better[place]))
    return {
        "method": insight.method,
        "without": insight.without_maps.rstrip("."),
        "legend": insight.legend,
        "rows": rows,
        "n": judged.n if judged else 0,
        "steps": judged.steps if judged else 0,
    }


def in_numbers(area: Area) -> tuple[str, str]:
    """Mean with half of its interval, and the standard deviation."""
    return f"{area.mean:.3f} ± {area.half:.3f}", f"{area.spread:.3f}"


def stages_view(insight: Insight) -> dict[str, Any] | None:
    if insight.traced is None or not insight.stages:
        return None
    from cnnlab.report import images

    return {
        "image": images.embed(insight.traced.image),
        "name": insight.traced.name,
        "true": ", ".join(true_classes(insight.traced)) or "none",
        "sheets": [
            {
                "name": stage.name,
                "shape": "×".join(map(str, stage.shape)),
                "shown": len(stage.maps),
                "channels": stage.shape[0],
                "image": images.channel_grid(stage.maps),
            }
            for stage in insight.stages
        ],
    }


def filters_view(weights: np.ndarray[Any, Any] | None) -> dict[str, Any] | None:
    """The strongest units as one sheet; None where the weights are not images of one or three channels."""
    import numpy as np

    from cnnlab.report import images

    if weights is None or weights.shape[1] not in (1, 3) or not np.isfinite(weights).all():
        return None
    strength = np.square(weights).sum(axis=(1, 2, 3))
    chosen = np.sort(np.argsort(-strength, kind="stable")[:MAX_FILTERS])
    return {
        "image": images.weight_grid(weights[chosen]),
        "shown": len(chosen),
        "units": len(weights),
        "size": f"{weights.shape[2]}×{weights.shape[3]}",
    }


def markup(svg: str) -> Markup:
    """Vouch for a string of our own making, whose foreign parts were escaped where it was built."""
    from markupsafe import Markup

    return Markup(svg)
