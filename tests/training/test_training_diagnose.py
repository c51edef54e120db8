"""A run that does not learn says so, and what it says to try helps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnnlab.config import compose
from cnnlab.experiment import run_experiment
from cnnlab.tracking.base import Event, Noted

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
    "an orthogonalised step far too long": ["optimizer=muon", "optimizer.lr=20"],
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
    assert fixed > 0.5, (said[-1], notes)
