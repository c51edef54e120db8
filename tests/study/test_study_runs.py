"""Studies as they are run: skipped, cut off, failed, twice at once."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cnnlab
from cnnlab.study.worker import StopRequest, _stop_requested
from small_sets import write_mnist

if TYPE_CHECKING:
    from conftest import CommandLine

TINY = [
    "model=mlp",
    "data.limit=60",
    "trainer.epochs=2",
    "trainer.batch_size=20",
    "logger=none",
    "trainer.precision=fp32",
]
GRID = [*TINY, "model.hidden=[4],[8]", "optimizer.lr=0.02,0.1"]


def rows(folder: Path) -> list[dict[str, str]]:
    """Of results.csv, without what the clock says."""
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        del row["seconds"], row["images_per_second"]
    return found


def table(folder: Path) -> list[str]:
    """The rows of table.md, without the column of the time."""
    lines = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    cut = [line.split("|") for line in lines if line.startswith("| ")]
    place = next(i for i, name in enumerate(cut[0]) if "time" in name)
    return ["|".join(part for i, part in enumerate(parts) if i != place) for parts in cut] + [
        line for line in lines if line.startswith("- ")
    ]


@pytest.fixture(scope="module")
def whole(command: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of twelve runs that nothing disturbed."""
    place = tmp_path_factory.mktemp("whole")
    result = command("study", *GRID, "--seeds", 3, "study.dir=s", cwd=place)
    assert result.code == 0, result.err
    (place / "printed.txt").write_text(result.out, encoding="utf-8")
    return place / "s"


def test_a_study_writes_its_table_its_metrics_and_its_page(whole: Path) -> None:
    found = rows(whole)
    assert len(found) == 12 and {row["state"] for row in found} == {"done"}
    for row in found:
        test = json.loads((whole / row["folder"] / "test.json").read_text(encoding="utf-8"))
        assert float(row["test_accuracy"]) == pytest.approx(test["accuracy"], abs=1e-5)
    assert [row["seed"] for row in found] == ["0"] * 4 + ["1"] * 4 + ["2"] * 4
    assert int(found[0]["parameters"]) == 64 * 4 + 4 + 4 * 10 + 10
    printed = (whole.parent / "printed.txt").read_text(encoding="utf-8")
    assert "12/12" in printed and "hidden=[4], lr=0.02" in printed and "report  s/report.html" in printed
    assert "hidden=[8], lr=0.1" in (whole / "report.html").read_text(encoding="utf-8")


def test_what_is_done_is_not_done_again(command: CommandLine, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("runs/*/report.html")}
    result = command("study", *GRID, "--seeds", 3, "study.dir=s", cwd=whole.parent)
    assert result.code == 0 and "1/12" not in result.out
    assert {path: path.stat().st_mtime_ns for path in whole.glob("runs/*/report.html")} == before
    listed = command("study", *GRID, "--seeds", 4, "study.dir=s", "--dry-run", cwd=whole.parent)
    states = [line.split()[0] for line in listed.out.splitlines()]
    assert states == ["done"] * 12 + ["to"] * 4


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_table(command: CommandLine, whole: Path, tmp_path: Path) -> None:
    words = ["study", *GRID, "--seeds", 3, "study.dir=s", "study.jobs=2"]
    folder = tmp_path / "s"
    for wanted in (1, 4, 8):
        running = command.start(*words, cwd=tmp_path)
        running.wait_until(lambda wanted=wanted: len(list(folder.glob("runs/*/last/state.pt"))) >= wanted)
        running.send(signal.SIGKILL)
        assert running.wait().code == -signal.SIGKILL
    result = command(*words, cwd=tmp_path)
    assert result.code == 0, result.err
    assert rows(folder) == rows(whole)
    assert table(folder) == table(whole)


def workers(parent: int) -> list[int]:
    """Worker processes of a study."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and b"resource_tracker" not in (stat.parent / "cmdline").read_bytes():
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_worker_is_replaced_and_its_run_taken_up_again(command: CommandLine, tmp_path: Path) -> None:
    words = ["study", *TINY, "optimizer.lr=0.02,0.1", "--seeds", 1, "study.dir=s", "trainer.epochs=60"]
    running = command.start(*words, cwd=tmp_path)
    running.wait_until(lambda: list((tmp_path / "s").glob("runs/*/metrics.jsonl")))
    victims = workers(running.pid)
    assert len(victims) == 1
    os.kill(victims[0], signal.SIGKILL)
    result = running.wait()
    assert result.code == 0, result.err
    assert "it goes on from its last state" in result.out
    assert {row["state"] for row in rows(tmp_path / "s")} == {"done"}
    assert {row["epochs"] for row in rows(tmp_path / "s")} == {"60"}


def test_ctrl_c_saves_and_leaves_no_process(command: CommandLine, tmp_path: Path) -> None:
    words = ["study", *TINY, "optimizer.lr=0.02,0.1", "--seeds", 1, "study.dir=s", "trainer.epochs=2000"]
    running = command.start(*words, cwd=tmp_path)
    running.wait_until(lambda: list((tmp_path / "s").glob("runs/*/metrics.jsonl")))
    busy = workers(running.pid)
    running.send(signal.SIGINT)
    result = running.wait()
    assert result.code == 130
    assert result.error_lines[-1] == "stopped; the runs in progress are saved. Go on with the same command."
    assert list((tmp_path / "s").glob("runs/*/last/state.pt"))
    assert not [pid for pid in busy if Path(f"/proc/{pid}").exists()]


def test_two_at_once_are_refused(command: CommandLine, tmp_path: Path) -> None:
    words = ["study", *TINY, "optimizer.lr=0.02,0.1", "--seeds", 1, "study.dir=s", "trainer.epochs=2000"]
    running = command.start(*words, cwd=tmp_path)
    running.wait_until(lambda: list((tmp_path / "s").glob("runs/*/metrics.jsonl")))
    second = command(*words, cwd=tmp_path)
    running.send(signal.SIGINT)
    running.wait()
    assert second.code == 2
    assert second.error_lines == [
        "cnnlab study: another process runs the study in s; wait for it or choose another study.dir."
    ]


def test_a_run_that_diverges_is_a_result_and_the_others_go_on(command: CommandLine, tmp_path: Path) -> None:
    words = [*TINY, "trainer.loss=mse", "optimizer.lr=0.02,999999", "trainer.epochs=6"]
    result = command("study", *words, "--seeds", 1, "study.dir=s", cwd=tmp_path)
    assert result.code == 0, result.err
    assert "0 (1 diverged)" in result.out
    states = [row["state"] for row in rows(tmp_path / "s")]
    assert states[0] == "done" and states[1].startswith("the loss is not finite")


def test_what_no_run_could_begin_with_costs_one_line_and_no_folder(command: CommandLine, tmp_path: Path) -> None:
    result = command("study", "model=resnet", "model.depth=8,21", "data.limit=60", "study.dir=s", cwd=tmp_path)
    assert result.code == 2
    assert len(result.error_lines) == 1 and "depth=21: depth must be 6n+2" in result.err
    assert result.out == ""  # no word of runs that cannot be
    assert not (tmp_path / "s" / "runs").exists()


def test_a_run_that_cannot_be_done_is_named_at_the_end(command: CommandLine, tmp_path: Path) -> None:
    words = ["study", *TINY, "optimizer.lr=0.02,0.1", "--seeds", 1, "study.dir=s"]
    listed = command(*words, "--dry-run", cwd=tmp_path)
    first = Path(listed.out.splitlines()[0].split()[-1])
    (tmp_path / first).mkdir(parents=True)
    (tmp_path / first / "mine.txt").write_text("in the way")
    result = command(*words, cwd=tmp_path)
    assert result.code == 2
    assert "1 of the runs failed" in result.error_lines[-1] and "holds other files" in result.err
    assert [row["state"] == "done" for row in rows(tmp_path / "s")] == [False, True]


def test_a_study_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = cnnlab.run_study(*TINY, "optimizer.lr=0.02,0.1", "study.dir=s", seeds=2)
    assert [cell.combination.label for cell in study.cells] == ["lr=0.02", "lr=0.1"]
    assert all(len(cell.rows) == 2 for cell in study.cells)
    assert study.cells[0].mean("test_accuracy") is not None and len(study.differences) == 1
    assert study.dir == Path("s") and not study.failed


def test_accuracy_on_another_set(command: CommandLine, tmp_path: Path) -> None:
    """test_on: the run's own test split is not what the table shows."""
    write_mnist(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(
        "title: Mine\noverrides: [data=mnist, data.channels=3, recipe=source_only, model.width=4]\n"
        "axes: {trainer.epochs: [1, 2]}\ntest_on: [data=mnist_m]\n"
    )
    words = ["study", "mine.yaml", "data.root=data", "--seeds", 1, "data.download=false"]
    result = command(*words, cwd=tmp_path)
    assert result.code == 0, result.err
    assert "test accuracy (mnist_m)" in result.out
    for row in rows(tmp_path / "studies" / "mine"):
        folder = tmp_path / "studies" / "mine" / row["folder"]
        elsewhere = json.loads((folder / "evaluation-test-mnist_m.json").read_text())
        assert float(row["test_accuracy"]) == pytest.approx(elsewhere["accuracy"], abs=1e-5)


def write_classes(root: Path, *sizes: int) -> Path:
    """A folder of images for each class, so many in each."""
    import numpy as np
    from PIL import Image

    for label, size in enumerate(sizes):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(size):
            pixels = np.full((8, 8), 60 * label + number, np.uint8)
            Image.fromarray(pixels).save(root / f"class{label}" / f"{number}.png")
    return root


FOLDER = ["data=folder", "data.root=set", "data.image_size=8", "model=mlp", "model.hidden=[4]", "trainer.epochs=1"]
FOLDER += ["augment=none", "logger=none", "trainer.precision=fp32"]


def test_seeds_with_test_splits_of_other_sizes_are_compared(command: CommandLine, tmp_path: Path) -> None:
    """Without an official test split each seed has its own, of 3 or 4 images here."""
    write_classes(tmp_path / "set", 5, 5, 5, 1)
    words = ["study", *FOLDER, "data.test_fraction=0.25", "optimizer.lr=0.01,0.1", "--seeds", 6, "study.dir=s"]
    result = command(*words, cwd=tmp_path)
    assert result.code == 0, result.err
    sizes = {
        json.loads((tmp_path / "s" / row["folder"] / "test.json").read_text(encoding="utf-8"))["n"]
        for row in rows(tmp_path / "s")
    }
    assert sizes == {3, 4}
    text = (tmp_path / "s" / "table.md").read_text(encoding="utf-8")
    assert "n = 6" in text and "each seed has its own" in text
    assert "each seed has its own" in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")


def test_without_test_images_the_first_line_says_what_is_not_compared(command: CommandLine, tmp_path: Path) -> None:
    write_classes(tmp_path / "set", 6, 6)
    words = [*FOLDER, "data.test_fraction=0", "data.val_fraction=0.3", "optimizer.lr=0.01,0.1", "study.dir=s"]
    result = command("study", *words, "--seeds", 2, cwd=tmp_path)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    said = next(place for place, line in enumerate(lines) if line.startswith("no test images: no test accuracy"))
    assert said < next(place for place, line in enumerate(lines) if "1/4" in line)
    text = (tmp_path / "s" / "table.md").read_text(encoding="utf-8")
    assert "| validation accuracy |" in text and "nan" not in text and "points" not in text
    assert "Not compared, because there are no test images: lr=0.01; lr=0.1." in text


def test_a_setting_without_test_images_is_named_and_the_others_are_compared(
    command: CommandLine, tmp_path: Path
) -> None:
    """data.test_fraction is an axis: other test images for each value, and none for one of them."""
    write_classes(tmp_path / "set", 12, 12)
    words = [*FOLDER, "data.test_fraction=0,0.2,0.4", "study.dir=s"]
    result = command("study", *words, "--seeds", 2, cwd=tmp_path)
    assert result.code == 0, result.err
    assert "no test images for test_fraction=0: no test accuracy" in result.out
    text = (tmp_path / "s" / "table.md").read_text(encoding="utf-8")
    assert "Not compared, because there are no test images: test_fraction=0." in text
    assert text.count("not on the same test images") == 1


def test_a_stop_that_the_parent_asks_for_is_seen_by_the_run_in_progress() -> None:
    here, there = multiprocessing.Pipe()
    assert not _stop_requested(there)
    here.send(StopRequest())
    assert _stop_requested(there)
    here.close()
    assert not _stop_requested(there)  # the parent is gone: another thread ends the worker
