"""The learning-rate range test (Smith 2017, Cyclical Learning Rates, section 3.3).

One short training whose rate grows geometrically from step to step, with the same step as any other training: the same
optimizer, augmentation, precision. The loss stays where it is while the rate is too low, falls where it is good, and
rises where it is too high. The network is thrown away; what is left is rates.csv, rate_range.png and report.html.
"""

from __future__ import annotations

import itertools
import math
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cnnlab.config import Config
from cnnlab.data.build import build_data
from cnnlab.data.recommend import compose_for_set
from cnnlab.device import choose_device
from cnnlab.errors import ConfigError, NonFiniteLoss
from cnnlab.runs.environment import describe, processor_name
from cnnlab.runs.files import refuse_links, write_whole
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.opened import opened_source
from cnnlab.runs.source import network_of
from cnnlab.study.definition import Rates, define
from cnnlab.study.rate_page import plot_png, render
from cnnlab.study.rate_result import LAST, RateRange, judge, smooth
from cnnlab.training.build import build_model, import_code, initialise
from cnnlab.training.precision import prepare_process
from cnnlab.training.trainer import Trainer

FEWEST, MOST = 100, 400  # steps, where nobody says how many
DIVERGED = 4.0  # times the lowest loss so far

Progress = Callable[[int, int], None]


def find_learning_rate(
    *words: str,
    progress: Progress | None = None,
    decoding: Progress | None = None,
    command: Sequence[str] = (),
    config_dir: str | None = None,
    trust_code: bool = False,
) -> RateRange:
    """Run a learning-rate range test and write rates.csv, rate_range.png and report.html.

    Args:
        words: as on the command line after `cnnlab study learning_rate_range`: data=…, model=…, optimizer=…,
            study.low, study.high, study.steps, study.dir.
        progress: is told the steps done and their number.
        decoding: is told the images decoded and their number.
        command: what was called, for the report.
        config_dir: folder of your own options, recipes and experiments; None: ./conf where there is one.
        trust_code: let files name code to run; else only the command line may.

    Raises:
        ConfigError: an unknown key or value, or a configuration in which nothing learns.
    """
    named = bool(words) and "=" not in words[0]
    definition = define(
        words if named else ["learning_rate_range", *words], config_dir=config_dir, trust_code=trust_code
    )
    if definition.rates is None:
        raise ConfigError(f"the study {definition.name} is no range test; call cnnlab.run_study.")
    try:
        config = compose_for_set(definition.overrides, config_dir, trust_code=trust_code, network_of=network_of)
    except ConfigError as error:
        raise ConfigError(f"{definition.name}: {error}") from None
    if config.adapt.method == "batch_norm":
        raise ConfigError("adapt.method=batch_norm learns nothing, so no learning rate can be found for it.")
    refuse_links(definition.folder)
    with opened_source(config.init.source) as source:
        rates, losses, diverged = measure(config, definition.rates, source, progress, decoding)
    smoothed = smooth(rates, losses)
    steepest, minimum = judge(rates, smoothed)
    name = str(config.optimizer["name"])
    model = str(config.model["name"]).replace(":", "-")
    folder = definition.folder if definition.dir else definition.folder / f"{config.data.name}-{model}-{name}".lower()
    found = RateRange(definition, folder, rates, losses, smoothed, steepest, minimum, diverged, name)
    write(found, command or ["cnnlab", "study", *words], config)
    return found


def geometric(low: float, high: float, steps: int) -> list[float]:
    """`steps` rates from low to high, each the same factor above the one before."""
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


class RangeTrainer(Trainer):
    """Trains as any other, at the rate that the test gives each step."""

    rates: Sequence[float] = ()

    def rate_factor(self) -> float:
        return self.rates[self.state.step] / float(self.optimizer.defaults["lr"])


def measure(
    config: Config,
    wanted: Rates,
    source: str | None,
    progress: Progress | None = None,
    decoding: Progress | None = None,
) -> tuple[list[float], list[float], bool]:
    """The rates and losses of the steps up to where the loss diverges, if it does, and whether it did."""
    prepare_process(config.trainer)
    import_code(config)
    data = build_data(config, choose_device(config.trainer.device), decoding or _nobody)
    model = build_model(config, data, trust_code=True)
    initialise(model, config, data, source)
    with tempfile.TemporaryDirectory(prefix="cnnlab-range-") as folder:  # a diverging training saves its last state
        trainer = RangeTrainer(model, data, config, RunFolder(Path(folder)))
        steps = wanted.steps or min(MOST, max(FEWEST, trainer.steps_per_epoch))
        trainer.rates = geometric(wanted.low, wanted.high, steps)
        trainer.total_steps = steps
        losses: list[float] = []
        diverged = False
        try:
            for loss in itertools.islice(_losses(trainer), steps):
                losses.append(loss)
                (progress or _nobody)(len(losses), steps)
                if has_diverged(losses):
                    diverged = True
                    break
        except NonFiniteLoss:
            diverged = True
    if len(losses) < 2:
        raise ConfigError(f"the loss is not finite at the lowest rate, {wanted.low:g}; lower study.low.")
    return list(trainer.rates[: len(losses)]), losses, diverged


def _nobody(done: int, total: int) -> None:
    """Is told how far it is, where nobody is."""


def _losses(trainer: RangeTrainer) -> Iterator[float]:
    """The loss of each step, epoch after epoch."""
    while True:
        total, count = trainer.state.sums.loss.item(), trainer.state.sums.count
        for _ in trainer.train_epoch():
            now, seen = trainer.state.sums.loss.item(), trainer.state.sums.count
            yield (now - total) / (seen - count)
            total, count = now, seen
        trainer.state.epoch += 1
        trainer.state.batch = 0


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the last losses lie far above the lowest that as many had before, or are no numbers."""
    if not math.isfinite(losses[-1]):
        return True
    if len(losses) < 2 * LAST:
        return False
    means = np.convolve(losses, np.full(LAST, 1 / LAST), "valid")
    return bool(means[-1] > DIVERGED * means.min())


def write(found: RateRange, command: Sequence[str], config: Config) -> None:
    """rates.csv, rate_range.png and report.html."""
    lines = ["step,rate,loss,smoothed"]
    columns = zip(found.rates, found.losses, found.smoothed, strict=True)
    lines += [f"{step},{rate:.6g},{loss:.6g},{mean:.6g}" for step, (rate, loss, mean) in enumerate(columns, 1)]
    write_whole(found.dir / "rates.csv", "\n".join(lines) + "\n")
    write_whole(found.dir / "rate_range.png", plot_png(found))
    machine = describe()
    facts = [
        ("data", f"{config.data.name}, batches of {config.trainer.batch_size}"),
        ("model", str(config.model["name"])),
        ("optimizer", found.optimizer),
        ("machine", f"{processor_name(machine['machine'])}, {machine['machine']['cores']} cores"),
        ("versions", ", ".join(f"{name} {machine['versions'][name]}" for name in ("cnnlab", "torch"))),
    ]
    write_whole(found.dir / "report.html", render(found, facts, shlex.join(command)))
