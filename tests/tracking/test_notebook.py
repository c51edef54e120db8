"""What a notebook shows: one output that is replaced, escaped, with a bar, a curve and a table; and short reprs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from torch import nn

import cnnlab
from cnnlab.data.preprocess import Preprocess
from cnnlab.device import choose_device
from cnnlab.tracking.base import EpochEnded, Noted, Started, Stepped, Tested
from cnnlab.tracking.console import ConsoleTracker
from cnnlab.tracking.notebook import NotebookTracker, chart, in_notebook, progress_tracker

NASTY = "<script>alert(1)</script>"


class Cell:
    """Stands for the output of a cell: what `IPython.display.display` is called with."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.made = 0

    def display(self, output: Any, display_id: bool) -> Cell:
        assert display_id
        self.made += 1
        self.update(output)
        return self

    def update(self, output: Any) -> None:
        self.shown.append(output._repr_html_())


def row(epoch: int, **more: float | None) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train_loss": 2.0 / epoch,
        "train_accuracy": 0.5,
        "val_loss": 1.0,
        "val_accuracy": 0.4,
        "lr": 0.1,
        "images_per_second": 1000.0,
    } | more


def test_one_output_follows_the_training() -> None:
    cell = Cell()
    tracker = NotebookTracker(cell.display)
    tracker.log(Started(f"runs/{NASTY}", {"data": NASTY}, {}, epochs=4, epoch=0, steps_per_epoch=10))
    tracker.log(Stepped(0, 5, 1.25, 0.5, 1234.0))
    assert "epoch 1 of 4, loss 1.2500, 1,234 images/s" in cell.shown[-1]
    assert "width:12.5%" in cell.shown[-1]
    for epoch in range(1, 5):
        tracker.log(EpochEnded(row(epoch), best=epoch == 2))
    tracker.log(Noted(NASTY, warning=True))
    tracker.log(Tested({"accuracy": 0.987}, "weights"))
    tracker.close()
    page = cell.shown[-1]
    assert cell.made == 1
    assert NASTY not in page
    assert page.count("&lt;script&gt;") == 3
    assert "98.70 %" in page
    assert "2 best" in page
    assert "width:100.0%" in page
    assert page.count("<svg") == 2


def test_a_resumed_training_starts_its_bar_where_it_is() -> None:
    tracker = NotebookTracker(Cell().display)
    tracker.log(Started("run", {}, {}, epochs=4, epoch=3, steps_per_epoch=10))
    assert "width:75.0%" in tracker.page()


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 1e30])
def test_a_chart_is_drawn_whatever_the_metrics_are(value: float | None) -> None:
    drawn = chart([row(1), row(2, val_loss=value), row(3)], "loss")
    ElementTree.fromstring(drawn)
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_a_chart_of_nothing_is_empty() -> None:
    assert chart([row(1, train_loss=None, val_loss=None)], "loss") == ""


def test_curves_go_down_where_the_loss_does() -> None:
    points = re.search(r'points="([^"]+)"', chart([row(1), row(2), row(4)], "loss"))
    assert points is not None
    heights = [float(point.split(",")[1]) for point in points[1].split()]
    assert heights == sorted(heights)  # y of SVG grows downwards
    assert len(heights) == 3


def test_the_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    assert in_notebook()
    assert isinstance(progress_tracker(), NotebookTracker)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not in_notebook()
    assert isinstance(progress_tracker(), ConsoleTracker)


def test_fit_shows_what_train_shows_unless_it_is_told_not_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = cnnlab.load_data("digits", limit=40, batch_size=20)
    for name, progress in (("shown", True), ("silent", False)):
        model = cnnlab.create_model("mlp", hidden=[4], image_size=8)
        cnnlab.fit(model, data, epochs=1, dir=tmp_path / name, overrides=["logger=none"], progress=progress)
        printed = capsys.readouterr().out
        assert ("train loss" in printed and "1/1" in printed) if progress else printed == ""


def test_what_a_person_meets_shows_itself_in_a_few_lines_and_escaped(tmp_path: Path) -> None:
    data = cnnlab.load_data("digits", limit=40)
    data.images.classes = [NASTY, *data.classes[1:]]
    run = cnnlab.Run(tmp_path / NASTY, [row(1), row(2)], {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]})
    preprocess = Preprocess.from_dict(data.preprocess.to_dict())
    predictor = cnnlab.Predictor(nn.Flatten(), data.classes, preprocess, choose_device("cpu"))
    study = cnnlab.Study(SimpleNamespace(title=NASTY, axes={"a": 1}), tmp_path, [], [], {})  # type: ignore[arg-type]
    for thing in (data, data.train, data.val, run, predictor, study, cnnlab.datasets.Digits()):
        assert 2 <= len(repr(thing).splitlines()) <= 6, repr(thing)
        assert len(repr(thing)) < 1000
        page = thing._repr_html_()  # type: ignore[attr-defined]
        assert "<table" in page
        assert "<script" not in page


def test_dir_shows_the_public_names_alone() -> None:
    assert dir(cnnlab) == sorted(cnnlab.__all__)
    assert not [name for name in dir(cnnlab) if name.startswith("_")]
