"""Metrics as a terminal shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.measure import Measurement
from rich.table import Table

from cnnlab.evaluation.compare import ComparedRun
from cnnlab.tracking.console import duration, number, percent, plain_console


def interval_text(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{100 * low:.2f}–{100 * high:.2f} %"


def plain_table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
    for heading, justify in columns:
        table.add_column(heading, justify="left" if justify == "left" else "right", no_wrap=True)
    return table


def result_table(
    history: Sequence[Mapping[str, Any]], best_epoch: int, test: Mapping[str, Any] | None, val_count: int | None = None
) -> Table:
    """What a training ends with: the best epoch on validation, of `val_count` images, and the test."""
    headings = [(name, "right") for name in ("loss", "accuracy", "95 % interval", "images")]
    table = plain_table(("", "left"), *headings)
    row = next(row for row in history if row["epoch"] == best_epoch)
    if row["val_loss"] is not None:
        count = "" if val_count is None else f"{val_count:,}"
        values = number(row["val_loss"]), percent(row["val_accuracy"])
        table.add_row(f"validation, epoch {best_epoch}", *values, "", count)
    if test is not None:
        interval = interval_text(test["accuracy_interval"])
        table.add_row("test", number(test["loss"]), percent(test["accuracy"]), interval, f"{test['n']:,}")
        for key, name in (("mean_iou", "mean IoU"), ("mean_ap", "mean AP")):
            if test.get(key) is not None:
                interval = interval_text(test[f"{key}_interval"])
                table.add_row(f"test, {name}", "", percent(test[key]), interval, f"{test['n']:,}")
        if target := test.get("target"):
            interval = interval_text(target["accuracy_interval"])
            words = number(target["loss"]), percent(target["accuracy"]), interval, f"{target['n']:,}"
            table.add_row(f"test on {target['data']}", *words)
        if views := test.get("views"):
            interval = interval_text(views["accuracy_interval"])
            name = f"test, {views['views'].replace('_', ' and ')} views"
            table.add_row(name, number(views["loss"]), percent(views["accuracy"]), interval, f"{test['n']:,}")
    return table


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """What `cnnlab test` prints."""
    return TEXTS.get(metrics.get("task", "classification"), _plain_text)(metrics)


def _classification_text(metrics: Mapping[str, Any]) -> str:
    bounds = {"accuracy": metrics["accuracy_interval"], **metrics["intervals"]}
    several = {key: value for key, value in metrics["topk_accuracy"].items() if key not in ("1", "5")}
    further = "accuracy of " * bool(several) + ", ".join(f"top-{k} {percent(v)}" for k, v in several.items())
    top5 = "5" in metrics["topk_accuracy"]  # of five classes or fewer the true one is always among five

    def line(label: str, key: str, write: Callable[[float], str], note: str = "") -> str:
        interval = "–".join(write(bound).removesuffix(" %") for bound in bounds[key])
        return f"  {label:<12}{write(metrics[key]):>9}  {interval:<15}  {note}".rstrip()

    return "\n".join(
        [
            f"{metrics['split']} split, {metrics['n']:,} images",
            f"{'':<25}95 % interval",
            line("accuracy", "accuracy", percent),
            line("classes", "mean_class_accuracy", percent, "mean accuracy over the classes"),
            *([line("top-5", "top5_accuracy", percent, further)] if top5 else []),
            line("macro F1", "macro_f1", number),
            line("loss", "loss", number),
            line("ECE", "ece", number, f"expected calibration error, 15 bins{_debiased(metrics)}"),
            *(_own_metric(name, **one) for name, one in metrics.get("metrics", {}).items()),
            _temperature(metrics["calibration"]),
            *(_views(metrics["views"]) if "views" in metrics else []),
            *([f"  {fall_text(metrics['own_test'])}"] if "own_test" in metrics else []),
        ]
    )


def _segmentation_text(metrics: Mapping[str, Any]) -> str:
    intervals = [interval_text(metrics[f"{key}_interval"]) for key in ("accuracy", "mean_iou")]
    return "\n".join(
        [
            f"{metrics['split']} split, {metrics['n']:,} images",
            f"  pixels       {percent(metrics['accuracy'])}  (right; 95 % interval {intervals[0]})",
            f"  mean IoU     {percent(metrics['mean_iou'])}  (95 % interval {intervals[1]})",
            f"  Dice         {number(metrics['dice'])}  (mean over the classes)",
            f"  boundary F1  {number(metrics['boundary_f1'])}",
            f"  loss         {number(metrics['loss'])}",
        ]
    )


def _multi_label_text(metrics: Mapping[str, Any]) -> str:
    bounds = {key: metrics[f"{key}_interval"] for key in ("accuracy", "mean_ap")} | metrics["intervals"]
    fitted = metrics["thresholds"]["n"]
    rows = [
        ("mean AP", "mean_ap", "average precision, mean over the classes"),
        ("micro F1", "micro_f1", "over all images and classes"),
        ("macro F1", "macro_f1", "mean over the classes"),
        ("exact", "accuracy", "images whose classes are all correct"),
        ("loss", "loss", ""),
    ]
    lines = [f"{metrics['split']} split, {metrics['n']:,} images", f"{'':<25}95 % interval"]
    for label, key, note in rows:
        write = number if key == "loss" else percent
        interval = "–".join(write(bound).removesuffix(" %") for bound in bounds[key])
        lines.append(f"  {label:<12}{write(metrics[key]):>9}  {interval:<15}  {note}".rstrip())
    lines += [_own_metric(name, **one) for name, one in metrics.get("metrics", {}).items()]
    lines.append(
        f"  thresholds of the classes fitted on {fitted:,} validation images"
        if fitted
        else "  thresholds are 0.5: none were fitted on validation images"
    )
    return "\n".join([*lines, *([f"  {fall_text(metrics['own_test'])}"] if "own_test" in metrics else [])])


def _own_metric(name: str, value: float, interval: Sequence[float]) -> str:
    return f"  {name.split(':')[-1]:<12}{number(value):>9}  {'–'.join(number(bound) for bound in interval)}"


def _plain_text(metrics: Mapping[str, Any]) -> str:
    interval = interval_text(metrics["accuracy_interval"])
    others = {key: value for key, value in metrics.items() if isinstance(value, float) and key != "accuracy"}
    return "\n".join(
        [f"{metrics['split']} split, {metrics['n']:,} images"]
        + [f"  {'accuracy':<12}{percent(metrics['accuracy']):>9}  (95 % interval {interval})"]
        + [f"  {key.replace('_', ' '):<12}{number(value):>9}" for key, value in others.items()]
    )


TEXTS = {  # by the task's name
    "classification": _classification_text,
    "multilabel": _multi_label_text,
    "segmentation": _segmentation_text,
}


def _debiased(metrics: Mapping[str, Any]) -> str:
    return f"; {number(metrics['ece_debiased'])} debiased" if "ece_debiased" in metrics else ""


def _temperature(calibration: Mapping[str, Any]) -> str:
    heading = f"  {'temperature':<12}"
    if calibration["temperature"] is None:
        return f"{heading}{'–':>9}  {no_temperature(calibration['n'])}"
    after = calibration["after"]
    return (
        f"{heading}{number(calibration['temperature']):>9}  with it, loss {number(after['loss'])} and ECE"
        f" {number(after['ece'])}; fitted on {calibration['n']:,} validation images"
    )


def no_temperature(images: int) -> str:
    """Why none could be fitted."""
    return "every validation image is classified correctly" if images else "there is no validation split to fit it on"


def _views(views: Mapping[str, Any]) -> list[str]:
    bounds = interval_text(views["accuracy_interval"])
    words = f"with {views['views'].replace('_', ' and ')} views"
    return [
        f"  {words}  {percent(views['accuracy'])}  (95 % interval {bounds}), loss {number(views['loss'])}",
        *([f"  {views_text(views)}"] if "change" in views else []),  # a test.json of earlier has none
    ]


def views_text(views: Mapping[str, Any]) -> str:
    """What further views change, and whether the validation split (without one, this split) is against them."""
    here, validation = views["change"], views.get("validation")
    words = f"these views change the accuracy by {points_text(here['accuracy'])}"
    words += f" (95 % interval {points_interval(here['interval'])})"
    if validation:
        words += f", on the validation split by {points_text(validation['accuracy'])}"
    against = (validation or here)["interval"][1] < 0
    return f"{words}: leave them out (--views none)" if against else words


def points_text(change: float) -> str:
    return f"{100 * change:+.1f} points".replace("-", "−")


def points_interval(interval: Sequence[float]) -> str:
    return " to ".join(f"{100 * bound:+.1f}".replace("-", "−") for bound in interval)


def fall_text(own_test: Mapping[str, Any]) -> str:
    """How far the accuracy lies from that of the run's own test split, in words."""
    change, (low, high) = own_test["difference"], own_test["interval"]
    verb, size, bounds = ("falls", -change, (-high, -low)) if change <= 0 else ("rises", change, (low, high))
    joint = " to " if bounds[0] < 0 else "–"
    interval = joint.join(f"{100 * bound:.1f}".replace("-", "−") for bound in bounds)
    moves = f"{verb} by {100 * size:.1f} points" if size >= 5e-4 else "stays the same"
    return f"accuracy {moves} (95 % interval {interval}) from the run's own test split, {percent(own_test['accuracy'])}"


def comparison_table(runs: Sequence[ComparedRun]) -> Table:
    """Run, data and model where they differ, epochs, validation and test accuracy with its interval, time, images/s,
    and what is wrong with a run, where something is."""
    described = [(run.config.data.name, str(run.config.model["name"])) for run in runs]
    differing = [i for i in range(2) if len({words[i] for words in described}) > 1]
    words = [("run", "left"), *((("data", "model")[i], "left") for i in differing)]
    numbers = [(name, "right") for name in ("epochs", "val", "test", "95 % interval", "time", "images/s")]
    states = [("state", "left")] if any(run.state for run in runs) else []
    table = plain_table(*words, *states, *numbers)
    table.padding = (0, 2, 0, 0)
    name = table.columns[0]
    name.no_wrap, name.overflow, name.min_width = False, "fold", min(16, max(len(run.name) for run in runs))
    for run, kind in zip(runs, described, strict=True):
        rates = sorted(row["images_per_second"] for row in run.history)
        table.add_row(
            run.name,
            *(kind[i] for i in differing),
            *([run.state] if states else []),
            str(len(run.history)),
            percent(run.best.get("val_accuracy")),
            percent(run.test["accuracy"]) if run.test else "–",
            interval_text(run.test["accuracy_interval"]) if run.test else "–",
            duration(sum(row["seconds"] for row in run.history)),
            f"{rates[len(rates) // 2]:,.0f}",
        )
    return table


def print_whole(table: Table, fold: bool = True) -> None:
    """Print a table at the terminal's width, or wider where numbers (with `fold` false: names too) would be cut."""
    console = plain_console()
    for column in table.columns:
        if column.no_wrap:  # rich would take the longest word for the least width, and cut "98.21 %" to "98.21"
            column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    wanted = Measurement.get(console, console.options.update(width=1000), table)
    needed = wanted.minimum if fold else wanted.maximum
    console.width = max(console.width, needed)
    console.print(table)
