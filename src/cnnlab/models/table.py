"""A model's summary as a terminal shows it, and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cnnlab.models.summary import WHOLE, Extent, LayerRow, Summary


def facts(summary: Summary) -> dict[str, Any]:
    """What `cnnlab model NAME --json` prints."""
    layers = [dataclasses.asdict(row) | {"arithmetic": "; ".join(row.arithmetic)} for row in summary.layers]
    return {
        "input": summary.input,
        "parameters": summary.parameters,
        "trainable_parameters": summary.trainable_parameters,
        "multiply_adds": summary.multiply_adds,
        "receptive_field": summary.receptive_field,
        "activation_bytes": summary.activation_bytes,
        "parameter_bytes": summary.parameter_bytes,
        "layers": layers,
    }


def as_table(summary: Summary) -> Group:
    """Two lines a layer, so that nothing is cut off at 80 columns; the totals beneath."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("layer\n input → output", overflow="fold")
    rows = [_cells(row) for row in summary.layers]
    # Long names are folded; the arithmetic never is.
    widest = max((len(line) for cells in rows for line in cells[1].plain.split("\n")), default=0)
    table.add_column("kind\n arithmetic", no_wrap=True, min_width=widest)
    for heading in ("parameters\nmemory", "mult-adds", "field\njump"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    return Group(table, Text(""), Text(_totals(summary)))


def _cells(row: LayerRow) -> list[Text]:
    notes = [*row.arithmetic, *([f"weights of {row.shared_with}"] if row.shared else [])]
    memory = short_bytes(row.activation_bytes) if row.activation_bytes else "–"
    return [
        _stacked(row.name, f"{shape_text(row.input)} → {shape_text(row.output)}"),
        _stacked(row.kind, *notes),
        _stacked(f"{row.parameters:,}" if row.parameters else "–", memory, indent=""),
        Text(short_count(row.multiply_adds) if row.multiply_adds else "–"),
        _stacked(extent_text(row.receptive_field), extent_text(row.jump), indent=""),
    ]


def _stacked(first: str, *more: str, indent: str = " ") -> Text:
    return Text("\n").join([Text(first), *(Text(indent + line, style="dim") for line in more)])


def _totals(summary: Summary) -> str:
    trainable = "all" if summary.trainable_parameters == summary.parameters else f"{summary.trainable_parameters:,}"
    pixels = "the whole image" if summary.receptive_field == WHOLE else f"{extent_text(summary.receptive_field)} pixels"
    lines = [
        f"image            {shape_text(summary.input)}",
        f"parameters       {summary.parameters:,} ({trainable} trainable), {short_bytes(summary.parameter_bytes)}",
        f"multiply-adds    {summary.multiply_adds:,} for one image",
        f"receptive field  {pixels}{'' if summary.receptive_field == WHOLE else ' at the last feature map'}",
        f"activations      {short_bytes(summary.activation_bytes)} for one image in float32",
    ]
    if summary.idle_parameters:
        lines.insert(2, f"                 {summary.idle_parameters:,} of them in layers that did not run")
    return "\n".join(lines)


def shape_text(shape: tuple[int, ...] | None) -> str:
    """(16, 32, 32) → "16×32×32"."""
    return "×".join(map(str, shape)) if shape else "–"


def extent_text(extent: Extent) -> str:
    """7 → "7", (7, 5) → "7×5", None → "–"."""
    if isinstance(extent, tuple):
        return "×".join(extent_text(part) for part in extent)
    return "–" if extent is None else f"{extent:.3g}" if isinstance(extent, float) else str(extent)


def short_count(number: int) -> str:
    """1234 → "1.23 k", 40551040 → "40.6 M"."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + f" {unit}"
    return str(number)


def short_bytes(number: int) -> str:
    """65536 → "64 KiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:,.0f} {unit}"
    return f"{number} B"
