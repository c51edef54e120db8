"""Runs in buckets: what goes up and in which order, and that another machine goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cnnlab.cli import main
from cnnlab.config import compose
from cnnlab.deploy.exported import is_export
from cnnlab.deploy.segmenter import Segmenter
from cnnlab.deploy.service import Service
from cnnlab.errors import CnnlabError, RunError
from cnnlab.evaluation.evaluate import evaluate
from cnnlab.experiment import resume_experiment, run_experiment
from cnnlab.runs import copies, download, upload
from cnnlab.runs.files import write_whole
from cnnlab.runs.folder import holds_run, new_folder, open_folder
from cnnlab.runs.opened import opened_run
from cnnlab.runs.source import read_source
from cnnlab.runs.weights import load_run
from cnnlab.tracking.base import Noted

if TYPE_CHECKING:
    from buckets import Bucket, WatchedFileSystem
    from conftest import CommandLine

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

# Whatever has a memory: dropout, augmentation, momentum, average. A state after each step.
RUN = [
    "data.limit=120",
    "trainer.epochs=8",
    "trainer.batch_size=20",
    "trainer.ema=0.9",
    "trainer.checkpoint_minutes=0",
    "trainer.precision=fp32",
    "model.width=4",
    "model.dropout=0.3",
    "augment=strong",
    "logger.tensorboard=false",
]
TIMES = ("seconds", "images_per_second")
SAME = ("best/model.safetensors", "best/model.json", "test.json", "predictions.csv", "split.json")


def rows(metrics: bytes) -> list[dict[str, Any]]:
    lines = metrics.decode().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def assert_same_run(read: Callable[[str], bytes], unbroken: Path) -> None:
    assert rows(read("metrics.jsonl")) == rows((unbroken / "metrics.jsonl").read_bytes())
    for name in SAME:
        assert read(name) == (unbroken / name).read_bytes(), name
    assert read("report.html")


@pytest.fixture(scope="module")
def unbroken(command: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    result = command("train", *RUN, f"run.dir={folder}")
    assert result.code == 0, result.err
    assert len(rows((folder / "metrics.jsonl").read_bytes())) == 8
    return folder


@pytest.fixture(scope="module")
def in_bucket(command: CommandLine, bucket: Bucket, unbroken: Path) -> str:
    """A finished run, as it is copied up by hand."""
    bucket.write_tree(unbroken, "runs/finished")
    return f"{bucket.address}/runs/finished"


# ---- on an emulator, with real processes


def test_a_run_killed_on_one_machine_ends_on_another_as_if_unbroken(
    command: CommandLine, bucket: Bucket, unbroken: Path, tmp_path: Path
) -> None:
    address = f"{bucket.address}/runs/killed"
    one, two = ({**bucket.environment, "CNNLAB_CACHE": str(tmp_path / name)} for name in ("one", "two"))
    running = command.start("train", *RUN, f"run.dir={address}", environment=one)
    assert running.wait_until(lambda: list((tmp_path / "one").glob("runs/*/killed/metrics.jsonl")))
    running.send(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    left = {name.removeprefix("runs/killed/") for name in bucket.names("runs/killed/")}
    assert {"config.yaml", "environment.json", "split.json", "last/state.pt"} <= left
    assert "report.html" not in left

    result = command("resume", address, environment=two)
    assert result.code == 0, result.err
    assert address in result.out
    assert_same_run(lambda name: bucket.read(f"runs/killed/{name}"), unbroken)
    assert not [name for name in bucket.names("runs/killed/") if "/." in name or name.endswith(".tmp")]

    result = command("train", *RUN, f"run.dir={address}", environment=one)
    assert result.code == 2
    assert result.error_lines == [
        f"cnnlab train: {address} already holds a run; resume it with `cnnlab resume {address}`, or choose another"
        " run.dir."
    ]


def test_an_interrupted_run_is_whole_in_its_bucket_and_says_where(
    command: CommandLine, bucket: Bucket, unbroken: Path, tmp_path: Path
) -> None:
    address = f"{bucket.address}/runs/stopped"
    one, two = ({**bucket.environment, "CNNLAB_CACHE": str(tmp_path / name)} for name in ("one", "two"))
    running = command.start("train", *RUN, f"run.dir={address}", environment=one)
    assert running.wait_until(lambda: list((tmp_path / "one").glob("runs/*/stopped/metrics.jsonl")))
    running.send(signal.SIGTERM)  # as a machine that is taken away gets it
    result = running.wait()
    assert result.code == 130
    assert address in result.err
    here = next((tmp_path / "one" / "runs").glob("*/stopped"))
    assert bucket.read("runs/stopped/last/state.pt") == (here / "last" / "state.pt").read_bytes()
    # The very command that began it: a job that is started anew goes on.
    result = command("train", *RUN, f"run.dir={address}", "--resume", environment=two)
    assert result.code == 0, result.err
    assert_same_run(lambda name: bucket.read(f"runs/stopped/{name}"), unbroken)
    result = command("train", *RUN, "trainer.epochs=12", f"run.dir={address}", "--resume", environment=two)
    assert result.code == 2
    assert "another trainer" in result.err


def test_every_command_reads_a_run_in_a_bucket_and_brings_up_what_it_makes(
    command: CommandLine, bucket: Bucket, in_bucket: str, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image

    image = tmp_path / "seven.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(image)
    machine = {**bucket.environment, "CNNLAB_CACHE": str(tmp_path / "machine")}
    metrics = json.loads(bucket.read("runs/finished/test.json"))
    for words in (
        ["test", in_bucket, "--split", "val"],
        ["predict", in_bucket, str(image), "--json"],
        ["explain", in_bucket, str(image)],
        ["compare", in_bucket, in_bucket, "--out", str(tmp_path / "curves.png")],
        ["train", *RUN, "trainer.epochs=1", "augment=none", f"init.from={in_bucket}", f"run.dir={tmp_path / 'next'}"],
    ):
        result = command(*words, environment=machine)
        assert result.code == 0, result.err
        assert result.err == ""
    names = bucket.names("runs/finished/")
    assert "runs/finished/evaluation-val.json" in names
    assert [name for name in names if name.startswith("runs/finished/explain/seven-")]
    assert json.loads(bucket.read("runs/finished/test.json")) == metrics
    assert not list((tmp_path / "machine" / "runs").glob("*/*/last"))  # only a resume needs the state
    assert json.loads((tmp_path / "next" / "init.json").read_text())["source"] == in_bucket


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/runs/finishd", "/runs/finished'?"),
        ("/runs", "no config.yaml"),
        ("-that-is-not/runs/finished", "no such bucket"),
    ],
)
def test_a_wrong_address_costs_one_line(
    address: str, message: str, command: CommandLine, bucket: Bucket, in_bucket: str, tmp_path: Path
) -> None:
    result = command(
        "test", bucket.address + address, environment={**bucket.environment, "CNNLAB_CACHE": str(tmp_path)}
    )
    assert result.code == 2
    assert len(result.error_lines) == 1
    assert message in result.err
    assert not list(tmp_path.rglob("*"))


def test_a_bucket_with_other_files_is_no_place_for_a_run(command: CommandLine, bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("runs/other/thesis.pdf", b"%PDF")
    place = {**bucket.environment, "CNNLAB_CACHE": str(tmp_path)}
    result = command("train", *RUN, f"run.dir={bucket.address}/runs/other", environment=place)
    assert (result.code, len(result.error_lines)) == (2, 1)
    assert "holds other files" in result.err
    assert bucket.names("runs/other/") == ["runs/other/thesis.pdf"]


# ---- what goes wrong, in this process, with a filesystem that can


def start(address: str, *more: str) -> Any:
    return run_experiment(
        compose([*RUN, "trainer.threads=1", "data.limit=60", "trainer.epochs=2", *more, f"run.dir={address}"])
    )


def read_from(files: type[WatchedFileSystem], address: str) -> Callable[[str], bytes]:
    return lambda name: files.contents()[f"{files._strip_protocol(address)}/{name}"]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "SECONDS_APART", 0.0)


def test_after_each_file_that_went_up_the_bucket_is_a_run_that_ends_the_same(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    address = "watched://bucket/run"
    moments: list[dict[str, bytes]] = []
    watched_files.after = staticmethod(lambda verb, path: moments.append(watched_files.contents()))  # type: ignore
    run = start(address)
    assert copies.address_of(run.dir) == address
    watched_files.after = staticmethod(lambda verb, path: None)  # type: ignore
    whole = {name: read_from(watched_files, address)(name) for name in (*SAME, "metrics.jsonl")}
    assert list(moments[-1])[-1].endswith("/report.html") and sum("report" in path for path in moments[-2]) == 0
    begun = [moment for moment in moments if any(path.endswith("/config.yaml") for path in moment)]
    unbegun = [moment for moment in moments if moment not in begun]
    assert {path.rpartition("/run/")[2] for moment in unbegun for path in moment} <= copies.BEGUN
    assert len(begun) > 8
    for moment in begun[:: len(begun) // 3]:
        watched_files.fill(moment)
        new_machine()
        resume_experiment(address)
        read = read_from(watched_files, address)
        for name, content in whole.items():
            assert rows(read(name)) == rows(content) if name == "metrics.jsonl" else read(name) == content, name


def test_what_goes_up_is_what_belonged_together_though_training_went_on(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    address = "watched://bucket/run"
    start(address, "trainer.epochs=1")
    folder, gate = copies.copy_of(address), threading.Event()
    names = ("best/model.safetensors", "last/state.pt")

    def write(number: int) -> None:
        for name in names:
            write_whole(folder / name, f"{name} {number}".encode())

    def hold_up(verb: str, path: str) -> None:
        if verb == "put" and path.endswith(names[0]):
            assert gate.wait(20)

    watched_files.before = staticmethod(hold_up)  # type: ignore
    uploader = upload.Uploader(folder)
    write(1)
    uploader.log(Noted("saved"))
    write(2)
    before = watched_files.contents()
    gate.set()
    read = read_from(watched_files, address)
    limit = time.monotonic() + 20
    while read(names[1]) == before["/bucket/run/last/state.pt"] and time.monotonic() < limit:
        time.sleep(0.01)
    assert [read(name) for name in names] == [f"{name} 1".encode() for name in names]
    uploader.finish()
    assert [read(name) for name in names] == [f"{name} 2".encode() for name in names]
    assert not (folder / upload.STAGING).exists()


def test_uploads_that_fail_are_told_tried_again_and_stop_nothing(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    began = failed = False

    def break_down(verb: str, path: str) -> None:
        """Once, at the first state that goes up while it trains: on a busy machine there may be but one more."""
        nonlocal began, failed
        if verb == "put" and began and not failed:
            failed = True
            raise ConnectionError("the network is down")
        began = began or path.endswith("/config.yaml")

    watched_files.before = staticmethod(break_down)  # type: ignore
    start("watched://bucket/run")
    error = capsys.readouterr().err
    assert error.count("the network is down") == 1
    assert "tried again" in error and "work again" in error
    assert read_from(watched_files, "watched://bucket/run")("report.html")


def test_what_never_went_up_is_named_at_the_end_and_goes_up_from_where_it_is(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    began = False

    def break_down(verb: str, path: str) -> None:
        nonlocal began
        if verb == "put" and began:
            raise ConnectionError("the network is down")
        began = began or path.endswith("/config.yaml")

    watched_files.before = staticmethod(break_down)  # type: ignore
    with pytest.raises(RunError) as failure:
        start("watched://bucket/run")
    folder = copies.copy_of("watched://bucket/run")
    assert "the network is down" in str(failure.value) and f"cnnlab resume {folder}" in str(failure.value)
    assert (folder / "report.html").exists()
    watched_files.before = staticmethod(lambda verb, path: None)  # type: ignore
    assert main(["resume", str(folder)]) == 0
    read = read_from(watched_files, "watched://bucket/run")
    assert all(read(name) == (folder / name).read_bytes() for name in (*SAME, "report.html", "last/state.pt"))


def test_a_bucket_that_takes_nothing_is_known_before_training(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(verb: str, path: str) -> None:
        if verb == "put":
            raise PermissionError("Forbidden: no storage.objects.create")

    watched_files.before = staticmethod(refuse)  # type: ignore
    words = ["train", *RUN, "run.dir=watched://bucket/run"]
    assert main(words) == 2
    out, error = capsys.readouterr()
    assert "no access" in error and len(error.splitlines()) == 1
    assert "train loss" not in out
    watched_files.before = staticmethod(lambda verb, path: None)  # type: ignore
    assert main([*words, "trainer.epochs=1"]) == 0  # the same command, once it is fixed


def test_of_two_machines_on_one_run_the_later_one_goes_on(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    address = "watched://bucket/run"
    state = f"{watched_files._strip_protocol(address)}/last/state.pt"
    puts = 0

    def interfere(verb: str, path: str) -> None:
        nonlocal puts
        puts += verb == "put" and path == state
        if verb == "put" and path == state and puts == 2:
            time.sleep(0.01)
            watched_files().pipe_file(state, b"of another machine")

    watched_files.after = staticmethod(interfere)  # type: ignore
    with pytest.raises(RunError, match="another machine trains"):
        start(address, "trainer.epochs=6")
    assert watched_files.contents()[state] == b"of another machine"
    assert "Nothing more goes up from here" in capsys.readouterr().err


def test_a_copy_is_brought_up_to_date_and_another_run_takes_its_place(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    address = "watched://bucket/run"
    start(address)
    first = watched_files.contents()
    load_run(address)
    watched_files.fill({})
    with pytest.raises(RunError, match="no run at"):
        load_run(address)
    run = start(address, "seed=1", "trainer.epochs=1")  # taken away up there, so there is room for a new one
    assert len(run.history) == 1
    watched_files.fill(first)  # as another machine would have left it
    _, card = load_run(address)
    assert card["seed"] == 0
    folder = copies.copy_of(address)
    assert (folder / "metrics.jsonl").read_bytes() == read_from(watched_files, address)("metrics.jsonl")


def test_what_cannot_be_brought_up_is_still_here(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    start("watched://bucket/run")
    new_machine()

    def refuse(verb: str, path: str) -> None:
        if verb == "put":
            raise PermissionError("Forbidden")

    watched_files.before = staticmethod(refuse)  # type: ignore
    metrics = evaluate("watched://bucket/run", split="val")
    assert metrics["n"] > 0
    assert "warning: no access" in capsys.readouterr().err
    assert (copies.copy_of("watched://bucket/run") / "evaluation-val.json").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nosuch://bucket/run", "not a supported kind of address"),
        ("sftp://host/run", "paramiko"),
        ("https://localhost:9/run", "can only be read"),
    ],
)
def test_a_run_cannot_go_where_nothing_can_be_written(
    address: str, message: str, new_machine: Callable[[], Path]
) -> None:
    with pytest.raises(CnnlabError, match=message):
        start(address)


def test_a_file_address_is_a_folder_here(tmp_path: Path, tiny: Sequence[str]) -> None:
    assert main(["train", *tiny, "trainer.epochs=1", f"run.dir=file://{tmp_path}/run"]) == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / copies.RECORD).exists()
    assert main(["test", f"file://{tmp_path}/run"]) == 0


# ---- no hidden travel


@pytest.mark.parametrize("address", ["watched://bucket/run", "gs://bucket/run", "wandb:me/mine/model:best"])
def test_a_function_that_reads_a_run_refuses_an_address_and_asks_nothing_of_the_network(
    address: str, watched_files: type[WatchedFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    def travel(*given: Any) -> None:
        raise AssertionError("it travelled")

    watched_files.before = staticmethod(travel)  # type: ignore
    monkeypatch.setattr("cnnlab.remote.Remote.__init__", travel)
    monkeypatch.setattr("cnnlab.runs.artifact.download", travel)
    for read in (
        open_folder,
        holds_run,
        read_source,
        Segmenter,
        Service.from_run,
        lambda run: new_folder(compose([f"run.dir={run}"])),
    ):
        with pytest.raises(RunError, match="is an address, not a folder"):
            read(address)
    assert not is_export(address)


def test_a_command_asks_its_bucket_once_and_then_reads_the_copy(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path], tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image

    image = tmp_path / "seven.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(image)
    start("watched://bucket/run", "trainer.epochs=1")
    new_machine()
    asked: list[str] = []
    watched_files.before = staticmethod(lambda verb, path: asked.append(verb))  # type: ignore
    assert main(["explain", "watched://bucket/run", str(image)]) == 0
    assert asked.count("find") == 2  # what is there: before the copy, and before what was made goes up
    assert "put" in asked and asked.index("put") > asked.index("get")


def test_of_two_first_readers_both_read_the_whole_run(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    address = "watched://bucket/run"
    start(address, "trainer.epochs=1")
    new_machine()
    begun, going_on = threading.Event(), threading.Event()

    def hold(verb: str, path: str) -> None:
        if verb == "get":
            begun.set()
            assert going_on.wait(20)

    watched_files.before = staticmethod(hold)  # type: ignore
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load_run, address)
        assert begun.wait(20)
        second = pool.submit(load_run, address)
        time.sleep(0.2)  # if it did not wait, it would have failed by now: nothing has arrived
        going_on.set()
        assert first.result(20)[1] == second.result(20)[1]


def test_a_file_at_an_address_is_copied_again_where_its_copy_has_gone(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    watched_files.fill({"/bucket/weights.safetensors": b"first", "/bucket/other.safetensors": b"other"})
    copy = download.fetch_file("watched://bucket/weights.safetensors")
    other = download.fetch_file("watched://bucket/other.safetensors")
    copy.unlink()
    asked: list[str] = []
    watched_files.before = staticmethod(lambda verb, path: asked.append(verb))  # type: ignore
    assert download.fetch_file("watched://bucket/weights.safetensors").read_bytes() == b"first"
    assert asked.count("get") == 1
    assert download.fetch_file("watched://bucket/other.safetensors") == other and asked.count("get") == 1


def test_a_file_that_another_machine_has_changed_is_copied_again(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    address = "watched://bucket/run"
    watched_files.fill({"/bucket/run/config.yaml": b"seed: 0\n", "/bucket/run/metrics.jsonl": b"{}\n"})
    folder = download.fetch(address)
    watched_files().pipe_file("/bucket/run/metrics.jsonl", b"{}\n{}\n")
    asked: list[str] = []
    watched_files.before = staticmethod(lambda verb, path: asked.append(verb))  # type: ignore
    assert download.fetch(address) == folder
    assert (folder / "metrics.jsonl").read_bytes() == b"{}\n{}\n"
    assert asked.count("get") == 1  # config.yaml is as it was


def test_what_was_done_before_an_error_goes_up(
    watched_files: type[WatchedFileSystem], new_machine: Callable[[], Path]
) -> None:
    watched_files.fill({"/bucket/run/config.yaml": b"seed: 0\n"})
    with (
        pytest.raises(CnnlabError, match="the second image"),
        opened_run("watched://bucket/run", writes=True) as folder,
    ):
        (folder / "explain").mkdir()
        (folder / "explain" / "first.png").write_bytes(b"the first image")
        raise CnnlabError("the second image cannot be read")
    assert watched_files.contents()["/bucket/run/explain/first.png"] == b"the first image"
    with pytest.raises(CnnlabError), opened_run("watched://bucket/run") as folder:
        (folder / "other.txt").write_text("of a command that only reads")
        raise CnnlabError("again")
    assert "/bucket/run/other.txt" not in watched_files.contents()
