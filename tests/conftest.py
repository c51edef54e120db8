"""Shared by all tests: a cache of their own, one thread, and commands as real processes that start at once."""

from __future__ import annotations

import gc
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from buckets import Bucket, WatchedFileSystem, emulator, watched

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy and torch are loaded: the tests' tensors are tiny
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # two threads that share a core with another worker's: seconds, not minutes
# Where nothing may be written beside the sources, each of the interpreters that are started here would compile torch,
# and all that is imported, once more: 9 of 15 seconds of a short training.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
gc.disable()  # until the tests begin: what is imported stays
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background


def pytest_configure(config: pytest.Config) -> None:
    """What is compared bit by bit is compared on the processor; `-m gpu` sees the GPU (tests/gpu)."""
    if config.option.markexpr != "gpu" or "CNNLAB_GPU_TESTS" in os.environ:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        gc.enable()  # the process that waits for its workers collects no tests


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LONGEST = 600.0  # seconds for a command, so that a busy machine fails no test
BEGIN_WITH = [  # a worker takes a file at a time: a long one that began last would leave the others idle
    "labs/test_lab_0.py",
    "labs/test_lab_1.py",
    "labs/test_lab_2.py",
    "labs/test_lab_3.py",
    "labs/test_lab_4.py",
    "study/test_study_runs.py",
    "test_docs.py",
    "training/test_training_distributed.py",
    "deploy/test_export.py",
    "tracking/test_tracking.py",
    "evaluation/test_evaluation_runs.py",
    "study/test_search.py",
    "test_golden.py",
    "training/test_training_diagnose.py",
    "runs/test_runs_addresses.py",
    "runs/test_runs_remote.py",
    "deploy/test_web.py",
    "training/test_training_resume.py",
    "test_faults.py",
]
TINY = ["data.limit=60", "trainer.epochs=2", "trainer.batch_size=20", "model.width=4", "trainer.precision=fp32"]

# Loads everything once and forks for each command, so that a command costs a few milliseconds instead of seconds.
# Each child is a process of its own, with its own signals, standard streams and exit code. The workers of a study and
# the processes of a run are forked likewise, from the command that starts them.
SERVER = """
import gc
gc.disable()
import atexit, contextlib, json, logging, multiprocessing.util, os, signal, subprocess, sys, traceback
import torch, rich.console, rich.progress, matplotlib.figure, hydra, jinja2
import torch.utils.tensorboard, torchvision.datasets, cnnlab.cli, cnnlab.experiment, cnnlab.deploy.predictor
import cnnlab.evaluation.compare, cnnlab.data.describe, cnnlab.data.show, cnnlab.tracking.tensorboard
import numpy.random, torch.optim, importlib.util, PIL.Image, cnnlab.data.sources.digits
import cnnlab.config, cnnlab.report.confusion, cnnlab.report.page, cnnlab.report.reliability
import cnnlab.processes, cnnlab.study.worker, cnnlab.study.study, multiprocessing.popen_spawn_posix
import cnnlab.figure, cnnlab.deploy.answers, cnnlab.config.describe, matplotlib.backends.backend_agg
import multiprocessing.spawn, torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler as elastic
cnnlab.config.compose()  # what Hydra and Jinja work out once
cnnlab.report.page.template()
cnnlab.data.sources.digits.open_digits()
PIL.Image.init()
if importlib.util.find_spec("optuna"):
    import optuna, sqlalchemy.dialects.sqlite, cnnlab.study.search, cnnlab.study.search_page
    optuna.storages.RDBStorage, optuna.importance.FanovaImportanceEvaluator, optuna.samplers.TPESampler
GRAPH = ["torch.export._trace", "torch._dynamo.functional_export", "torch._export.passes", "networkx"]
ONNX = ["onnxruntime", "onnxscript.function_libs.torch_lib.ops", "onnxscript.rewriter.onnx_fusions"]
LATER = {  # what only a command with this in one of its words needs
    "export": [*GRAPH, *ONNX, "torch.onnx._internal.exporter._core", "cnnlab.deploy.export"],
    "look": [*GRAPH, "cnnlab.look.page"],
    "gs://": ["gcsfs", "google.auth.transport.requests", "google_crc32c"],
    "study.launcher=ray": ["ray"],
    "logger=wandb": ["wandb"],
    "logger.wandb=true": ["wandb"],
}
gc.collect()
gc.freeze()  # else each child goes through all of it, and with that makes a copy
gc.enable()

def fork_python(words, environment=None, keep=(), session=False):
    "What `exec` of a new interpreter with these words would be, without loading everything again."
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if session:
            os.setsid()
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2 and number != nothing and number not in keep:
                os.dup2(nothing, number)  # not closed: what still knows the number must not close what takes it next
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        atexit._clear()
        logging.disable(logging.NOTSET)
        if words[1:3] == ["-m", "cnnlab.processes"]:
            sys.argv = words[2:]
            cnnlab.processes.main()
        sys.argv = words[words.index("-c") :]
        exec(sys.argv.pop(1), {"__name__": "__main__"})
        code = 0
    except SystemExit as leave:
        code = leave.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)

class Forked(subprocess.Popen):
    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *others):
        self.pid, self._child_created = fork_python(list(args), env, session=True), True

def spawn(path, words, keep, real=multiprocessing.util.spawnv_passfds):
    words = [os.fsdecode(word) for word in words]
    return fork_python(words, keep=keep) if "--multiprocessing-fork" in words else real(path, words, keep)

for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        pid, status = os.waitpid(job["wait"], os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        continue
    needed = [part for part in LATER if any(part in word for word in job["arguments"])]
    for name in [name for part in needed for name in LATER.pop(part)]:
        with contextlib.suppress(ModuleNotFoundError):  # an extra, or where another version has it elsewhere
            importlib.import_module(name)
    if needed:
        gc.freeze()
    pid = os.fork()
    if pid == 0:
        if not job["new_interpreters"]:
            multiprocessing.util.spawnv_passfds, elastic.Popen = spawn, Forked
        if job["session"]:
            os.setsid()
        for number, name in enumerate(job["streams"]):
            os.dup2(os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdin = open(0, closefd=False)
        os.environ.update(job["environment"])
        os.chdir(job["folder"])
        sys.argv = ["cnnlab", *job["arguments"]]
        try:
            code = cnnlab.cli.main()
        except SystemExit as leave:
            code = leave.code
        except BaseException:
            code = 1
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # taking all the modules down would take two seconds
    print(pid, flush=True)
"""


def pytest_collection_finish() -> None:
    """What was imported is no garbage: to go through it again and again took a fifth of the time."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # what holds its own state, such as triton, complains at the end of the process otherwise


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(BEGIN_WITH)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@dataclass(frozen=True)
class Result:
    """What a finished command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return self.err.splitlines()


class Running:
    """A command in progress."""

    def __init__(self, pid: int, poll: Callable[[], int | None], out: Path, err: Path) -> None:
        self.pid, self._poll, self._out, self._err = pid, poll, out, err
        self._code: int | None = None
        self._end = os.pidfd_open(pid) if sys.platform == "linux" else None  # readable once it has ended

    @property
    def code(self) -> int | None:
        """None while it runs; minus the signal's number if a signal ended it."""
        return self._code_within(0)

    def _code_within(self, seconds: float) -> int | None:
        if self._code is None and self._end is not None:
            if not select.select([self._end], [], [], seconds)[0]:
                return None
            os.close(self._end)
            self._end = None
            self._code = self._poll()
        elif self._code is None:
            self._code = self._poll()
            time.sleep(0 if self._code is not None else min(seconds, 0.002))
        return self._code

    def send(self, number: int) -> None:
        if self.code is None:
            os.kill(self.pid, number)

    def printed(self) -> str:
        """What it has written to standard output so far."""
        return self._out.read_text(encoding="utf-8", errors="replace") if self._out.exists() else ""

    def wait_until(self, condition: Callable[[], object], seconds: float = LONGEST) -> bool:
        """True when `condition` holds; False if the command ended before that. The longer it takes, the less often it
        is asked: a condition that lists a folder 500 times a second would cost as much as a command."""
        began = time.monotonic()
        limit = began + seconds
        while not condition():
            if self._code_within(min(0.01, 0.002 + (time.monotonic() - began) / 200)) is not None:
                return bool(condition())
            if time.monotonic() > limit:
                self._give_up()
        return True

    def wait(self, seconds: float = LONGEST) -> Result:
        limit = time.monotonic() + seconds
        while self._code_within(1) is None:
            if time.monotonic() > limit:
                self._give_up()
        assert self._code is not None
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in (self._out, self._err))
        return Result(self._code, out, err)

    def _give_up(self) -> NoReturn:
        self.send(signal.SIGTERM)
        raise TimeoutError(self._out.read_text() + self._err.read_text())


class CommandLine:
    """`cnnlab(...)` runs a command to its end; `cnnlab.start(...)` returns while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.server: subprocess.Popen[str] | None = None

    def _ask(self, job: dict[str, object]) -> int | None:
        if self.server is None:
            words = [sys.executable, "-c", SERVER]
            self.server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        answer: int | None = json.loads(self.server.stdout.readline())
        return answer

    def start(
        self,
        *arguments: object,
        cwd: Path | None = None,
        stdin: bytes = b"",
        environment: dict[str, str] | None = None,
        session: bool = False,
        new_interpreters: bool = False,
    ) -> Running:
        """With a `session` of its own, all that it starts can be killed with it. With `new_interpreters`, the processes
        that it starts load everything themselves, as they do at a user's."""
        self.number += 1
        given, out, err = (self.folder / f"{self.number}.{name}" for name in ("in", "out", "err"))
        given.write_bytes(stdin)
        place, words = cwd or self.folder / str(self.number), [str(word) for word in arguments]
        place.mkdir(exist_ok=True)
        settings = {"COLUMNS": "120", **(environment or {})}
        if sys.platform == "linux":
            streams = [str(given), str(out), str(err)]
            job = {"arguments": words, "streams": streams, "environment": settings, "folder": str(place)}
            job |= {"session": session, "new_interpreters": new_interpreters}
            pid = self._ask(job)
            assert pid is not None
            return Running(pid, lambda: self._ask({"wait": pid}), out, err)
        with open(given, "rb") as source, open(out, "wb") as sink, open(err, "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "cnnlab.cli", *words],
                stdin=source,
                stdout=sink,
                stderr=errors,
                cwd=place,
                env=os.environ | settings,
                start_new_session=session,
            )
        return Running(process.pid, process.poll, out, err)

    def __call__(self, *arguments: object, seconds: float = LONGEST, **options: object) -> Result:
        return self.start(*arguments, **options).wait(seconds)  # type: ignore[arg-type]

    def close(self) -> None:
        if self.server is not None:
            self.server.kill()  # its children are done; an orderly end would take two seconds
            self.server.communicate()


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded images of the tests stay out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CNNLAB_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory, cache_folder: Path) -> Iterator[CommandLine]:
    commands = CommandLine(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """A bucket of an emulator of Google Cloud Storage, for all tests; each takes names of its own."""
    with emulator("cnnlab-tests") as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium. A thread has one playwright at a time, whose event loop runs until it ends: it ends with the module."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    options = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]  # a camera, and leave to use it
    if os.name == "posix" and not os.geteuid():
        options.append("--no-sandbox")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


@pytest.fixture
def watched_files() -> Iterator[type[WatchedFileSystem]]:
    """watched://…, a filesystem in memory that can be watched and can fail."""
    with watched() as filesystem:
        yield filesystem


@pytest.fixture
def new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Each call empties the cache, as if this were another machine."""
    numbers = itertools.count()

    def start() -> Path:
        folder = tmp_path / f"machine-{next(numbers)}"
        monkeypatch.setenv("CNNLAB_CACHE", str(folder))
        return folder

    start()
    return start


@pytest.fixture(scope="session")
def tiny() -> Sequence[str]:
    """Settings of a run of digits that takes a moment."""
    return tuple(TINY)


@pytest.fixture(scope="session")
def finished_run(command: CommandLine, tmp_path_factory: pytest.TempPathFactory, tiny: Sequence[str]) -> Path:
    """A run of `cnnlab train`, whole; do not write into it, copy it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    more = ["trainer.epochs=4", "data.limit=200", "logger.gradients=true", "augment=none"]
    result = command("train", *tiny, *more, f"run.dir={folder}")
    assert result.code == 0, result.err
    (folder.parent / "printed.txt").write_text(result.out, encoding="utf-8")
    return folder
