"""A run that is stopped, killed or fought over ends as if nothing had happened. Real processes, real signals."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from cnnlab.runs.state import load_state

if TYPE_CHECKING:
    from conftest import CommandLine, Running

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

# Everything that draws numbers or has a memory: dropout, augmentation, momentum, average, accumulation.
RUN = [
    "data.limit=120",
    "trainer.epochs=5",
    "trainer.batch_size=10",
    "trainer.accumulate=2",
    "trainer.ema=0.9",
    "trainer.checkpoint_minutes=0",
    "trainer.precision=fp32",
    "model.width=4",
    "model.dropout=0.3",
    "augment=strong",
    "logger.gradients=true",
]
TIMES = ("seconds", "images_per_second")


def train(command: CommandLine, folder: Path, *more: str) -> Running:
    return command.start("train", *RUN, *more, f"run.dir={folder}")


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def assert_same_run(folder: Path, unbroken: Path) -> None:
    assert rows(folder) == rows(unbroken)
    for name in ("best/model.safetensors", "best/model.json", "test.json", "predictions.csv"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name
    ours, theirs = (load_state(path / "last" / "state.pt") for path in (folder, unbroken))
    for part in ("model", "average"):
        for key, value in ours[part].items():
            assert torch.equal(value, theirs[part][key]), key
    assert (folder / "report.html").exists()


def unfinish(run: Path, folder: Path) -> Path:
    """A copy of a finished run as a kill before the test would have left it."""
    shutil.copytree(run, folder)
    for name in ("test.json", "predictions.csv", "report.html"):
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def unbroken(command: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    result = train(command, folder).wait()
    assert result.code == 0, result.err
    assert len(rows(folder)) == 5
    return folder


def test_the_same_command_gives_the_same_run(command: CommandLine, unbroken: Path, tmp_path: Path) -> None:
    assert train(command, tmp_path / "run").wait().code == 0
    assert_same_run(tmp_path / "run", unbroken)


# ---- interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_exits_130_and_goes_on_as_if_it_had_not_been(
    number: signal.Signals, command: CommandLine, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    running = train(command, folder)
    assert running.wait_until(lambda: (folder / "metrics.jsonl").exists())
    running.send(number)
    result = running.wait()
    assert result.code == 130
    assert f"cnnlab resume {folder}" in result.err
    assert "Traceback" not in result.err
    counters = load_state(folder / "last" / "state.pt")["counters"]
    assert counters["batch"] > 0  # in the middle of an epoch
    assert not (folder / "test.json").exists()

    result = command("resume", folder)
    assert result.code == 0, result.err
    assert_same_run(folder, unbroken)


def test_a_run_interrupted_again_and_again_ends_the_same(command: CommandLine, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    running = train(command, folder)
    for _ in range(4):
        state = folder / "last" / "state.pt"
        before = state.stat().st_mtime_ns if state.exists() else 0
        running.wait_until(
            lambda state=state, before=before: (
                (folder / "config.yaml").exists() and state.exists() and state.stat().st_mtime_ns > before
            )
        )
        running.send(signal.SIGINT)
        if running.wait().code == 0:
            break
        running = command.start("resume", folder)
    assert running.wait().code == 0
    assert_same_run(folder, unbroken)


def test_a_finished_run_says_so_and_stays_as_it_is(command: CommandLine, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = command("resume", folder)
    assert result.code == 0
    assert "finished" in result.out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# ---- killed


def test_a_run_killed_at_any_moment_ends_the_same(command: CommandLine, unbroken: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    assert train(command, tmp_path / "timed").wait().code == 0
    whole = time.monotonic() - began
    moments = random.Random(0)
    kills = 0
    for attempt in range(5):
        folder = tmp_path / f"run{attempt}"
        running = train(command, folder)
        for _ in range(2):
            time.sleep(moments.uniform(0.05, 1) * whole)
            running.send(signal.SIGKILL)
            if running.wait().code == -signal.SIGKILL:
                kills += 1
            else:
                whole *= 0.6  # it was timed while the machine was busy, and is done before the kill now
            if not (folder / "config.yaml").exists():
                running = train(command, folder)
            else:
                running = command.start("resume", folder)
        result = running.wait()
        assert result.code == 0, result.err
        assert_same_run(folder, unbroken)
    assert kills >= 2


def test_a_run_without_its_state_is_not_begun_anew_in_silence(
    command: CommandLine, unbroken: Path, tmp_path: Path
) -> None:
    """The first state is saved before config.yaml: whoever lost it has lost the weights that the run began with."""
    folder = unfinish(unbroken, tmp_path / "run")
    shutil.rmtree(folder / "last")
    before = sorted(folder.rglob("*"))
    result = command("resume", folder)
    assert result.code == 2
    assert "state.pt is missing, and with it the weights of this run" in one_line(result)
    assert sorted(folder.rglob("*")) == before


def test_a_run_killed_before_its_config_was_written_can_be_started_again(
    command: CommandLine, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("environment.json", "split.json", ".lock"):
        shutil.copy(unbroken / name, folder / name)
    (folder / ".config.yaml.4711.tmp").write_bytes(b"see")
    result = train(command, folder).wait()
    assert result.code == 0, result.err
    assert_same_run(folder, unbroken)


def test_a_run_killed_between_the_state_and_the_metrics_gets_its_last_line_back(
    command: CommandLine, unbroken: Path, tmp_path: Path
) -> None:
    folder = unfinish(unbroken, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    result = command("resume", folder)
    assert result.code == 0, result.err
    assert_same_run(folder, unbroken)


def test_a_run_killed_after_its_test_writes_the_report(command: CommandLine, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / "report.html").unlink()
    assert command("resume", folder).code == 0
    assert_same_run(folder, unbroken)


# ---- refused


def one_line(result: Any) -> str:
    assert result.code == 2, result.err
    assert len(result.error_lines) == 1, result.err
    return str(result.error_lines[0])


def test_a_second_process_is_kept_out_of_a_run_in_progress(command: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = train(command, folder, "trainer.epochs=100000")
    assert first.wait_until(lambda: (folder / "metrics.jsonl").exists())
    assert "another process" in one_line(command("resume", folder))
    assert "already holds a run" in one_line(train(command, folder).wait())
    first.send(signal.SIGINT)
    assert first.wait().code == 130


def test_of_two_that_start_in_one_folder_one_trains(command: CommandLine, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    both = [train(command, folder) for _ in range(2)]
    results = sorted((running.wait() for running in both), key=lambda result: result.code)
    assert [result.code for result in results] == [0, 2]
    one_line(results[1])
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_state_is_refused(share: float, command: CommandLine, unbroken: Path, tmp_path: Path) -> None:
    folder = unfinish(unbroken, tmp_path / "run")
    state = folder / "last" / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[: int(share * len(whole))])
    assert "state.pt" in one_line(command("resume", folder))


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch '{self.mark}'",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_that_holds_a_program_is_refused_and_not_run(
    zipped: bool, command: CommandLine, unbroken: Path, tmp_path: Path
) -> None:
    folder, mark = unfinish(unbroken, tmp_path / "run"), tmp_path / "exploded"
    state = folder / "last" / "state.pt"
    if zipped:
        torch.save(load_state(state) | {"bomb": Bomb(mark)}, state)
    else:
        state.write_bytes(pickle.dumps({"model": Bomb(mark)}, protocol=2))
    assert "state.pt" in one_line(command("resume", folder))
    assert not mark.exists()
    torch.load(state, weights_only=False) if zipped else pickle.loads(state.read_bytes())
    assert mark.exists()  # the bomb was live


def test_a_state_of_another_model_is_refused(command: CommandLine, unbroken: Path, tmp_path: Path) -> None:
    folder = unfinish(unbroken, tmp_path / "run")
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    assert "width: 4" in text
    config.write_text(text.replace("width: 4", "width: 5"), encoding="utf-8")
    assert "does not fit" in one_line(command("resume", folder))


def test_a_state_of_another_version_is_refused(command: CommandLine, unbroken: Path, tmp_path: Path) -> None:
    folder = unfinish(unbroken, tmp_path / "run")
    state = folder / "last" / "state.pt"
    torch.save(load_state(state) | {"version": 99}, state)
    assert "another version" in one_line(command("resume", folder))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    draw = random.Random(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(12):
            Image.frombytes("L", (8, 8), draw.randbytes(64)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def changed(images: Path, how: str) -> None:
    first = images / "cat" / "0.png"
    if how == "removed":
        first.unlink()
    elif how == "added":
        shutil.copy(first, first.with_name("new.png"))
    elif how == "swapped":
        shutil.copy(first.with_name("1.png"), first)
    else:
        shutil.move(first, images / "dog" / "12.png")


@pytest.mark.parametrize("how", ["removed", "added", "swapped", "moved to another class"])
def test_a_run_whose_images_changed_is_not_resumed(
    how: str, command: CommandLine, images: Path, tmp_path: Path, tiny: Sequence[str]
) -> None:
    folder = tmp_path / "run"
    words = ["data=folder", f"data.root={images}", "model=mlp", "model.hidden=[4]", "trainer.epochs=1"]
    result = command("train", *words, "trainer.batch_size=4", "augment=none", "logger=none", f"run.dir={folder}")
    assert result.code == 0, result.err
    (folder / "report.html").unlink()
    changed(images, how)
    result = command("resume", folder)
    assert result.code == 2
    assert "images are not those" in result.error_lines[-1]
