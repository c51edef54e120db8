"""What a training's curves say is wrong, and what to try: a run that learns nothing must not look like a good one."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from cnnlab.config import Config, options, read_shipped, resource
from cnnlab.data.batches import BatchLoader
from cnnlab.data.data import Data
from cnnlab.data.notes import look_command
from cnnlab.data.own import OWN_SET
from cnnlab.training.selection import TOO_FEW

Row = Mapping[str, Any]  # a line of metrics.jsonl

FEW_STEPS = 200  # below them hardly anything is learned from scratch
FAR = 3.0  # a learning rate so many times above the usual one is probably the fault, and so many times 10 below it
LITTLE = 0.1  # of the way from chance level to 100 %: less is hardly anything learned
WORD = r"(?:trainer|optimizer|model|init|augment)(?:\.\w+)?=[^\s,)]+"  # a setting in what a hint says to try
APART = 0.15  # accuracy on training images above that on validation images that is called overfitting


@dataclass(frozen=True)
class Hint:
    """What is wrong with a run, in a sentence, and what to try."""

    kind: str  # chance | diverged | few_steps | overfit | underfit
    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.text} Try {self.fix}."


@dataclass(frozen=True)
class Setup:
    """What a training starts from, as far as the curves must be judged by it.

    Attributes:
        counts: training images of each class.
        val_counts: the same of the validation split.
        steps: of the optimizer in each epoch.
        images: of the training split; 0: as many as the counts say, one class per image.
        random_ap: of a multi-label set the mean average precision of a ranking by chance, else None.
        batches_of: what makes the batches of a run of `cnnlab.fit`: "fit", "load_data" or "DataLoader"; "" for any
            other run, whose hints name keys.
    """

    config: Config
    counts: Sequence[float]
    val_counts: Sequence[float]
    steps: int
    random_ap: float | None = None
    batches_of: str = ""
    images: int = 0

    @classmethod
    def of(cls, data: Data, config: Config, by_fit: bool = False) -> Setup:
        """`by_fit`: the run is one of `cnnlab.fit`."""
        counts, val_counts = (class_counts(data, part) for part in ("train", "val"))
        batches_of = ""
        if by_fit:
            own = isinstance(data.train, BatchLoader) and isinstance(data.train.source, DataLoader)
            batches_of = "DataLoader" if own else "fit" if config.data.name == OWN_SET else "load_data"
        steps = max(1, len(data.train) // config.trainer.accumulate)
        return cls(config, counts, val_counts, steps, ranking_by_chance(data, counts), batches_of, data.train.count)


def ranking_by_chance(data: Data, counts: Sequence[float]) -> float | None:
    """Mean average precision of a random order; 0 where only the user's own code knows the labels."""
    if not data.multi_label:
        return None
    return 0.0 if data.in_batches else sum(counts) / len(counts) / max(1, data.train.count)


def class_counts(data: Data, part: str) -> list[float]:
    """Images of each class in a split; taken for equal where only the user's own code knows the labels."""
    classes = len(data.images.classes)
    if data.in_batches:
        return [len(data.split[part]) / classes] * classes
    return data.images.class_counts(data.split[part]).tolist()


def diagnose(history: Sequence[Row], setup: Setup) -> list[Hint]:
    """Hints for a training with these rows; none where nothing is wrong. Whether it goes on does not matter."""
    hints = _hints(history, setup)
    if setup.batches_of:
        hints = [dataclasses.replace(hint, fix=as_arguments(hint.fix, setup.batches_of)) for hint in hints]
    return hints


def as_arguments(fix: str, batches_of: str) -> str:
    """What to try in the arguments of Python: "trainer.epochs=9 trainer.ema=null" → 'epochs=9, overrides=[…]'.

    Args:
        batches_of: see `Setup`.
    """

    def written(words: re.Match[str]) -> str:
        found, overrides = [], []
        for key, _, value in (word.partition("=") for word in words[0].split()):
            section, _, name = key.partition(".")
            text = value if re.fullmatch(r"[-+\d.e]+", value) else f'"{value}"'
            if key == "trainer.epochs":
                found.append(f"epochs={text}")
            elif key == "trainer.batch_size":
                found.append(f"batch_size={text}" if batches_of == "fit" else f"{batches_of}(…, batch_size={text})")
            elif key == "augment":
                found.append(f"load_data(…, augment={text})")
            elif section == "model":
                found.append(f"create_model(…, {name}={text})")
            else:
                overrides.append(f'"{key}={value}"')
        return ", ".join([*found, *([f"overrides=[{', '.join(overrides)}]"] if overrides else [])])

    return re.sub(rf"\b{WORD}(?: {WORD})*", written, fix)


def _hints(history: Sequence[Row], setup: Setup) -> list[Hint]:
    if not history or setup.config.adapt.method == "batch_norm":
        return []
    if setup.random_ap is not None:
        return _diagnose_ranking(history, setup, setup.random_ap)
    last = history[-1]
    validated = last["val_accuracy"] is not None
    pairs = [(last["train_accuracy"], setup.counts)]
    if validated:
        pairs.append((max(row["val_accuracy"] for row in history), setup.val_counts))
    if not any(_learned(accuracy, counts) for accuracy, counts in pairs):
        better = "hardly" if any(_above_chance(accuracy, counts) for accuracy, counts in pairs) else "no"
        share = f"{100 * max(setup.counts) / sum(setup.counts):.1f} % of the images"
        text = f"The network is {better} better than always predicting the most common class ({share})"
        return [_cause_of_chance(text, history, setup)]
    hints = []
    if validated and _learned(*pairs[0]) and (hint := _apart(history, setup)):
        hints.append(hint)
    finished = len(history) >= setup.config.trainer.epochs
    if finished and not hints and (hint := _too_short(history, setup)):
        hints.append(hint)
    return hints


def _diagnose_ranking(history: Sequence[Row], setup: Setup, by_chance: float) -> list[Hint]:
    """The same for a multi-label training, whose images with all classes right may stay few for long."""
    known = [row["val_mean_ap"] for row in history if row.get("val_mean_ap") is not None]
    finished = len(history) >= setup.config.trainer.epochs
    if known and max(known) < by_chance + LITTLE * (1 - by_chance):
        values = f"mean average precision {100 * max(known):.1f} %, chance level {100 * by_chance:.1f} %"
        text = f"The network hardly ranks images better than chance ({values})"
        return [_cause_of_chance(text, history, setup)]
    hint = _too_short(history, setup) if finished else None
    return [hint] if hint else []


def early_hint(history: Sequence[Row], setup: Setup) -> Hint | None:
    """A hint for a training that goes on, once: where it should be above chance level, and is not."""
    epochs, done = setup.config.trainer.epochs, len(history)

    def due(epoch: int) -> bool:
        return epoch >= epochs / 2 or (epoch >= epochs / 4 and epoch * setup.steps >= FEW_STEPS)

    if done >= epochs or not due(done) or (done > 1 and due(done - 1)):
        return None
    if setup.random_ap is not None:
        return next((hint for hint in diagnose(history, setup) if hint.kind == "chance"), None)
    best = max(row["val_accuracy"] or 0.0 for row in history)
    validates = _above_chance(best, setup.val_counts) or history[-1]["val_accuracy"] is None
    if _above_chance(history[-1]["train_accuracy"], setup.counts) and validates:
        return None  # it has begun to learn
    if _knows_more_than_shares(history[-1]["train_loss"], setup):
        return None  # where one class is frequent, the loss tells it before the accuracy does
    return next((hint for hint in diagnose(history, setup) if hint.kind in ("chance", "diverged")), None)


def _knows_more_than_shares(loss: float, setup: Setup) -> bool:
    """Whether a cross-entropy is a tenth below that of answering each class by its share of the images."""
    trainer, augment = setup.config.trainer, setup.config.augment
    other = trainer.label_smoothing or trainer.class_weights is not None or trainer.balanced_sampling
    if trainer.loss != "cross_entropy" or other or augment.mixup or augment.cutmix:
        return False
    shares = [count / max(1, sum(setup.counts)) for count in setup.counts]
    return loss < 0.9 * -sum(share * math.log(share) for share in shares if share)


def _above_chance(accuracy: float, counts: Sequence[float]) -> bool:
    """Whether an accuracy on images of these classes is above that of the most common answer, beyond its noise.

    One-sided test at 5 %, by the normal approximation.
    """
    n = max(1, sum(counts))
    share = max(counts, default=0) / n
    return accuracy > share + 1.645 * math.sqrt(share * (1 - share) / n)


def _learned(accuracy: float, counts: Sequence[float]) -> bool:
    """Whether it is above chance by more than a tenth of what there is to gain."""
    share = max(counts, default=0) / max(1, sum(counts))
    return _above_chance(accuracy, counts) and accuracy - share > LITTLE * (1 - share)


def _cause_of_chance(text: str, history: Sequence[Row], setup: Setup) -> Hint:
    """The likeliest cause: first what the settings say, then what the curves do."""
    config, steps = setup.config, history[-1]["step"]
    for wrong, why, fix in _wrong_settings(setup):
        if wrong:
            return Hint("chance", f"{text}: {why}.", fix)
    if steps < FEW_STEPS:
        return _more_steps("chance", f"{text}: it has taken only {_steps(steps)}.", setup)
    uneven = max(setup.counts) / sum(setup.counts) > 1.5 / len(setup.counts)
    if uneven and config.trainer.class_weights is None and not config.trainer.balanced_sampling:
        why = "the classes are far from equally frequent"
        return Hint("chance", f"{text}: {why}.", "trainer.class_weights=balanced, and judge by the mean class accuracy")
    first, last = (history[i]["train_loss"] for i in (0, -1))
    lower = f"optimizer.lr={float(config.optimizer.get('lr') or usual_rate(config) or 0.01) / 10:g}"
    if last > 1.2 * math.log(max(2, len(setup.counts))) or (len(history) > 1 and last > first):
        return Hint("chance", f"{text}: its training loss does not fall ({first:.2f} to {last:.2f}).", lower)
    return Hint("chance", f"{text}.", f"{lower}, and check that images and labels match{_look(config)}")


def _look(config: Config, *more: str) -> str:
    """The command that shows a set; nothing for one that only the user's code knows."""
    if config.data.name not in options("data"):
        return ""
    return ": " + look_command(config.data, *more, "--show")


def _wrong_settings(setup: Setup) -> Iterator[tuple[bool, str, str]]:
    """(whether it is so, why nothing is learned then, the fix) of settings that a network cannot learn with."""
    config, trainer = setup.config, setup.config.trainer
    frozen = config.init.freeze not in ("none", 0) and config.init.source is None
    why = "init.freeze keeps random weights, as init.from loads none"
    yield frozen and config.model["name"] != "pretrained", why, "init.freeze=none, or init.from=RUN"
    strength = {
        "trainer.label_smoothing": (trainer.label_smoothing, 0.5),
        "optimizer.weight_decay": (config.optimizer.get("weight_decay"), 0.5),
        "model.dropout": (config.model.get("dropout"), 0.8),
    }
    for key, (value, most) in strength.items():
        yield (
            isinstance(value, int | float) and value > most,
            f"{key}={value} leaves little to learn from",
            f"{key}={most / 10:g}",
        )
    clip = trainer.grad_clip
    why = f"trainer.grad_clip={clip} clips nearly all of a gradient"
    yield clip is not None and clip < 0.01, why, "trainer.grad_clip=1"
    weights = trainer.class_weights
    lopsided = isinstance(weights, Sequence) and not isinstance(weights, str) and max(weights) > 100 * min(weights)
    yield lopsided, "trainer.class_weights gives some classes hardly any weight", "trainer.class_weights=null"
    rate, usual = float(config.optimizer.get("lr") or 0), usual_rate(config)
    if rate and usual is not None:
        use = f"optimizer.lr={usual:g}"
        yield rate < usual / (10 * FAR), f"the learning rate {rate:g} is very low", use
        yield rate > FAR * usual, f"the learning rate {rate:g} is very high", use
    sigmoid = str(config.model.get("activation", "")).lower() == "sigmoid"
    yield sigmoid, "gradients vanish in networks of sigmoid units", "model.activation=relu"


def _apart(history: Sequence[Row], setup: Setup) -> Hint | None:
    """Training images are learned, and validation images are not, or less and less."""
    config, last = setup.config, history[-1]
    n = max(1, sum(setup.val_counts))
    if n < TOO_FEW:
        return None  # so few say nothing of it
    uniform = math.log(max(2, len(setup.counts)))
    gap = last["train_accuracy"] - last["val_accuracy"]
    error = math.sqrt(max(last["val_accuracy"] * (1 - last["val_accuracy"]), 0.25 / n) / n)
    if not _above_chance(last["val_accuracy"], setup.val_counts):
        seen = (
            f"{100 * last['train_accuracy']:.0f} % of the training images are classified correctly, and the"
            " validation images no better than by chance"
        )
        if last["val_loss"] > 2 * uniform:
            text = (
                f"{seen}, at a loss of {last['val_loss']:.3g}: after {_steps(last['step'])} the statistics of batch"
                " norm, or the average of the weights, lag behind the weights."
            )
            return _more_steps("diverged", text, setup)
        if last["step"] < FEW_STEPS:
            return _more_steps("few_steps", f"{seen}: it has taken only {_steps(last['step'])}.", setup)
        text = f"{seen}: the two splits differ, or the network memorizes the training images."
        return Hint("diverged", text, f"more images, and check both splits{_look(config, '--check')}")
    if gap <= max(APART, 1.96 * error):
        return None
    text = (
        f"Overfitting: {100 * last['train_accuracy']:.0f} % of the training images are classified correctly, and"
        f" {100 * last['val_accuracy']:.0f} % of the validation images."
    )
    augments = config.data.name in options("data") and config.augment.name != "strong"
    unmirrored = config.augment.flip == "none"
    if setup.batches_of and unmirrored:
        augments = False  # load_data takes the name of an augmentation, and the strong one mirrors
    ways = ["augment=strong" + " augment.flip=none" * unmirrored] if augments else []
    ways += ["more images", "trained weights (init.from=RUN)"]
    return Hint("overfit", text, " or ".join(ways))


def _too_short(history: Sequence[Row], setup: Setup) -> Hint | None:
    """The training ended before it had learned what it could."""
    last = history[-1]
    if last["step"] < FEW_STEPS and last["train_accuracy"] < 0.9:
        return _more_steps("few_steps", f"The run took only {_steps(last['step'])} in all.", setup)
    late = [row for row in history if row["epoch"] > 0.8 * len(history)]
    falls = len(late) > 1 and late[-1]["train_loss"] < 0.95 * late[0]["train_loss"]
    mixed = setup.config.augment.mixup or setup.config.augment.cutmix or setup.config.trainer.label_smoothing
    if last["train_accuracy"] < 0.8 and falls and not mixed:
        text = f"Underfitting: the training loss was still falling at the end ({last['train_loss']:.2f})."
        return Hint("underfit", text, f"trainer.epochs={2 * setup.config.trainer.epochs}, or a wider network")
    return None


def _steps(count: int) -> str:
    return f"{count} step{'s' if count != 1 else ''}"


def _more_steps(kind: str, text: str, setup: Setup) -> Hint:
    trainer, images = setup.config.trainer, setup.images or round(sum(setup.counts))
    batch = min(trainer.batch_size, max(8, 1 << max(0, (images // 10).bit_length() - 1)))
    epochs = max(trainer.epochs, -(-5 * FEW_STEPS // max(1, images // batch)))
    smaller = f"trainer.batch_size={batch} " if batch != trainer.batch_size else ""
    return Hint(kind, text, f"{smaller}trainer.epochs={epochs}")


def usual_rate(config: Config) -> float | None:
    """The learning rate of the optimizer's own option; None for a class of torch.optim that has none."""
    for option in options("optimizer"):
        content = read_shipped(resource("optimizer", option))
        if content.get("name") == config.optimizer.get("name"):
            return float(content["lr"])
    return None
