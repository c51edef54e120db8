"""Writes are atomic, and every way to fail is one line."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import cnnlab
from cnnlab.errors import RunError
from cnnlab.runs.files import read_json, write_error, write_json, write_whole
from cnnlab.runs.folder import RunFolder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("data", [b"", b"bytes", "text – ü", b"\0" * 100_000])
def test_what_is_written_is_there(data: bytes | str, tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "folder" / "file", data)
    expected = data.encode() if isinstance(data, str) else data
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == expected
    assert names(tmp_path / "new" / "folder") == ["file"]


def test_the_old_content_is_replaced(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "a long old content")
    write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_the_old_content_stays_when_writing_fails(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, place, full)
    with pytest.raises(RunError, match="no space left"):
        write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_kill_while_writing_leaves_the_old_content_and_the_next_write_sweeps_up(place: str, tmp_path: Path) -> None:
    code = f"""
import os, pathlib, signal
from cnnlab.runs.files import write_whole
file = pathlib.Path({str(tmp_path / "file")!r})
write_whole(file, "old")
os.{place} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
write_whole(file, "new" * 1000)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == "old"
    write_whole(tmp_path / "file", "newer")
    assert (tmp_path / "file").read_text() == "newer"
    assert names(tmp_path) == ["file"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    file, seen = tmp_path / "file", set()
    write_whole(file, b"a" * 50_000)
    writer = threading.Thread(target=lambda: [write_whole(file, bytes([c]) * 50_000) for c in b"bcdefghij" * 3])
    writer.start()
    while writer.is_alive():
        content = file.read_bytes()
        seen.add((len(content), len(set(content))))
    writer.join()
    assert seen <= {(50_000, 1)}


def test_a_file_where_a_folder_is_needed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(RunError, match="a file stands where a folder is needed"):
        write_whole(tmp_path / "file" / "inner", "x")
    with pytest.raises(RunError):
        write_whole(tmp_path / "file" / "deeper" / "inner", "x")
    assert (tmp_path / "file").read_text() == "a file"


def test_a_folder_where_a_file_is_needed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="folder"):
        write_whole(tmp_path / "folder", "x")
    assert names(tmp_path) == ["folder"]


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        write_whole(tmp_path / ("n" * 300), "x")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_place_that_takes_no_files_is_one_line() -> None:
    with pytest.raises(RunError, match="/proc"):
        write_whole(Path("/proc/run/file"), "x")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EACCES, "no permission"),
        (errno.EPERM, "no permission"),
        (errno.EROFS, "no permission"),
        (errno.ENOTDIR, "a file stands"),
        (errno.EIO, "cannot write"),
    ],
)
def test_each_kind_of_failure_has_its_words(number: int, words: str) -> None:
    message = str(write_error(Path("runs/x"), OSError(number, os.strerror(number))))
    assert words in message
    assert "runs/x" in message


# ---- JSON


@pytest.mark.parametrize("value", [None, 3, "ü", [1, 2.5], {"a": {"b": [True]}}])
def test_json_is_read_back_as_it_was_written(value: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value
    assert (tmp_path / "file.json").read_bytes().endswith(b"\n")


def test_numbers_lose_nothing(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, math.pi, 1e-300, 2**60]
    write_json(tmp_path / "file.json", values)
    assert read_json(tmp_path / "file.json") == values


def test_names_that_are_no_unicode_can_be_written(tmp_path: Path) -> None:
    """A file name of another encoding comes from the system with surrogates in it."""
    name = os.fsdecode(b"caf\xe9.png")
    write_json(tmp_path / "file.json", [name])
    assert json.loads((tmp_path / "file.json").read_bytes().decode(errors="surrogateescape")) == [name]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1} x', b"{'a': 1}"])
def test_damaged_json_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(RunError, match=r"file\.json") as caught:
        read_json(tmp_path / "file.json")
    assert len(str(caught.value).splitlines()) == 1


def test_missing_json_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing"):
        read_json(tmp_path / "file.json")
    with pytest.raises(RunError):
        read_json(tmp_path)


def test_json_holds_nothing_that_is_no_json(tmp_path: Path) -> None:
    value = {"a": [float("nan"), (1.5, float("inf"))], "b": -float("inf"), "c": {"d": 1, "e": None}}
    wanted = {"a": [None, [1.5, None]], "b": None, "c": {"d": 1, "e": None}}
    write_json(tmp_path / "a.json", value)
    RunFolder(tmp_path).write_history([value])
    for file in (tmp_path / "a.json", tmp_path / "metrics.jsonl"):
        assert json.loads(file.read_text(), parse_constant=pytest.fail) == wanted


def test_no_json_leaves_without_a_look_at_its_numbers() -> None:
    """`json.dumps` writes NaN, which is no JSON, unless it is told otherwise; `to_json` is the way out."""
    digests = {"study/plan.py", "study/trials.py", "training/restore.py"}  # hashed or compared, not written
    texts = {"processes.py", "data/remote.py", "data/store.py", "tracking/wandb.py"}  # names and stamps, no floats
    root = Path(cnnlab.__file__).parent
    others = {file.relative_to(root).as_posix(): file.read_text(encoding="utf-8") for file in root.rglob("*.py")}
    plain = {
        name
        for name, source in others.items()
        if any("json.dump" in line and "allow_nan=False" not in line for line in source.splitlines())
    }
    assert plain - {"values.py"} <= digests | texts
    assert "allow_nan=True" not in "".join(others.values())
