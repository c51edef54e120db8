"""Several processes train one model: the same metrics, the same files, and no less safe."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import cnnlab
from cnnlab.data.plan import shard_of
from cnnlab.errors import ConfigError
from cnnlab.training.exchange import Exchange
from cnnlab.training.synchronise import SynchronisedBatchNorm

if TYPE_CHECKING:
    from conftest import CommandLine, Result, Running

BASE = [
    "model=resnet",
    "model.depth=8",
    "model.width=4",
    "data.limit=150",
    "trainer.epochs=2",
    "trainer.batch_size=25",  # 12 and 13
    "trainer.precision=fp32",
    "optimizer=sgd",
    "optimizer.lr=0.1",
    "logger=none",
]
TIMES = ("seconds", "images_per_second")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are started as on Linux")


def finished(command: CommandLine, *words: object, cwd: Path) -> Result:
    done = command(*words, cwd=cwd)
    assert done.code == 0, done.out + done.err
    return done


def rows(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_alike(one: Path, two: Path, tolerance: float = 1e-5) -> None:
    first, second = rows(one), rows(two)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        for key in a:
            assert a[key] == pytest.approx(b[key], rel=tolerance, abs=tolerance), key
    weights = [load_file(run / "best" / "model.safetensors") for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], rtol=1e-3, atol=1e-4), name
    metrics = [json.loads((run / "test.json").read_text(encoding="utf-8")) for run in (one, two)]
    assert metrics[0]["n"] == metrics[1]["n"]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=1e-4)


# ---- the same metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["augment=standard", "trainer.ema=0.9", "trainer.grad_clip=1", "trainer.accumulate=2"],
        ["augment=none", "augment.cutmix=1", "optimizer=muon", "optimizer.lr=0.02", "trainer.class_weights=balanced"],
    ],
    ids=["augmented, averaged, clipped, accumulated", "mixed, Muon, weighted classes"],
)
def test_two_processes_give_the_losses_of_one(command: CommandLine, tmp_path: Path, more: list[str]) -> None:
    for name, devices in (("one", 1), ("two", 2)):
        finished(command, "train", *BASE, *more, f"trainer.devices={devices}", f"run.dir={name}", cwd=tmp_path)
    assert_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("sizes", [(6, 2), (1, 7)])
def test_batch_norm_is_that_of_the_whole_batch(sizes: tuple[int, int]) -> None:
    """Statistics, output, running statistics and every gradient, against torch's own layer on all images at once."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, 4, 5, dtype=torch.float64) * 3 + 50
    weights = torch.randn(8, 3, 4, 5, dtype=torch.float64)

    def layer() -> nn.BatchNorm2d:
        torch.manual_seed(1)
        made = nn.BatchNorm2d(3).double()
        nn.init.normal_(made.weight)
        return made

    whole = layer()
    x = images.clone().requires_grad_()
    expected = whole(x)
    (expected * weights).sum().backward()

    parts, layers = images.split(sizes), [layer(), layer()]
    inputs = [part.clone().requires_grad_() for part in parts]
    sent: list[list[torch.Tensor]] = [[], []]

    def outputs(record: bool) -> list[torch.Tensor]:
        """Twice over: first to learn what each process sends, then with what the other has sent."""
        made = []
        for rank in (0, 1):
            steps = iter(range(10))

            def gather(values: torch.Tensor, rank: int = rank, steps: Iterator[int] = steps) -> torch.Tensor:
                place = next(steps)
                if record and place == len(sent[rank]):
                    sent[rank].append(values.detach().clone())
                other = sent[1 - rank]
                rows = [values, other[place] if place < len(other) else values]
                return torch.stack(rows if rank == 0 else rows[::-1])

            with SynchronisedBatchNorm(gather):
                y = layers[rank](inputs[rank])
                (y * weights.split(sizes)[rank]).sum().backward()
            made.append(y)
        return made

    outputs(record=True)  # the forward sums are right; the backward ones were made with wrong statistics
    sent = [[messages[0]] for messages in sent]
    for one in layers:
        one.load_state_dict(layer().state_dict())
    outputs(record=True)
    layers = [layer(), layer()]
    inputs = [part.clone().requires_grad_() for part in parts]
    made = outputs(record=False)

    assert torch.allclose(torch.cat(made), expected)
    assert torch.allclose(torch.cat([i.grad for i in inputs]), x.grad, atol=1e-10)  # type: ignore[misc]
    for name in ("weight", "bias"):
        summed = sum(getattr(one, name).grad for one in layers)
        assert torch.allclose(summed, getattr(whole, name).grad)
    for one in layers:
        assert torch.allclose(one.running_mean, whole.running_mean)  # type: ignore[arg-type]
        assert torch.allclose(one.running_var, whole.running_var)  # type: ignore[arg-type]


def test_alone_it_is_torchs_own_batch_norm() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3, 4, 4)
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with SynchronisedBatchNorm(lambda values: values[None]):
        y = ours(x)
    assert torch.allclose(y, theirs(x), atol=1e-6)
    assert torch.allclose(ours.running_var, theirs.running_var)  # type: ignore[arg-type]
    ours.eval()
    with SynchronisedBatchNorm(lambda values: values[None]):
        assert torch.equal(ours(x), F.batch_norm(x, ours.running_mean, ours.running_var, ours.weight, ours.bias))


@pytest.mark.parametrize("count", [1, 7, 8, 100])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_each_image_of_a_batch_is_taken_once(count: int, size: int) -> None:
    parts = [shard_of(slice(20, 20 + count), rank, size) for rank in range(size)]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(20, 20 + count))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_the_loader_gives_a_share_and_counts_the_whole() -> None:
    whole = cnnlab.load_data("digits", augment="standard", batch_size=25, limit=90).train
    shards = [whole.epoch(3, shard=(rank, 2)) for rank in range(2)]
    for all_, *parts in zip(whole.epoch(3), *shards, strict=True):
        assert [len(part.targets) for part in parts] == [12, 13]
        assert torch.equal(torch.cat([part.members for part in parts]), all_.members)
        assert torch.allclose(torch.cat([part.images for part in parts]), all_.images, atol=1e-6)


def test_small_messages_arrive_in_every_process(tmp_path: Path) -> None:
    import threading

    barrier = threading.Barrier(3)
    results: dict[int, list[torch.Tensor]] = {}

    def member(rank: int) -> None:
        exchange = Exchange(rank, 3, tmp_path, barrier.wait)
        results[rank] = [exchange.gather(torch.full((1000,), rank + 10.0 * turn)) for turn in range(50)]
        barrier.wait()
        exchange.close()

    threads = [threading.Thread(target=member, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for rank in range(3):
        for turn, table in enumerate(results[rank]):
            assert torch.equal(table[:, 0], torch.tensor([0.0, 1.0, 2.0]) + 10.0 * turn) and table.shape == (3, 1000)


# ---- lost, stopped, resumed


def processes_of(parent: int) -> list[int]:
    """The training processes below a launcher."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def started(command: CommandLine, place: Path, *more: str, session: bool = False) -> Running:
    words = ["train", *BASE, "trainer.devices=2", "trainer.checkpoint_minutes=0.001", "run.dir=run", *more]
    running = command.start(*words, cwd=place, session=session)
    assert running.wait_until((place / "run" / "metrics.jsonl").exists), running.wait()
    return running


EPOCHS = "trainer.epochs=12"


@pytest.fixture(scope="module")
def whole(command: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing disturbed."""
    place = tmp_path_factory.mktemp("whole")
    finished(command, "train", *BASE, EPOCHS, "trainer.devices=2", "run.dir=run", cwd=place)
    return place / "run"


def assert_same(run: Path, whole: Path) -> None:
    assert rows(run) == rows(whole)
    weights = [(folder / "best" / "model.safetensors").read_bytes() for folder in (run, whole)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_the_run_ends_as_an_unbroken_one(
    command: CommandLine, whole: Path, tmp_path: Path
) -> None:
    running = started(command, tmp_path, EPOCHS)
    os.kill(processes_of(running.pid)[1], signal.SIGKILL)
    done = running.wait()
    assert done.code == 0, done.out + done.err
    assert "a process was lost; training resumes from the last checkpoint" in done.out
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
def test_where_all_are_killed_at_once_the_resumed_run_ends_as_an_unbroken_one(
    command: CommandLine, whole: Path, tmp_path: Path
) -> None:
    running = started(command, tmp_path, EPOCHS, session=True)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    assert 0 < len(rows(tmp_path / "run")) < 12
    finished(command, "resume", "run", cwd=tmp_path)
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_run_goes_on_in_one_process(command: CommandLine, tmp_path: Path) -> None:
    running = started(command, tmp_path, "trainer.epochs=300")
    running.send(signal.SIGINT)
    stopped = running.wait()
    assert stopped.code == 130
    lines = [line for line in stopped.error_lines if line.strip()]
    assert lines == ["stopped; everything is saved. Resume with `cnnlab resume run`."]
    done = len(rows(tmp_path / "run"))
    assert 0 < done < 300
    config = tmp_path / "run" / "config.yaml"
    config.write_text(re.sub(r"epochs: 300", f"epochs: {done + 2}", config.read_text()))  # an end that is near
    resumed = finished(command, "resume", "run", "--devices", 1, cwd=tmp_path)
    assert "resumed with 1 processes instead of 2" in resumed.out
    assert len(rows(tmp_path / "run")) == done + 2


@pytest.mark.slow
def test_processes_whose_launcher_is_killed_at_once_do_not_wait_for_each_other(
    command: CommandLine, tmp_path: Path
) -> None:
    running = command.start("train", *BASE, "trainer.devices=2", "run.dir=run", cwd=tmp_path)
    assert running.wait_until(lambda: processes_of(running.pid))
    begun = processes_of(running.pid)
    running.send(signal.SIGKILL)  # before they have asked to be told of its end
    limit = time.monotonic() + 60
    while any(Path(f"/proc/{process}").exists() for process in begun):
        assert time.monotonic() < limit
        time.sleep(0.1)


# ---- wrong input: one line


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["trainer.devices=0"], "trainer.devices must be from 1 to trainer.batch_size=25"),
        (["trainer.devices=26"], "trainer.devices must be from 1 to trainer.batch_size=25"),
        (["trainer.devices=2", "trainer.compile=true"], "trainer.compile=true is for one process"),
        (["trainer.devices=2", "trainer.device=cuda:0"], "trainer.device=cuda:0 is one device"),
        (["trainer.devices=2", "model.depth=9"], "depth must be 6n+2"),
    ],
)
def test_a_mistake_costs_one_line(command: CommandLine, tmp_path: Path, words: list[str], wanted: str) -> None:
    done = command("train", *BASE, *words, cwd=tmp_path)
    assert done.code == 2
    assert len(done.error_lines) == 1 and wanted in done.error_lines[0]
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_diverges_is_said_once(command: CommandLine, tmp_path: Path) -> None:
    words = ["model=mlp", "data.limit=60", "trainer.batch_size=20", "trainer.loss=mse", "optimizer.lr=999999"]
    more = ["trainer.epochs=6", "logger=none", "trainer.devices=2", "run.dir=run"]
    done = command("train", *words, *more, cwd=tmp_path)
    assert done.code == 2, done.out + done.err
    lines = [line for line in done.error_lines if line.strip()]
    assert len(lines) == 1 and "the loss is not finite" in lines[0]


def test_python_trains_in_one_process(tmp_path: Path) -> None:
    data = cnnlab.load_data("digits", limit=60)
    model = cnnlab.create_model("mlp", image_size=8, in_channels=1, num_classes=10)
    with pytest.raises(ConfigError, match=r"use the\s+command line: cnnlab train trainer.devices=2"):
        cnnlab.fit(model, data, dir=tmp_path / "run", overrides=["trainer.devices=2"])


def test_a_study_has_jobs_instead() -> None:
    from cnnlab.study.definition import define
    from cnnlab.study.plan import plan

    with pytest.raises(ConfigError, match=r"leave trainer\.devices out, and use study\.jobs"):
        plan(define(["optimizer.lr=0.1,0.2", "trainer.devices=2"]))
