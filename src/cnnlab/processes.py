"""One run in several processes of this machine: what starts them, and what each of them does.

torch's elastic launcher starts `python -m cnnlab.processes JOB` as often as asked for, and all of them again when one
is lost; they then go on from the last saved state. JOB is a folder that says what they are to do, and there they leave
word of how it ended, where starting again would not help.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cnnlab import errors, streams
from cnnlab.config import Config, load_yaml, to_yaml, with_changes
from cnnlab.data.build import build_data
from cnnlab.errors import CnnlabError, Interrupted
from cnnlab.experiment import Run, finished, resume_experiment, run_experiment
from cnnlab.runs.addresses import is_address, with_whole_addresses
from cnnlab.runs.files import write_whole
from cnnlab.runs.folder import RunFolder, read_config
from cnnlab.runs.opened import begin_run, has_begun, opened_run
from cnnlab.torch_patches import end_with_launcher
from cnnlab.tracking.console import ConsoleTracker
from cnnlab.training.build import build_model, import_code, resume_command
from cnnlab.training.distributed import Group, device_of, lost_another

RESTARTS = 3  # times that lost processes are replaced
SAVING_SECONDS = 300  # that they get to save before they are killed
Progress = Callable[[int, int], None]


def train_together(config: Config, progress: Progress, command: Sequence[str], resume: bool = False) -> Run:
    """`cnnlab train trainer.devices=N`. What is wrong is said, and images are decoded, before a process starts.

    Args:
        resume: see `run_experiment`.

    Raises:
        CnnlabError: what the user can fix, here or in one of the processes; `Interrupted` after Ctrl-C.
    """
    config = with_whole_addresses(config)
    if resume and has_begun(config):
        return resume_together(str(config.run.dir), config.trainer.devices, True, config.data.root, fetch=True)[0]
    folder = begin_run(config)
    folder.refuse_if_taken()
    group = Group(size=config.trainer.devices, local_size=config.trainer.devices)
    device_of(config.trainer.device, group)  # says what is wrong
    import_code(config)  # the user's own word names it, and the model
    data = build_data(config, torch.device("cpu"), progress, processes=config.trainer.devices)
    group.check_shards(data)
    build_model(config, data, trust_code=True)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(folder.path)))
    _launch(folder, config.trainer.devices, {"command": list(command)}, config)
    return Run(folder.path, folder.history(), folder.test_metrics())


def resume_together(
    path: str | Path,
    devices: int,
    trust_code: bool,
    data_root: str | None = None,
    fetch: bool = False,
    overrides: Sequence[str] = (),
) -> tuple[Run, bool]:
    """`cnnlab resume RUN` of a run with `trainer.devices=N`; see `resume_experiment`."""
    fetch = fetch or is_address(path)
    with opened_run(path, whole=True) as place:
        folder = RunFolder(place)
        left = not folder.report.exists()
        if overrides and not left:
            raise finished(folder, overrides)
        if left:
            config = with_changes(read_config(folder), overrides)
            device_of(config.trainer.device, Group(size=devices, local_size=devices))
            task = {"trust_code": trust_code, "data_root": data_root, "fetch": fetch, "overrides": list(overrides)}
            _launch(folder, devices, {"run": str(folder.path), **task})
        return Run(folder.path, folder.history(), folder.test_metrics()), left


# ---- the launcher


def _launch(folder: RunFolder, count: int, task: dict[str, Any], config: Config | None = None) -> None:
    """Do `task` in `count` processes. Raises what ended them."""
    with tempfile.TemporaryDirectory(prefix="cnnlab-") as place, _stoppable(), _without_log():
        job = Job(Path(place))
        job.task.write_text(json.dumps(task | {"launcher": os.getpid()}), encoding="utf-8")
        if config is not None:
            job.config.write_text(to_yaml(config), encoding="utf-8")
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=RESTARTS,
            signals_to_handle="SIGTERM",
            shutdown_timeout=SAVING_SECONDS,
        )
        # Else processes that are started again may find each other's old addresses, and wait for each other forever.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # N times the same advice about DistributedDataParallel
        try:
            elastic_launch(settings, sys.executable)("-m", "cnnlab.processes", place)
        except SignalException:
            if not folder.config.exists():
                raise KeyboardInterrupt from None
            again = resume_command(folder.path, read_config(folder))
            raise Interrupted(f"stopped; everything is saved. Resume with `{again}`.") from None
        except ChildFailedError as error:
            raise RuntimeError(f"processes of this run were lost {RESTARTS + 1} times:\n{error}") from None
        job.raise_what_ended_it()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C is passed on to the processes as SIGTERM, which ends them in silence before they train, and then makes
    them save. They do not see the terminal's own: each leads a session of its own."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SignalException("stopped", signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _without_log() -> Iterator[None]:
    """The launcher's own words about its processes say nothing to a user of this command."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class Job:
    """The folder in which launcher and processes leave word for each other."""

    def __init__(self, place: Path) -> None:
        self.task = place / "task.json"
        self.config = place / "config.yaml"
        self.end = place / "end.json"

    @property
    def ended(self) -> bool:
        """Whether starting again would not help."""
        return self.end.exists()

    def finish(self, error: Exception) -> None:
        """Leave word of what ended the run."""
        word = {"kind": type(error).__name__, "text": str(error), "trace": "".join(traceback.format_exception(error))}
        write_whole(self.end, json.dumps(word))

    def raise_what_ended_it(self) -> None:
        """Nothing if all went well."""
        if not self.ended:
            return
        word = json.loads(self.end.read_text(encoding="utf-8"))
        kind = getattr(errors, word["kind"], None)
        if isinstance(kind, type) and issubclass(kind, CnnlabError):
            raise kind(word["text"])
        raise RuntimeError(f"a process of this run failed:\n{word['trace']}")


# ---- each of the processes


def work(job: Job) -> int:
    """Take part in the run; return the exit code. What ends the run for good is no reason to start again, hence 0."""
    task = json.loads(job.task.read_text(encoding="utf-8"))
    if os.getppid() != task["launcher"]:  # it was killed before this process could ask to be told of that
        return 1
    if job.ended:
        return 0
    trackers = [ConsoleTracker()]
    try:
        if "run" in task:
            more = {key: task[key] for key in ("trust_code", "data_root", "fetch", "overrides")}
            resume_experiment(task["run"], trackers, **more)
        else:
            run_experiment(load_yaml(job.config), trackers, command=task["command"])
    except Interrupted as stop:
        return stop.exit_code
    except Exception as error:
        if lost_another(error):
            return 0 if job.ended else 1
        job.finish(error)
    return 0


def main() -> NoReturn:
    """`work` as a process of its own, which saves and stops when its launcher is killed."""
    gc.set_threshold(50_000, 20, 50)  # see cnnlab.cli.program: start and end without needless work
    streams.prepare()
    end_with_launcher()
    warnings.filterwarnings("ignore", message=".*find_unused_parameters")
    code = work(Job(Path(sys.argv[1])))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(code)


if __name__ == "__main__":
    main()
