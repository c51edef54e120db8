"""Runs of a study on a Ray cluster that is started on this machine."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnnlab.errors import ConfigError
from cnnlab.study.ray_pool import connect

if TYPE_CHECKING:
    from conftest import CommandLine

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # the cluster itself is started here, by pytest under `uv run`
ray = pytest.importorskip("ray", reason="the extra cluster is not installed")

TINY = ["model=mlp", "data.limit=80", "trainer.batch_size=20", "logger=none", "trainer.precision=fp32"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one machine with two processors."""
    from ray.cluster_utils import Cluster

    without = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}  # nobody reads these here
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **without})
    yield cluster.address
    cluster.shutdown()


def states(folder: Path) -> list[str]:
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        return [row["state"] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_killed_worker_s_run_is_taken_up_again(command: CommandLine, address: str, tmp_path: Path) -> None:
    words = ["study", *TINY, "optimizer.lr=0.02,0.1", "trainer.epochs=40", "--seeds", 1, "study.dir=s"]
    running = command.start(*words, "study.launcher=ray", "study.jobs=2", f"study.address={address}", cwd=tmp_path)
    assert running.wait_until(lambda: any((tmp_path / "s").glob("runs/*/metrics.jsonl")))
    first = min((tmp_path / "s").glob("logs/*.log"), key=lambda path: path.stat().st_mtime)
    os.kill(int(first.stem.rsplit("-", 1)[1]), signal.SIGKILL)
    result = running.wait()
    assert result.code == 0, result.err
    assert "it goes on from its last state" in result.out
    assert states(tmp_path / "s") == ["done", "done"]
    for metrics in (tmp_path / "s").glob("runs/*/metrics.jsonl"):
        epochs = [json.loads(line)["epoch"] for line in metrics.read_text(encoding="utf-8").splitlines()]
        assert epochs == list(range(1, 41))


@pytest.mark.slow
def test_ctrl_c_saves_and_a_search_on_the_cluster_goes_on(command: CommandLine, address: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = ["optimizer.lr=0.001..0.1:log", "trainer.epochs=20", "study.trials=4", "study.dir=s"]
    words = ["study", *TINY, *space, "study.launcher=ray", f"study.address={address}"]
    running = command.start(*words, "study.jobs=2", cwd=tmp_path)
    running.wait_until(lambda: len(list((tmp_path / "s").glob("runs/*/metrics.jsonl"))) >= 2)
    running.send(signal.SIGINT)
    stopped = running.wait()
    assert stopped.code == 130 and stopped.error_lines[-1].startswith("stopped; the runs in progress are saved.")
    result = command(*words, "study.jobs=1", cwd=tmp_path)
    assert result.code == 0, result.err
    assert "4 trials" in result.out and len(states(tmp_path / "s")) == 4
    assert set(states(tmp_path / "s")) <= {"done", "pruned"}
    assert len(list((tmp_path / "s").glob("runs/*/test.json"))) == 1


def test_the_process_that_holds_the_messages_loads_no_torch() -> None:
    words = "import sys, cnnlab.study.inbox, cnnlab.study.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


def test_workers_start_with_their_machine_s_python_also_under_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV")
    with pytest.raises(ConfigError):
        connect("nowhere")
    assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"  # before Ray is imported, which reads it


def test_a_cluster_that_is_not_there_costs_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at study.address=127.0.0.1:{port}"):
        connect(f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="as HOST:PORT"):
        connect("somewhere")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'cnnlab[cluster]'")):
        connect("auto")
