"""The JSONL file is the truth, TensorBoard can be read, and no listener stops a run."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cnnlab.cli import main
from cnnlab.errors import ConfigError
from cnnlab.runs.opened import opened_run
from cnnlab.runs.weights import load_run
from cnnlab.tracking import base
from cnnlab.tracking.base import EpochEnded, Gradient, Noted, Started, Stepped, Trackers
from cnnlab.tracking.console import ConsoleTracker, DecodeBar, duration
from cnnlab.tracking.tensorboard import TensorBoardTracker
from cnnlab.tracking.wandb import WandbTracker

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from conftest import CommandLine

KEYS = [
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "seconds",
    "images_per_second",
    "gradient_norm",
]


def row(epoch: int, **changes: Any) -> dict[str, Any]:
    values = [epoch, 10 * epoch, 0.1 / epoch, 2.0 / epoch, 0.5, 2.5 / epoch, 0.25, 1.5, 1234.0, 0.7]
    return dict(zip(KEYS, values, strict=True)) | changes


def started(epoch: int = 0) -> Started:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    return Started("runs/x", {"data": "digits"}, {"seed": 0}, 3, epoch, 10, (images, ["1", "2", "3", "4"]))


# ---- metrics.jsonl


def test_every_line_has_the_fixed_keys_in_their_order(finished_run: Path) -> None:
    lines = (finished_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    for number, line in enumerate(lines, 1):
        values = json.loads(line)
        assert list(values) == KEYS
        assert (values["epoch"], values["step"]) == (number, 10 * number)
        assert 0 <= values["train_accuracy"] <= 1
        assert 0 <= values["val_accuracy"] <= 1
        assert values["seconds"] > 0
        assert values["images_per_second"] > 0
        assert values["gradient_norm"] > 0


# ---- TensorBoard


def read_events(folder: Path) -> EventAccumulator:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    return events


def test_tensorboard_shows_what_metrics_jsonl_says(finished_run: Path) -> None:
    events = read_events(finished_run / "tensorboard")
    rows = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = {"loss/train": "train_loss", "loss/val": "val_loss", "accuracy/train": "train_accuracy"}
    names |= {"accuracy/val": "val_accuracy", "lr": "lr", "images_per_second": "images_per_second"}
    names |= {"gradient_norm": "gradient_norm"}
    for tag, key in names.items():
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [1, 2, 3, 4], tag
        assert [scalar.value for scalar in scalars] == pytest.approx([line[key] for line in rows], rel=1e-6), tag
    test = json.loads((finished_run / "test.json").read_text(encoding="utf-8"))
    assert events.Scalars("accuracy/test")[0].value == pytest.approx(test["accuracy"])


def test_tensorboard_shows_a_batch_of_training_images(finished_run: Path) -> None:
    (image,) = read_events(finished_run / "tensorboard").Images("sample batch")[:1]
    opened = Image.open(io.BytesIO(image.encoded_image_string))
    assert opened.width * opened.height >= 20 * 8 * 8
    assert np.asarray(opened).std() > 10  # digits, not a grey plate


def test_tensorboard_shows_the_gradients_that_were_asked_for(finished_run: Path) -> None:
    tags = {
        tag for tag in read_events(finished_run / "tensorboard").Tags()["scalars"] if tag.startswith("gradient_norm/")
    }
    assert "gradient_norm/head" in tags
    assert len(tags) == 9  # four convolutions, their norms, the head


def test_the_values_of_a_layers_gradient_are_a_histogram_of_their_norm(finished_run: Path) -> None:
    events = read_events(finished_run / "tensorboard")
    norms = {tag.partition("/")[2] for tag in events.Tags()["scalars"] if tag.startswith("gradient_norm/")}
    assert set(events.Tags()["histograms"]) == {f"gradients/{name}" for name in norms}
    (last,) = [event.histogram_value for event in events.Histograms("gradients/head")]  # of which one is kept
    assert last.num == 8 * 10 + 10  # weights and biases
    assert last.sum_squares**0.5 == pytest.approx(events.Scalars("gradient_norm/head")[-1].value)


def test_nothing_is_shown_of_gradients_that_were_not_asked_for(
    command: CommandLine, tmp_path: Path, tiny: Sequence[str]
) -> None:
    assert command("train", *tiny, "trainer.epochs=1", f"run.dir={tmp_path / 'run'}").code == 0
    tags = read_events(tmp_path / "run" / "tensorboard").Tags()["scalars"]
    assert "loss/train" in tags
    assert not [tag for tag in tags if tag.startswith("gradient_norm/")]


def test_without_tensorboard_there_is_no_folder(command: CommandLine, tmp_path: Path, tiny: Sequence[str]) -> None:
    words = ["logger.tensorboard=false", "trainer.epochs=1", f"run.dir={tmp_path / 'run'}"]
    assert command("train", *tiny, *words).code == 0
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_resumed_run_hides_what_it_repeats(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path)
    first.log(started())
    for epoch in (1, 2):
        first.log(EpochEnded(row(epoch, train_loss=9.0), True))
    first.close()
    time.sleep(1.1)  # the names of the two files begin with the second; of one second they need not stand in order
    second = TensorBoardTracker(tmp_path)
    second.log(started(epoch=1))
    for epoch in (2, 3):
        second.log(EpochEnded(row(epoch), False, {"head": Gradient(2.0, [1.0], [0.0, 1.0])}))
    second.log(base.Tested({"accuracy": 0.5}, "model"))
    second.close()
    scalars = read_events(tmp_path).Scalars("loss/train")
    assert [(scalar.step, scalar.value) for scalar in scalars] == [
        (1, 9.0),
        (2, 1.0),
        (3, pytest.approx(2 / 3)),
    ]


def test_an_epoch_without_validation_is_shown_without_it(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.log(started())
    tracker.log(EpochEnded(row(1, val_loss=None, val_accuracy=None), True))
    tracker.close()
    assert set(read_events(tmp_path).Tags()["scalars"]) >= {"loss/train", "accuracy/train"}
    assert "loss/val" not in read_events(tmp_path).Tags()["scalars"]


def test_a_tracker_that_heard_nothing_can_be_closed(tmp_path: Path) -> None:
    TensorBoardTracker(tmp_path / "tensorboard").close()
    assert not (tmp_path / "tensorboard").exists()


# ---- listeners that fail


class Deaf:
    """Fails at every event, or only at the end."""

    def __init__(self, at: str) -> None:
        self.at, self.calls = at, 0

    def log(self, event: object) -> None:
        self.calls += 1
        if self.at == "log":
            raise RuntimeError("no room\nfor this")

    def close(self) -> None:
        if self.at == "close":
            raise RuntimeError("cannot close")


class Ear:
    def __init__(self) -> None:
        self.heard: list[object] = []
        self.closed = 0

    def log(self, event: object) -> None:
        self.heard.append(event)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("at", ["log", "close"])
def test_a_listener_that_fails_is_dropped_and_the_others_hear_on(at: str, capsys: pytest.CaptureFixture[str]) -> None:
    deaf, before, after = Deaf(at), Ear(), Ear()
    trackers = Trackers([before, deaf, after])
    for _ in range(3):
        trackers.log(Noted("text"))
    trackers.close()
    assert len(before.heard) == len(after.heard) == 3
    assert before.closed == after.closed == 1
    assert deaf.calls == (1 if at == "log" else 3)
    assert capsys.readouterr().err.count("warning: Deaf failed") == 1


def test_a_listener_that_does_not_come_back_is_left_behind(capsys: pytest.CaptureFixture[str]) -> None:
    class Slow(Ear):
        patience = 0.2

        def log(self, event: object) -> None:
            super().log(event)
            time.sleep(60)

    slow, after = Slow(), Ear()
    trackers = Trackers([slow, after])
    began = time.monotonic()
    for _ in range(3):
        trackers.log(Noted("text"))
    trackers.close()
    assert time.monotonic() - began < 2
    assert (len(slow.heard), slow.closed, len(after.heard), after.closed) == (1, 0, 3, 1)
    assert capsys.readouterr().err == "warning: Slow failed and is off from here on: no answer in 0.2 s\n"


def test_a_listener_with_patience_is_heard_in_order_in_one_thread() -> None:
    class Patient(Ear):
        patience = 60.0

        def log(self, event: object) -> None:
            super().log((threading.current_thread(), event))

    patient = Patient()
    trackers = Trackers([patient])
    for number in range(20):
        trackers.log(Noted(str(number)))
    trackers.close()
    assert [event.text for _, event in patient.heard] == [str(number) for number in range(20)]  # type: ignore[misc]
    assert len({thread for thread, _ in patient.heard}) == 1  # type: ignore[misc]
    assert patient.closed == 1


def test_a_listener_that_fails_does_not_stop_training(tmp_path: Path) -> None:
    import cnnlab

    data = cnnlab.load_data("digits", limit=40, batch_size=20, augment="none")
    model = cnnlab.create_model("mlp", hidden=[4], image_size=8)
    run = cnnlab.fit(model, data, epochs=2, dir=tmp_path / "run", overrides=["logger=none"], trackers=[Deaf("log")])
    assert len(run.history) == 2
    assert run.test is not None


def test_a_tensorboard_folder_that_cannot_be_written_does_not_stop_training(
    command: CommandLine, finished_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for name in ("report.html", "test.json"):
        (run / name).unlink()
    shutil.rmtree(run / "tensorboard")
    (run / "tensorboard").write_text("a file where the folder should be")
    result = command("resume", run)
    assert result.code == 0, result.err
    assert "TensorBoardTracker failed" in result.err
    assert (run / "report.html").exists()


# ---- console


def shown(*events: Any, terminal: bool = False) -> str:
    page = io.StringIO()
    tracker = ConsoleTracker(Console(file=page, force_terminal=terminal, width=120, highlight=False, soft_wrap=True))
    for event in events:
        tracker.log(event)
    tracker.close()
    return page.getvalue()


def test_outside_a_terminal_each_epoch_is_one_plain_line() -> None:
    page = shown(started(), Stepped(0, 1, 2.0, 0.1, 100.0), EpochEnded(row(1), True), EpochEnded(row(2), False))
    assert "\x1b" not in page
    lines = page.splitlines()
    assert lines[0] == "runs/x"
    assert len(lines) == 5
    assert lines[-2].split() == ["1/3", "2.0000", "50.00", "%", "2.5000", "25.00", "%", "0.1", "1,234", "0:00", "best"]
    assert "best" not in lines[-1]


def test_in_a_terminal_a_bar_shows_loss_accuracy_speed_and_time_left() -> None:
    page = shown(started(), Stepped(0, 5, 1.2345, 0.5, 9876.0), terminal=True)
    for words in ("epoch 1/3", "loss 1.2345", "accuracy 50.00 %", "9,876 images/s", "left"):
        assert words in page


def test_an_epoch_without_validation_shows_a_dash() -> None:
    assert shown(started(), EpochEnded(row(1, val_loss=None, val_accuracy=None), True)).count("–") == 2


def test_square_brackets_are_text() -> None:
    assert "[red]x[/] [/nothing]" in shown(started(), Noted("[red]x[/] [/nothing]", warning=True))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (75, "1:15"), (59.6, "1:00"), (4000, "1:06:40"), (-5, "0:00"), (360000, "100:00:00")],
)
def test_durations_read_as_clocks(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ---- Weights & Biases


def test_without_the_package_wandb_is_refused_with_the_fix(
    tmp_path: Path, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"cnnlab\[wandb\]"):
        WandbTracker(tmp_path, "project", "offline")
    assert main(["train", *tiny, "logger.wandb=true", f"run.dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "cnnlab[wandb]" in error
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_wandb_works_offline_and_tells_runs_of_one_name_apart(
    command: CommandLine, tmp_path: Path, tiny: Sequence[str]
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    files = []
    for place in ("one", "two"):
        folder = tmp_path / place / "run #1: ü"
        words = ["logger.wandb=true", "logger.wandb_mode=offline", "logger.gradients=true", f"run.dir={folder}"]
        result = command("train", *tiny, *words)
        assert result.code == 0, result.err
        assert "failed and is off" not in result.err
        files += (folder / "wandb").rglob("*.wandb")
    assert len({file.name for file in files}) == 2  # the name of the file holds the run's id


def records(file: Path) -> Iterator[Any]:
    """What a .wandb file holds: records of protocol buffers in blocks, as LevelDB writes its log."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # no room for a header: the rest of the block is empty
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def artifacts(folder: Path) -> list[Any]:
    found = [record for file in sorted((folder / "wandb").rglob("*.wandb")) for record in records(file)]
    kinds = [record.request.log_artifact.artifact for record in found if record.request.HasField("log_artifact")]
    return kinds + [record.artifact for record in found if record.HasField("artifact")]


def rebuild(artifact: Any, folder: Path) -> Path:
    """What W&B would give back: each file of the artifact under its name, from where it is staged."""
    for entry in artifact.manifest.contents:
        file = folder / entry.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(Path(entry.local_path).read_bytes())
    return folder


def test_the_artifact_of_wandb_is_a_run_that_can_be_tested_and_resumed(
    command: CommandLine, tmp_path: Path, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    folder, place = tmp_path / "run", {"WANDB_DATA_DIR": str(tmp_path / "staged")}
    words = [*tiny, "trainer.epochs=25", "trainer.checkpoint_minutes=0", "logger=wandb", "logger.wandb_mode=offline"]
    running = command.start("train", *words, f"run.dir={folder}", environment=place)
    assert running.wait_until(lambda: (folder / "metrics.jsonl").exists())
    running.send(signal.SIGTERM)
    assert running.wait().code == 130
    (interrupted,) = artifacts(folder)
    assert set(interrupted.aliases) == {"interrupted", "latest"}

    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path / "cache"))
    asked: list[tuple[str, str | None]] = []

    def download(name: str, to: Path, known: str | None) -> str:
        asked.append((name, known))
        if known != "1":
            rebuild(interrupted, to)
        return "1"

    monkeypatch.setattr("cnnlab.runs.artifact.download", download)  # the one call that needs W&B's servers
    address = "wandb:me/cnnlab/model-run:interrupted"
    _, card = load_run(address)
    assert card["epoch"] >= 1
    with opened_run(address, whole=True) as copy:
        pass
    assert asked == [("me/cnnlab/model-run:interrupted", None), ("me/cnnlab/model-run:interrupted", "1")]
    result = command("resume", copy, environment=place)
    assert result.code == 0, result.err
    (finished,) = artifacts(copy)
    assert set(finished.aliases) == {"best", "latest"}
    assert json.loads((copy / "wandb.json").read_text()) == json.loads((folder / "wandb.json").read_text())
    whole = rebuild(finished, tmp_path / "rebuilt")
    assert not (whole / "last").exists()  # a finished run needs no state
    assert {"config.yaml", "split.json", "environment.json", "report.html"} <= {file.name for file in whole.iterdir()}
    assert load_run(whole)[1] == json.loads((copy / "best" / "model.json").read_text())
    # The folder of the offline run stands for the run folder around it.
    (offline,) = (copy / "wandb").glob("offline-run-*")
    with opened_run(f"wandb:{offline}") as folder:
        assert folder == copy


def test_a_wrong_name_of_an_artifact_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path / "cache"))

    def refuse(name: str, folder: Path, known: str | None) -> str:
        raise ValueError("project 'cnnlab' not found\nunder entity 'me'")

    monkeypatch.setattr("cnnlab.runs.artifact.download", refuse)
    (tmp_path / "elsewhere" / "offline-run-1").mkdir(parents=True)
    for address, message in (
        ("wandb:me/model:best", "ENTITY/PROJECT/ARTIFACT:ALIAS"),
        ("wandb:me/cnnlab/model", "ENTITY/PROJECT/ARTIFACT:ALIAS"),
        ("wandb:me/cnnlab/model:best", "project 'cnnlab' not found under entity 'me'"),
        (f"wandb:{tmp_path}/elsewhere/offline-run-1", "wandb sync"),
    ):
        assert main(["test", address]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


def test_what_is_decoded_later_has_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with DecodeBar() as bar:
        bar.update(5, 5)
        assert bar.progress is None
        bar.update(1, 3)
        assert bar.progress is not None
        assert (bar.progress.tasks[0].completed, bar.progress.tasks[0].total) == (1, 3)
