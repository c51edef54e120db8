"""Whatever a command is started with, and whoever goes away while it runs: one line or none, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from cnnlab.data.load import load_data
from cnnlab.errors import CnnlabError, DataError, refused
from cnnlab.files import write_whole
from test_faults import Disk, disk, one_line, two_classes

if TYPE_CHECKING:
    from conftest import CommandLine

__all__ = ["disk"]
SMALL = ["data.limit=40", "trainer.epochs=1", "trainer.batch_size=20", "model.width=4", "logger=none"]
LONG = "n" * 300
pytestmark = pytest.mark.skipif(os.name == "nt", reason="of POSIX")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "a.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file)
    return file


# ---- paths


@pytest.mark.parametrize(
    "words",
    [
        ["train", *SMALL, f"init.from={LONG}"],
        ["train", *SMALL, f"run.name={LONG}"],
        ["train", *SMALL, "init.from=~nobodyhere/x"],
        ["train", *SMALL, "run.dir=~nobodyhere/x"],
        ["data", "folder", f"data.root={LONG}"],
        ["data", "folder", "data.root=~nobodyhere/x"],
        ["predict", LONG, "IMAGE"],
        ["predict", f"{LONG}.onnx", "IMAGE"],
        ["predict", "RUN", LONG],
        ["explain", "RUN", LONG],
        ["localize", "RUN", LONG],
        ["explain", "RUN", "IMAGE", "--out", LONG],
        ["compare", "RUN", "--out", LONG],
        ["data", "digits", "--show", LONG],
        ["test", "RUN", "--data-root", LONG],
        ["test", "RUN", "--data-root", "~nobodyhere/x"],
        ["test", "RUN", "--data", "digits", "data.image_size=[1"],
        ["export", "RUN", "--out", LONG],
        ["study", f"{LONG}.yaml"],
        ["study", "residual_depth", "--dry-run", f"study.dir={LONG}"],
        ["predict", "RUN", "/dev/zero"],
        ["train", "--nosuch\noption"],
    ],
    ids=lambda words: " ".join(words).replace(LONG, "LONG"),
)
def test_what_cannot_be_a_path_or_a_value_is_one_line(
    words: list[str], command: CommandLine, finished_run: Path, image: Path
) -> None:
    places = {"RUN": str(finished_run), "IMAGE": str(image)}
    one_line(command(*[places.get(word, word) for word in words]))


def test_a_name_that_looks_like_markup_is_a_name(command: CommandLine, finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "[").mkdir()
    shutil.copytree(finished_run, tmp_path / "[" / "nope]")
    result = command("compare", "[/nope]", cwd=tmp_path)
    assert result.code == 0, result.err
    assert "[/nope]" in result.out


# ---- standard streams


@pytest.mark.parametrize(
    ("words", "closed"),
    [("--help", ">&-"), ("train x=1", "2>&-"), ("data digits", ">&-"), ("data digits", "<&- >&- 2>&-")],
)
def test_closed_streams_are_no_traceback(closed: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "seen").touch()
    line = f"{sys.executable} -m cnnlab {words} 2>seen {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == (2 if "x=1" in words else 0), done.stderr
    assert "Traceback" not in (tmp_path / "seen").read_text() + done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_training_goes_on_when_nobody_reads_its_console(unbuffered: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "cnnlab", "train", *SMALL, f"run.dir={tmp_path / 'run'}"]
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "report.html").exists()


def test_a_narrow_encoding_gives_escapes_and_json_stays_json(finished_run: Path, tmp_path: Path) -> None:
    named = tmp_path / "café.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(named)
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "cnnlab", "predict", str(finished_run), str(named), "--json"]
    done = subprocess.run(words, capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("ascii"))["picture"] == str(named)


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_narrow_terminal_cuts_no_figure(columns: int, command: CommandLine, finished_run: Path) -> None:
    test = json.loads((finished_run / "test.json").read_text())
    accuracy = f"{100 * test['accuracy']:.2f} %"
    copied = Path(shutil.copytree(finished_run, finished_run.parent / f"narrow-{columns}"))
    for words in (["resume", copied], ["compare", copied], ["test", copied]):
        result = command(*words, environment={"COLUMNS": str(columns)})
        assert result.code == 0, result.err
        assert accuracy in result.out, words
        assert f"{100 * test['accuracy_interval'][0]:.2f}" in result.out


# ---- a full disk, and files that are devices


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "RUN", "IMAGE", "--out", "DISK/out"],
        ["localize", "RUN", "IMAGE", "--out", "DISK/out"],
        ["compare", "RUN", "--out", "DISK/out.png"],
        ["data", "digits", "--show", "DISK/out.png"],
    ],
    ids=lambda words: words[0],
)
def test_a_full_disk_leaves_no_empty_file(
    words: list[str], command: CommandLine, finished_run: Path, image: Path, disk: Disk
) -> None:
    disk.fill()
    places = {"RUN": str(finished_run), "IMAGE": str(image)}
    one_line(command(*[places.get(word, word).replace("DISK", str(disk.path)) for word in words]))
    assert [path.name for path in disk.path.rglob("*") if path.is_file()] == ["ballast"]


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", b"data")
    assert os.read(reading, 10) == b"data"
    assert (tmp_path / "pipe").is_fifo()
    os.close(reading)


def test_a_name_as_long_as_the_system_takes_can_be_written(tmp_path: Path) -> None:
    write_whole(tmp_path / ("é" * 125 + ".png"), b"data")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"data"]


# ---- what the system refuses, and Ctrl-C


def test_what_the_system_refuses_is_a_line_and_what_is_ours_is_not() -> None:
    assert isinstance(refused(OSError(36, "File name too long", "x")), CnnlabError)
    assert "memory" in str(refused(ImportError("libtorch_cpu.so: failed to map segment from shared object")))
    assert "memory" in str(refused(MemoryError()))
    assert refused(ImportError("no module named x")) is None
    assert refused(KeyError("x")) is None
    assert refused(OSError(9, "Bad file descriptor")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v")
def test_too_little_memory_to_load_torch_is_one_line(tmp_path: Path) -> None:
    line = f"ulimit -v 1000000; exec {sys.executable} -m cnnlab model resnet"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "memory" in done.stderr


CALLS = """
import os, signal
from cnnlab.cli import main, model
from cnnlab.errors import ConfigError
def command(options):
    {body}
model.run = command
raise SystemExit(main(["model", "resnet"]))
"""


@pytest.mark.parametrize(
    "body",
    [
        "signal.raise_signal(signal.SIGINT)",
        "try: signal.raise_signal(signal.SIGINT)\n    except BaseException: raise ConfigError('of a library')",
        "try: signal.raise_signal(signal.SIGINT)\n    except BaseException: raise RuntimeError('of a library')",
        "try: signal.raise_signal(signal.SIGINT)\n    finally: [signal.raise_signal(signal.SIGINT) for _ in range(5)]",
    ],
    ids=["plain", "turned into a user's error", "turned into a failure", "held down while cleaning up"],
)
def test_ctrl_c_is_130_whatever_a_library_makes_of_it(body: str) -> None:
    done = subprocess.run([sys.executable, "-c", CALLS.format(body=body)], capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "\nstopped.\n"


# ---- pixels that go away


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def test_a_store_that_is_cut_short_between_two_batches_is_one_line(tmp_path: Path, cache: Path) -> None:
    two_classes(tmp_path / "photos", 30)
    data = load_data("folder", root=str(tmp_path / "photos"), image_size=32, batch_size=4, storage="mmap")
    batches = data.train.epoch(0)
    next(batches)
    for file in cache.rglob("pixels.u8"):
        os.truncate(file, 100)
    with pytest.raises(DataError, match="cut short"):
        next(batches)
    again = load_data("folder", root=str(tmp_path / "photos"), image_size=32, batch_size=4, storage="mmap")
    assert sum(len(batch.images) for batch in again.train.epoch(0)) > 0


def test_a_closed_terminal_stops_a_run_in_order() -> None:
    from cnnlab.training.interrupt import InterruptGuard

    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with InterruptGuard() as guard:
            signal.raise_signal(signal.SIGHUP)
            assert guard.requested
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as with nohup
        with InterruptGuard() as guard:
            signal.raise_signal(signal.SIGHUP)
            assert not guard.requested
    finally:
        signal.signal(signal.SIGHUP, before)
