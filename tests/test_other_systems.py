"""Windows and macOS lack things that Linux has. Here they are taken away, and cnnlab goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cnnlab.files import replace, without_scheme
from cnnlab.study.local_pool import LocalPool, LocalWorker, exit_reason
from cnnlab.study.worker import StopRequest

WITHOUT = """
import importlib, mmap, os, pkgutil, signal, socket, sys

# Other packages chose their way when they were installed for this system; they keep it.
import torch, torchvision, matplotlib.figure, rich.live, filelock, fsspec, scipy.ndimage, hydra
import multiprocessing.spawn, multiprocessing.popen_spawn_posix, multiprocessing.connection, subprocess, asyncio
import torch.distributed.elastic.multiprocessing, torch.distributed.launcher.api, torch.utils.tensorboard
for name in ("fastapi", "uvicorn"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None  # `import fcntl` raises ImportError from here on
LACKING = {
    signal: ["SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGQUIT", "alarm", "setitimer", "pause"],
    os: ["fork", "forkpty", "setsid", "killpg", "getuid", "geteuid", "getgid", "getpgid", "sysconf", "posix_fadvise",
         "posix_fallocate", "POSIX_FADV_WILLNEED", "mkfifo", "chown", "sched_getaffinity", "nice",
         "pread", "pwrite", "wait", "wait3", "getloadavg", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC"],
    mmap: ["MADV_RANDOM", "MADV_NORMAL", "MADV_WILLNEED", "MAP_SHARED", "MAP_PRIVATE", "PROT_READ"],
    socket: ["AF_UNIX", "MSG_DONTWAIT", "MSG_WAITALL", "SO_REUSEPORT"],
}
for module, names in LACKING.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""
IMPORTS = """
import cnnlab
for found in pkgutil.walk_packages(cnnlab.__path__, "cnnlab."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
"""
COMMANDS = """
from cnnlab.cli import main
short = ["data.limit=40", "trainer.epochs=1", "model=lenet", "trainer.threads=1", "logger=none", "data.image_size=32"]
for words in (
    ["train", *short, "run.dir=run"],
    ["resume", "run"],
    ["test", "run"],
    ["data", "folder", "data.root=photos", "--check", "--show", "batch.png"],
    ["train", *short, "data=folder", "data.root=photos", "run.dir=photo"],
    ["predict", "photo", "photos", "--out", "answers.csv", "--sort", "sorted"],
    ["explain", "photo", "photos/a/0.png"],
    ["compare", "run", "photo"],
):
    assert main(words) == 0, words
print("all of it")
"""


def run_without_posix(code: str, folder: Path) -> str:
    words = [sys.executable, "-c", WITHOUT + code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_and_the_commands_work_without_what_only_posix_has(tmp_path: Path) -> None:
    from PIL import Image

    for name, shade in (("a", 30), ("b", 220)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (40 + i, 36), (shade, 10 * i, 90)).save(tmp_path / "photos" / name / f"{i}.png")
    assert "all of it" in run_without_posix(IMPORTS + COMMANDS, tmp_path)


def test_a_file_that_another_process_has_open_is_replaced_once_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old", encoding="utf-8")
    new.write_text("new", encoding="utf-8")
    refusals, real = [1, 2], os.replace

    def busy(source: Path, target: Path) -> None:
        if refusals:
            refusals.pop()
            raise PermissionError(13, "The process cannot access the file because it is being used")
        real(source, target)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(PermissionError):  # on other systems it means what it says
        replace(new, old)
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        replace(new, old)
    assert old.read_text(encoding="utf-8") == "new"
    assert not refusals


def test_a_file_that_stays_open_is_refused_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(source: Path, target: Path) -> None:
        raise PermissionError(13, "in use")

    source, target = tmp_path / "a", tmp_path / "b"
    with monkeypatch.context() as windows:
        windows.setattr(os, "replace", busy)
        windows.setattr(os, "name", "nt")
        with pytest.raises(PermissionError):
            replace(source, target, patience=0.1)


def test_workers_are_asked_to_stop_where_a_signal_would_end_them_unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = multiprocessing.Pipe()
    pool = LocalPool.__new__(LocalPool)
    process = SimpleNamespace(is_alive=lambda: True, pid=os.getpid())
    pool.workers = [LocalWorker(process, ours, run=SimpleNamespace())]  # type: ignore[arg-type]
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        pool.interrupt()
    assert theirs.poll(5)
    assert isinstance(theirs.recv(), StopRequest)


def test_the_exit_of_a_worker_has_a_reason_where_signals_have_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(signal, "SIGKILL"):
        assert "killed" in exit_reason(-signal.SIGKILL)
        monkeypatch.delattr(signal, "SIGKILL")
    assert exit_reason(-9) == "its process ended with code -9"
    assert exit_reason(1) == "its process ended with code 1"


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///C:/photos/cats", "C:/photos/cats"),
        ("file:///home/photos", "/home/photos"),
        ("C:\\photos", "C:\\photos"),
    ],
)
def test_addresses_of_files_keep_their_drive(address: str, path: str) -> None:
    assert without_scheme(address) == path
