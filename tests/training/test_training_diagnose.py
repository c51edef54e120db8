"""A run that does not learn says so, and what it says to try helps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from cnnlab.config import compose
from cnnlab.data.load import load_data
from cnnlab.experiment import run_experiment
from cnnlab.fitting import fit
from cnnlab.tracking.base import Event, Noted
from cnnlab.training.diagnose import Hint, Setup, as_arguments, diagnose, early_hint

DIGITS = ["data.limit=400", "data.val_fraction=0.3", "trainer.precision=fp32", "logger=none", "augment=none"]
MLP = [*DIGITS, "model=mlp", "model.hidden=[32]", "trainer.batch_size=20", "trainer.epochs=12", "optimizer.lr=0.05"]


class Heard:
    """What a training said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def log(self, event: Event) -> None:
        if isinstance(event, Noted):
            self.notes.append(event.text)

    def close(self) -> None:
        pass


def notes_of(words: list[str], folder: Path) -> tuple[list[str], float]:
    """What a training with these words says, and the best validation accuracy."""
    heard = Heard()
    run = run_experiment(compose([*words, f"run.dir={folder}"]), [heard], test=False)
    return heard.notes, max(row["val_accuracy"] for row in run.history)


def with_fix(words: list[str], fix: str) -> list[str]:
    """The words with those of the fix in their place."""
    fixed = [word.rstrip(",.") for word in re.findall(r"[a-z_]+\.[a-z_]+=\S+", fix)]
    keys = {word.partition("=")[0] for word in fixed}
    return [word for word in words if word.partition("=")[0] not in keys] + fixed


SPOILED = {
    "a rate far too high": ["optimizer.lr=50"],
    "a rate far too low": ["optimizer.lr=1e-7"],
    "an adaptive optimizer at the rate of another": ["optimizer=adam", "optimizer.lr=1000"],
    "two steps at a tiny rate": ["trainer.batch_size=200", "trainer.epochs=2", "optimizer.lr=1e-6"],
    "dropout": ["model.dropout=0.999"],
    "an adaptive step far too short": ["optimizer=adam", "optimizer.lr=1e-8"],
    "clipped gradients": ["trainer.grad_clip=1e-9"],
    "an orthogonalised step far too short": ["optimizer=muon", "optimizer.lr=1e-7"],
    "a class that counts alone": ["trainer.class_weights=[1,0,0,0,0,0,0,0,0,0]"],
    "one step": ["trainer.batch_size=400", "trainer.epochs=1", "optimizer.lr=0.01"],
    "smoothed to nothing": ["trainer.label_smoothing=0.999", "optimizer.lr=0.0005"],
    "few steps at a low rate": ["trainer.batch_size=200", "trainer.epochs=2", "optimizer.lr=0.005"],
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_run_at_chance_is_named_and_the_fix_works(fault: str, tmp_path: Path) -> None:
    words = with_fix(MLP, " ".join(SPOILED[fault])) + [w for w in SPOILED[fault] if "." not in w.partition("=")[0]]
    notes, accuracy = notes_of(words, tmp_path / "spoiled")
    assert accuracy < 0.25
    said = [note for note in notes if " Try " in note]
    assert said, "nothing was said"
    notes, fixed = notes_of(with_fix(words, said[-1].rpartition(" Try ")[2].rstrip(".")), tmp_path / "fixed")
    assert fixed > 0.4, (said[-1], notes)


@pytest.mark.parametrize(
    ("fix", "batches_of", "arguments"),
    [
        ("trainer.epochs=50", "fit", "epochs=50"),
        ("trainer.batch_size=8 trainer.epochs=50", "fit", "batch_size=8, epochs=50"),
        ("trainer.batch_size=8 trainer.epochs=50", "load_data", "load_data(…, batch_size=8), epochs=50"),
        ("trainer.batch_size=8 trainer.epochs=50", "DataLoader", "DataLoader(…, batch_size=8), epochs=50"),
        ("trainer.epochs=8, or a wider network", "fit", "epochs=8, or a wider network"),
        ("optimizer.lr=1e-05, and see", "fit", 'overrides=["optimizer.lr=1e-05"], and see'),
        ("trained weights (init.from=RUN)", "fit", 'trained weights (overrides=["init.from=RUN"])'),
        ("model.dropout=0.08", "load_data", "create_model(…, dropout=0.08)"),
        ("model.activation=relu", "load_data", 'create_model(…, activation="relu")'),
        ("augment=strong or more images", "load_data", 'load_data(…, augment="strong") or more images'),
        ("cnnlab data folder data.root=a --show", "fit", "cnnlab data folder data.root=a --show"),
    ],
)
def test_what_to_try_is_written_in_the_arguments_of_python(fix: str, batches_of: str, arguments: str) -> None:
    assert as_arguments(fix, batches_of) == arguments


class Flattened(nn.Sequential):
    """A network of a user's own."""

    def __init__(self, *last: nn.Module) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10), *last)


def test_fit_hints_at_its_own_arguments_and_the_key_of_the_command_line_stays_there(tmp_path: Path) -> None:
    heard, listener = Heard(), {"progress": False, "test": False}
    data = load_data("digits", limit=64, batch_size=32)
    fit(Flattened(), data, epochs=1, dir=tmp_path / "run", trackers=[heard], **listener)
    assert "Try load_data(…, batch_size=8), epochs=" in heard.notes[-1] and "trainer." not in heard.notes[-1]
    run_experiment(compose(["data.limit=64", "model=mlp", "trainer.epochs=1", f"run.dir={tmp_path / 'b'}"]), [heard])
    assert "trainer.epochs=" in heard.notes[-1]


def test_a_report_of_fit_hints_at_its_own_arguments(tmp_path: Path) -> None:
    data = load_data("digits", limit=64, batch_size=32)
    fit(Flattened(), data, epochs=1, dir=tmp_path / "run", progress=False)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "load_data(…, batch_size=8), epochs=" in page


@pytest.mark.parametrize(
    ("last", "said"),
    [((nn.Softmax(1),), True), ((), False), ((nn.LogSoftmax(1),), False), ((nn.ReLU(),), False)],
)
def test_a_softmax_at_the_end_of_a_network_of_ones_own_is_seen(
    last: tuple[nn.Module, ...], said: bool, tmp_path: Path
) -> None:
    heard = Heard()
    data = load_data("digits", limit=40)
    fit(Flattened(*last), data, epochs=1, dir=tmp_path / "run", trackers=[heard], progress=False, test=False)
    assert any("leave out the softmax" in note for note in heard.notes) == said


def test_probabilities_are_right_for_a_loss_of_ones_own(tmp_path: Path) -> None:
    heard = Heard()
    loss = {"loss": lambda answers, labels: nn.functional.nll_loss(answers.log(), labels)}
    data = load_data("digits", limit=40)
    fit(Flattened(nn.Softmax(1)), data, epochs=1, dir=tmp_path, trackers=[heard], progress=False, test=False, **loss)
    assert not any("softmax" in note for note in heard.notes)


def row(epoch: int, train: float, val: float, train_loss: float, val_loss: float, steps: int = 50) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "step": steps * epoch,
        "train_accuracy": train,
        "val_accuracy": val,
        "train_loss": train_loss,
        "val_loss": val_loss,
    }


def setup(*words: str, counts: tuple[int, ...] = (50, 50), val: tuple[int, ...] = (20, 20)) -> Setup:
    return Setup(compose(["trainer.epochs=8", "trainer.batch_size=16", *words]), counts, val, 50)


def kinds(history: list[dict[str, Any]], of: Setup) -> list[str]:
    return [hint.kind for hint in diagnose(history, of)]


def test_a_sound_run_is_told_nothing() -> None:
    assert kinds([row(e, 0.5 + e / 20, 0.5 + e / 25, 0.7 - e / 20, 0.7 - e / 30) for e in range(1, 9)], setup()) == []


def test_a_loss_below_that_of_the_shares_is_learning_though_the_accuracy_is_not_above_chance_yet() -> None:
    lopsided = setup("trainer.epochs=80", counts=(14, 43, 14), val=(2, 6, 2))  # the loss of its shares: 0.93
    for loss, warned in ((0.75, False), (0.92, True)):
        history = [row(e, 0.61, 0.6, loss, 1.0, steps=9) for e in range(1, 21)]
        assert (early_hint(history, lopsided) is not None) == warned
    weighted = setup("trainer.epochs=80", "trainer.class_weights=balanced", counts=(14, 43, 14), val=(2, 6, 2))
    assert early_hint([row(e, 0.61, 0.6, 0.75, 1.0, steps=9) for e in range(1, 21)], weighted) is not None


def test_after_few_steps_nothing_is_blamed_but_them() -> None:
    """A network without batch norm or an average: its validation loss is that of chance, and not beyond it."""
    (hint,) = diagnose([row(e, 0.68, 0.5, 0.66, 0.77, steps=10) for e in range(1, 9)], setup())
    assert hint.kind == "few_steps" and "only 80 steps" in hint.text and "batch norm" not in hint.text
    (hint,) = diagnose([row(e, 0.9, 0.5, 0.3, 9.0, steps=10) for e in range(1, 9)], setup())
    assert "batch norm" in hint.text


def test_two_uneven_classes_are_advised_as_many_are() -> None:
    (hint,) = diagnose([row(e, 0.9, 0.9, 0.3, 0.3) for e in range(1, 9)], setup(counts=(90, 10), val=(36, 4)))
    assert "far from equally frequent" in hint.text and "class_weights=balanced" in hint.fix


def test_overfitting_and_divergence_are_told_apart() -> None:
    heart = [row(e, 0.99, 0.75, 0.01, 0.9) for e in range(1, 9)]
    assert kinds(heart, setup()) == ["overfit"]
    assert "augment=strong" in str(diagnose(heart, setup())[0])
    lagging = [row(e, 0.95, 0.5, 0.1, 3841.0, steps=1) for e in range(1, 9)]
    (hint,) = diagnose(lagging, setup(counts=(84, 84)))
    assert hint.kind == "diverged"
    assert "trainer.epochs=" in hint.fix


def test_classes_of_unequal_size_are_judged_by_the_most_common_one() -> None:
    lazy = [row(e, 0.9, 0.9, 0.3, 0.3) for e in range(1, 9)]
    (hint,) = diagnose(lazy, setup(counts=(90, 10), val=(36, 4)))
    assert hint.kind == "chance"
    assert "90.0 %" in hint.text
    assert kinds(lazy, setup()) == []


def test_a_run_without_validation_is_judged_by_its_training() -> None:
    blind = [row(e, 0.5, 0.5, 0.7, 0.7) | {"val_accuracy": None, "val_loss": None} for e in range(1, 9)]
    assert kinds(blind, setup(val=(0, 0))) == ["chance"]


def test_a_long_run_is_warned_once_and_early() -> None:
    history = [row(e, 0.5, 0.5, 0.7, 0.7) for e in range(1, 101)]
    long = setup("trainer.epochs=100")
    warned = [n for n in range(1, 101) if early_hint(history[:n], long)]
    assert warned == [25]
    assert all(early_hint([row(e, 0.7, 0.7, 0.5, 0.5) for e in range(1, n)], long) is None for n in (10, 25, 26, 99))


def test_a_run_on_photographs_of_one_step_per_epoch_is_told_to_take_more(tmp_path: Path) -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    for name in ("a", "b", "c"):
        (tmp_path / "noise" / name).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "noise" / name / f"{number}.png")
    words = ["data=folder", f"data.root={tmp_path / 'noise'}", "trainer.batch_size=60", "trainer.epochs=2"]
    notes, _ = notes_of([*words, "model.depth=8", "optimizer=sgd", "trainer.precision=fp32"], tmp_path / "run")
    assert any("trainer.batch_size=8" in note for note in notes), notes


def test_a_hint_reads_as_a_sentence_with_a_fix() -> None:
    assert str(Hint("chance", "It does not learn.", "optimizer.lr=0.1")) == "It does not learn. Try optimizer.lr=0.1."
