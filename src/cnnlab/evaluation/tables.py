"""Figures as a terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cnnlab.evaluation.compare import ComparedRun
from cnnlab.tracking.console import number, percent


def interval_text(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{100 * low:.2f}–{100 * high:.2f} %"


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
    for heading, justify in columns:
        table.add_column(heading, justify="left" if justify == "left" else "right", no_wrap=True)
    return table


def result_table(history: Sequence[Mapping[str, Any]], best_epoch: int, test: Mapping[str, Any] | None) -> Table:
    """What a training ends with: the best epoch on validation, and the test."""
    headings = [(name, "right") for name in ("loss", "accuracy", "95 % interval", "pictures")]
    table = _table(("", "left"), *headings)
    row = next(row for row in history if row["epoch"] == best_epoch)
    table.add_row(f"validation, epoch {best_epoch}", number(row["val_loss"]), percent(row["val_accuracy"]), "", "")
    if test is not None:
        interval = interval_text(test["accuracy_interval"])
        table.add_row("test", number(test["loss"]), percent(test["accuracy"]), interval, f"{test['n']:,}")
    return table


def figures_text(figures: Mapping[str, Any]) -> str:
    """What `cnnlab test` prints."""
    interval = interval_text(figures["accuracy_interval"])
    return "\n".join(
        [
            f"{figures['split']} split, {figures['n']:,} pictures",
            f"  accuracy   {percent(figures['accuracy'])}  (95 % interval {interval})",
            f"  top-5      {percent(figures['top5_accuracy'])}",
            f"  macro F1   {number(figures['macro_f1'])}",
            f"  loss       {number(figures['loss'])}",
            f"  ECE        {number(figures['ece'])}  (expected calibration error, 15 bins)",
        ]
    )


def comparison_table(runs: Sequence[ComparedRun]) -> Table:
    """Run, model, epochs, validation and test accuracy with its interval, seconds, images/s."""
    words = [(name, "left") for name in ("run", "data", "model")]
    figures = [(name, "right") for name in ("epochs", "val", "test", "95 % interval", "time", "images/s")]
    table = _table(*words, *figures)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for run in runs:
        rates = sorted(row["images_per_second"] for row in run.history)
        table.add_row(
            run.name,
            run.config.data.name,
            str(run.config.model["name"]),
            str(len(run.history)),
            percent(run.best.get("val_accuracy")),
            percent(run.test["accuracy"]) if run.test else "–",
            interval_text(run.test["accuracy_interval"]) if run.test else "–",
            f"{sum(row['seconds'] for row in run.history):,.0f} s",
            f"{rates[len(rates) // 2]:,.0f}",
        )
    return table
