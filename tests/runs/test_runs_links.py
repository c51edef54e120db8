"""Nothing is written or read through a link in a run folder that leads out of it; the folder itself may be one."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from cnnlab.cli import main
from cnnlab.errors import RunError
from cnnlab.evaluation.plots import plot_curves
from cnnlab.files import write_whole
from cnnlab.runs import copies
from cnnlab.runs.files import refuse_links, separate
from cnnlab.runs.folder import RunFolder, open_folder
from cnnlab.runs.opened import opened_run
from cnnlab.study.study import lock_study
from cnnlab.tracking.wandb import run_id

if TYPE_CHECKING:
    from conftest import CommandLine

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows makes links only for administrators")

SECRET = "name: hunter2\n"


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "evil"))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user's, beside a folder of the user's."""
    (tmp_path / "victims").mkdir()
    file = tmp_path / "victims" / "victim"
    file.write_text(SECRET)
    return file


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "x.png"
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(file)
    return file


def unharmed(victim: Path) -> bool:
    return victim.read_text() == SECRET and list(victim.parent.iterdir()) == [victim]


WRITTEN = [
    *("explain", "explain/x-cam.png", "localize", "localize/x.json", "predict", "export", "export/web"),
    *("best", "best/model.safetensors", "last", "last/state.pt", "tensorboard", "wandb", "wandb.json", ".lock"),
    *(".remote.json", ".remote.lock", ".upload", "config.yaml", "split.json", "metrics.jsonl", "test.json"),
    *("predictions.csv", "report.html", "own/deep/down"),
]


def put_link(place: Path, target: Path) -> None:
    """A relative link in the place of whatever is there, as an archive holds it."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath(target, place.parent))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_run_folder_with_a_link_that_leads_out_is_not_opened(name: str, run: Path, victim: Path) -> None:
    for target in (victim, victim.parent, victim.parent / "new"):
        put_link(run / name, target)
        for use in (lambda: open_folder(run), RunFolder(run).lock):
            if name == "config.yaml" and not target.exists():  # no run at all
                continue
            with pytest.raises(RunError, match=f"{name} is a link that leads out of its folder; delete it"):
                use()


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "explain/x-cam.png": "explain RUN IMAGE",
        "localize": "localize RUN IMAGE",
        "tensorboard": "resume RUN",
        "best": "resume RUN",
        "config.yaml": "test RUN",
        "export": "export RUN",
    }.items(),
)
def test_a_command_refuses_the_link_in_one_line_and_leaves_what_it_leads_to(
    name: str, words: str, run: Path, victim: Path, image: Path, command: CommandLine
) -> None:
    put_link(run / name, victim if "." in name else victim.parent)
    (run / "report.html").unlink()
    result = command(*words.replace("RUN", str(run)).replace("IMAGE", str(image)).split())
    assert result.code == 2 and len(result.error_lines) == 1, result.err
    assert "leads out" in result.err and "hunter2" not in result.out + result.err
    assert unharmed(victim)


@pytest.mark.parametrize("name", ["last", ".lock", "environment.json", ".config.yaml.tmp"])
def test_a_new_run_does_not_begin_in_a_folder_with_a_link_that_leads_out(
    name: str, tmp_path: Path, victim: Path, command: CommandLine, tiny: list[str]
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / name).symlink_to(victim.parent if name == "last" else victim)
    result = command("train", *tiny, f"run.dir={tmp_path / 'new'}")
    assert result.code == 2 and len(result.error_lines) == 1 and "leads out" in result.err, result.err
    assert unharmed(victim)


@pytest.mark.parametrize("name", ["logs", "runs", "search.db", "results.csv", "report.html"])
def test_a_study_is_not_run_in_a_folder_with_a_link_that_leads_out(name: str, tmp_path: Path, victim: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / name).symlink_to(victim)
    with pytest.raises(RunError, match="leads out"):
        lock_study(tmp_path / "study")
    assert unharmed(victim)


def test_the_run_folder_itself_and_those_above_it_may_be_links(
    run: Path, image: Path, tmp_path: Path, command: CommandLine
) -> None:
    (tmp_path / "disk").mkdir()
    run.rename(tmp_path / "disk" / "real")
    (tmp_path / "disk" / "mine").symlink_to("real")
    (tmp_path / "runs").symlink_to("disk")
    result = command("explain", str(tmp_path / "runs" / "mine"), str(image))
    assert result.code == 0, result.err
    assert list((tmp_path / "disk" / "real" / "explain").iterdir())


def test_a_link_that_stays_in_the_folder_is_one_of_its_files(run: Path, image: Path, command: CommandLine) -> None:
    (run / "wandb" / "offline-run-1").mkdir(parents=True)
    (run / "wandb" / "latest-run").symlink_to("offline-run-1")  # as W&B makes it
    (run / "wandb" / "again").symlink_to(run / "wandb")
    assert command("explain", str(run), str(image)).code == 0
    with opened_run(f"wandb:{run}/wandb/latest-run") as folder:
        assert folder == run


def test_a_link_to_an_offline_run_elsewhere_does_not_open_that_run(run: Path, finished_run: Path) -> None:
    (run / "wandb").mkdir()
    (run / "wandb" / "offline-run-1").symlink_to(finished_run / "best")
    with pytest.raises(RunError, match="leads out"), opened_run(f"wandb:{run}/wandb/offline-run-1"):
        pass


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "last/state.pt", "best/model.safetensors"])
def test_a_pipe_in_a_run_folder_is_not_waited_for(name: str, run: Path, command: CommandLine) -> None:
    (run / name).unlink()
    (run / "report.html").unlink()
    os.mkfifo(run / name)
    began = time.monotonic()
    result = command("resume", str(run))
    assert result.code == 2 and len(result.error_lines) == 1 and "neither a file nor a folder" in result.err
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("write", [write_whole, lambda path, data: plot_curves({}, path)])
def test_what_is_written_takes_the_place_of_a_link_and_leaves_what_it_leads_to(
    make: Callable[[Path, Path], None], write: Callable[[Path, str], object], victim: Path, tmp_path: Path
) -> None:
    make(tmp_path / "file.png", victim)
    write(tmp_path / "file.png", "new")
    assert unharmed(victim) and not (tmp_path / "file.png").is_symlink()
    assert SECRET.encode() not in (tmp_path / "file.png").read_bytes()


def test_a_link_under_the_temporary_name_is_not_written_through(victim: Path, tmp_path: Path) -> None:
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(victim)
    write_whole(tmp_path / "file", "new")
    assert unharmed(victim) and (tmp_path / "file").read_text() == "new"


def test_an_image_on_its_way_to_a_device_does_not_replace_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda *names: pytest.fail("a device is replaced"))
    with pytest.raises(ValueError, match="not supported"):
        plot_curves({}, "/dev/null.none/x.xyz")
    from cnnlab.figure import NotebookFigure, save_figure

    save_figure(NotebookFigure(), Path("/dev/null"), dpi=50)


@pytest.mark.parametrize("name", ["test.json", "explain/x-cam.png", "metrics.jsonl", "wandb.json"])
def test_a_second_name_of_another_file_is_replaced_and_not_written_on(
    name: str, run: Path, victim: Path, image: Path, command: CommandLine
) -> None:
    place = run / name
    content = place.read_text() if place.exists() else SECRET
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    victim.write_text(content)
    place.hardlink_to(victim)
    if name == "wandb.json":
        place.unlink()
        run_id(run)
    elif name == "metrics.jsonl":
        RunFolder(run).write_history([])
    else:
        assert command(*(["test", str(run)] if name == "test.json" else ["explain", str(run), str(image)])).code == 0
    assert victim.read_text() == content


def test_what_is_written_on_gets_a_copy_of_its_own_before(victim: Path, tmp_path: Path) -> None:
    (tmp_path / "log").hardlink_to(victim)
    separate(tmp_path / "log")
    with open(tmp_path / "log", "a") as file:
        file.write("more")
    assert unharmed(victim) and (tmp_path / "log").read_text() == SECRET + "more"
    separate(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_lock_that_is_another_file_is_refused_and_an_empty_one_is_not(run: Path, victim: Path) -> None:
    (run / ".lock").unlink(missing_ok=True)
    (run / ".lock").hardlink_to(victim)
    with pytest.raises(RunError, match="may be emptied"):
        open_folder(run)
    (run / ".lock").unlink()
    (run / "copy").touch()
    (run / ".lock").hardlink_to(run / "copy")  # as `cp -al` leaves it
    refuse_links(run)


def test_a_record_of_a_bucket_counts_only_where_cnnlab_put_it(run: Path, image: Path, command: CommandLine) -> None:
    record = {"address": "gs://a-stranger/bucket", "files": {}}
    (run / copies.RECORD).write_text(json.dumps(record))
    assert copies.address_of(run) is None
    result = command("explain", str(run), str(image))
    assert result.code == 0 and not result.err, result.err  # no word of an upload that failed


@pytest.mark.parametrize("content", [b"no database " * 500, b"SQLite format 3\0" + bytes(84)])
def test_a_damaged_database_of_a_search_is_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "search.db").write_bytes(content)
    words = ["optimizer.lr=0.001..1:log", "study.trials=2", f"study.dir={tmp_path}", "--dry-run"]
    assert main(["study", *words]) == 2
    error = capsys.readouterr().err
    assert "search.db is damaged" in error and len(error.splitlines()) == 1
