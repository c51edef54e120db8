"""The image and the page of a learning-rate range test."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Sequence

from cnnlab.report import charts, marks
from cnnlab.report.charts import Scale
from cnnlab.report.formatting import number
from cnnlab.study.page import template
from cnnlab.study.rate_result import RateRange

WIDE, TALL = 720.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 704.0, 44.0, 286.0
ABOVE = 1.25  # times the first loss: as high as the axis shows what shoots up


def shown_losses(found: RateRange) -> tuple[float, float]:
    """What the axis shows: from the lowest loss to a little above the first ones."""
    low = min(min(found.smoothed), *(loss for loss in found.losses if math.isfinite(loss)))
    return low, max(ABOVE * found.smoothed[0], low + 1e-6)


def named_rates(found: RateRange) -> list[tuple[float, str]]:
    """The rates that the image names, from the left."""
    named = [(found.steepest, "steepest descent:"), (found.suggested, "minimum / 10:"), (found.minimum, "minimum:")]
    return sorted((rate, f"{name} {rate:.2g}") for rate, name in named if rate is not None)


def plot_png(found: RateRange) -> bytes:
    """The losses over the rates as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(found.rates, found.losses, ".", color="C0", alpha=0.35, markersize=4, label="loss of a step")
    axis.plot(found.rates, found.smoothed, color="C0", linewidth=2, label="smoothed")
    for place, (rate, name) in enumerate(named_rates(found)):
        colour = ("C2", "C1", "C3")[place]
        style = "-" if rate == found.suggested else "--"
        axis.axvline(rate, color=colour, linestyle=style, linewidth=1.4, label=name)
    low, high = shown_losses(found)
    axis.set_ylim(low - 0.05 * (high - low), high)
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    axis.set_title(f"Learning-rate range test, {found.optimizer}", loc="left", fontsize=11)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=9, loc="best")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def chart(found: RateRange) -> str:
    """The losses over the rates as SVG, with the rates that the test suggests."""
    low, high = shown_losses(found)
    y, ticks = charts.linear_axis([low, high], BOTTOM, TOP)
    ends = found.definition.rates
    assert ends is not None
    x = Scale(ends.low, ends.high, LEFT, RIGHT, log=True)
    title = f"Training loss over the learning rate: {' '.join(found.sentences())}"
    parts = [
        f'<clipPath id="area">{marks.rectangle("", LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP)}</clipPath>',
        *(charts.horizontal_line(y(tick), number(tick), LEFT, RIGHT) for tick in ticks),
    ]
    powers = range(math.ceil(math.log10(ends.low) - 1e-9), math.floor(math.log10(ends.high) + 1e-9) + 1)
    parts += [charts.vertical_tick(x(10.0**power), f"{10.0**power:g}", BOTTOM) for power in powers]
    parts.append(marks.text("tick", (LEFT + RIGHT) / 2, BOTTOM + 36, "learning rate", "middle"))
    parts.append('<g clip-path="url(#area)">')
    for step, (rate, loss) in enumerate(zip(found.rates, found.losses, strict=True), 1):
        if math.isfinite(loss) and loss <= y.high:
            tip = f"step {step}: rate {rate:.2g}, loss {number(loss)}"
            parts.append(marks.circle("step c0", x(rate), y(loss), 2.5, tip))
    points = [(x(rate), y(loss)) for rate, loss in zip(found.rates, found.smoothed, strict=True)]
    parts.append(f"{marks.polyline('curve c0', points)}</g>")
    for line, (rate, name) in enumerate(named_rates(found)):
        kind = "chosen" if rate == found.suggested else "named"
        height = TOP - 4 - 14 * (2 - line)
        anchor = "end" if x(rate) > RIGHT - 120 else "start"
        aside = -5 if anchor == "end" else 5
        parts.append(marks.down(kind, x(rate), height - 8, BOTTOM))
        parts.append(marks.text("legend", x(rate) + aside, height + 2, name, anchor))
    return marks.svg(parts, WIDE, TALL, title, "chart wide")


def render(found: RateRange, facts: Sequence[tuple[str, str]], command: str) -> str:
    """The page as one string of HTML that asks nothing of the network."""
    ended = f"ended by the loss after {len(found.rates)} steps" if found.diverged else f"{len(found.rates)} steps"
    page = template("rate_range.html.j2").render(
        title=found.definition.title or "Learning-rate range test",
        about=found.definition.about,
        facts=[*facts, ("steps", ended)],
        suggested="" if found.suggested is None else f"{found.suggested:.2g}",
        steepest="" if found.steepest is None else f"{found.steepest:.2g}",
        minimum="" if found.minimum is None else f"{found.minimum:.2g}",
        sentences=found.sentences(),
        chart=chart(found),
        train=shlex.join(found.command),
        command=command,
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")
