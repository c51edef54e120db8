"""What a person sees in a notebook: a bar, the metrics so far and a live curve, in one output cell."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Sequence
from typing import Any

from cnnlab.representation import as_html
from cnnlab.tracking.base import EpochEnded, Event, Noted, Started, Stepped, Tested, Tracker
from cnnlab.tracking.console import ConsoleTracker, duration, number, percent

SHOWN = 6  # epochs in the table, the last ones
WIDTH, HEIGHT, EDGE = 320, 130, 26  # of a chart, in CSS pixels
TRAIN, VALIDATION = "#4c78a8", "#f58518"


def progress_tracker() -> Tracker:
    """The notebook's where this runs in one, else the terminal's."""
    return NotebookTracker() if in_notebook() else ConsoleTracker()


def in_notebook() -> bool:
    """Whether outputs are shown as HTML: Jupyter, VS Code, Colab; not IPython in a terminal."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return hasattr(shell, "kernel")


class NotebookTracker:
    """One cell's output that is replaced a few times a second; what stays is plain HTML, wherever it is kept."""

    def __init__(self, display: Any = None) -> None:
        """`display`: as `IPython.display.display`."""
        self._display = display
        self._handle: Any = None
        self.started: Started | None = None
        self.step: Stepped | None = None
        self.rows: list[dict[str, Any]] = []
        self.best = 0
        self.notes: list[str] = []
        self.began = time.monotonic()
        self.tested = ""

    def log(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started, self.began = event, time.monotonic()
        elif isinstance(event, Stepped):
            self.step = event
        elif isinstance(event, EpochEnded):
            self.rows.append(event.row)
            self.step = None
            self.best = event.row["epoch"] if event.best else self.best
        elif isinstance(event, Noted):
            self.notes.append(event.text)
        elif isinstance(event, Tested):
            self.tested = percent(event.summary.get("accuracy"))
        self._show()

    def close(self) -> None:
        self.step = None
        self._show()

    def _show(self) -> None:
        page = _Output(self.page())
        if self._handle is None:
            if self._display is None:
                from IPython.display import display

                self._display = display
            self._handle = self._display(page, display_id=True)
        else:
            self._handle.update(page)

    def page(self) -> str:
        """The whole output as HTML."""
        parts = []
        if self.started is not None:
            parts += [as_html(self.started.title, self.started.facts), self._bar()]
        parts += [f'<div style="color:#b36b00">{html.escape(note)}</div>' for note in self.notes]
        if self.rows:
            parts.append(curves(self.rows))
            parts.append(table(self.rows[-SHOWN:], self.best))
        if self.tested:
            parts.append(f"<div>test accuracy <b>{html.escape(self.tested)}</b></div>")
        return f"<div>{''.join(parts)}</div>"

    def _bar(self) -> str:
        assert self.started is not None
        inside = self.step.step / self.started.steps_per_epoch if self.step else 0.0
        done = (self.rows[-1]["epoch"] if self.rows else self.started.epoch) + inside
        fraction = min(1.0, done / self.started.epochs)
        here = max(1e-9, done - self.started.epoch)
        left = (time.monotonic() - self.began) / here * (self.started.epochs - done)
        words = f"epoch {min(self.started.epochs, int(done) + (fraction < 1))} of {self.started.epochs}"
        if self.step:
            words += f", loss {number(self.step.loss)}, {self.step.images_per_second:,.0f} images/s"
        words += f", {duration(left)} left" if fraction < 1 and done > self.started.epoch else ""
        return (
            '<div style="display:flex;align-items:center;gap:8px;margin:4px 0">'
            '<div style="width:240px;height:10px;border:1px solid #8888;border-radius:5px;overflow:hidden">'
            f'<div style="width:{100 * fraction:.1f}%;height:100%;background:{TRAIN}"></div></div>'
            f"<span>{html.escape(words)}</span></div>"
        )


class _Output:
    def __init__(self, page: str) -> None:
        self.page = page

    def _repr_html_(self) -> str:
        return self.page

    def __repr__(self) -> str:
        return "training"  # for front ends without HTML


def table(rows: Sequence[dict[str, Any]], best: int) -> str:
    """The epochs as a table, the best one in bold."""
    titles = ("epoch", "train loss", "accuracy", "val loss", "accuracy", "rate", "images/s")
    lines = ["<tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>"]
    for row in rows:
        cells = (
            f"{row['epoch']}{' best' if row['epoch'] == best else ''}",
            number(row["train_loss"]),
            percent(row["train_accuracy"]),
            number(row["val_loss"]),
            percent(row["val_accuracy"]),
            f"{row['lr']:.3g}",
            f"{row['images_per_second']:,.0f}",
        )
        weight = ' style="font-weight:bold"' if row["epoch"] == best else ""
        lines.append(f"<tr{weight}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def curves(rows: Sequence[dict[str, Any]]) -> str:
    """Loss and accuracy over the epochs, training and validation, as two small SVG charts side by side."""
    charts = [chart(rows, name) for name in ("loss", "accuracy")]
    key = (
        f'<div style="font-size:11px"><span style="color:{TRAIN}">■</span> training '
        f'<span style="color:{VALIDATION}">■</span> validation</div>'
    )
    return f'<div style="display:flex;gap:12px;flex-wrap:wrap">{"".join(charts)}</div>{key}'


def chart(rows: Sequence[dict[str, Any]], name: str) -> str:
    """One chart of `train_<name>` and `val_<name>`; numbers that are none leave a gap at their place."""
    lines = {f"train_{name}": TRAIN, f"val_{name}": VALIDATION}
    values = [row[key] for row in rows for key in lines if is_number(row.get(key))]
    if not values:
        return ""
    low, high = (0.0, 1.0) if name == "accuracy" else (min(0.0, *values), max(*values, 1e-9))
    first, last = rows[0]["epoch"], max(rows[-1]["epoch"], rows[0]["epoch"] + 1)

    def place(epoch: float, value: float) -> str:
        x = EDGE + (WIDTH - EDGE - 6) * (epoch - first) / (last - first)
        y = 16 + (HEIGHT - 34) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    drawn = []
    for key, colour in lines.items():
        points = [place(row["epoch"], row[key]) for row in rows if is_number(row.get(key))]
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(points)}"/>')
        drawn += [f'<circle r="2" fill="{colour}" cx="{p.split(",")[0]}" cy="{p.split(",")[1]}"/>' for p in points[-1:]]
    scale = [f"{100 * v:.0f} %" if name == "accuracy" else f"{v:.3g}" for v in (low, high)]
    bottom, top = (float(place(first, v).split(",")[1]) for v in (low, high))
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="9" fill="currentColor"'
        ' font-family="sans-serif">'
        f'<path d="M{EDGE} {top} V{bottom} H{WIDTH - 6}" fill="none" stroke="#8888"/>'
        f'<text x="{EDGE - 3}" y="{top + 3}" text-anchor="end">{scale[1]}</text>'
        f'<text x="{EDGE - 3}" y="{bottom}" text-anchor="end">{scale[0]}</text>'
        f'<text x="{EDGE}" y="9">{name}</text><text x="{WIDTH - 6}" y="{HEIGHT - 4}" text-anchor="end">'
        f"epoch {rows[-1]['epoch']}</text>{''.join(drawn)}</svg>"
    )


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")
