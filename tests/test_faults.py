"""Every mistake of a user: exit code 2, one line on standard error, no traceback, nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from cnnlab.runs.state import load_state

if TYPE_CHECKING:
    from conftest import CommandLine, Result

SMALL = ["data.limit=40", "trainer.epochs=1", "trainer.batch_size=20", "model.width=4", "logger=none"]


def one_line(result: Result) -> str:
    assert result.code == 2, result
    assert len(result.error_lines) == 1, result.err
    assert "Traceback" not in result.out + result.err
    return str(result.error_lines[0])


def nothing_below(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.name != ".lock"]


def refused(command: CommandLine, tmp_path: Path, *words: object) -> str:
    """Train in an empty folder; it must stay empty."""
    place = tmp_path / "work"
    place.mkdir()
    line = one_line(command("train", *words, cwd=place))
    assert nothing_below(place), sorted(place.rglob("*"))
    return line


# ---- keys and values


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model=resnt"], "'resnet'"),
        (["data=cifar01"], "'cifar10'"),
        (["trainer.epoch=3"], "'trainer.epochs'"),
        (["modle=resnet"], "'model'"),
        (["model=resnet", "model.dept=8"], "'depth'"),
        (["optimizer=adm"], "'adam'"),
        (["optimizer=NAdma"], "'NAdam'"),
        (["optimizer.momentm=0.5"], "'momentum'"),
        (["model.name=resnt"], "'resnet'"),
        (["data.name=digts"], "'digits'"),
        (["augment=strng"], "'strong'"),
        (["trainer.epochs=ten"], "trainer.epochs"),
        (["trainer.epochs=1.5"], "trainer.epochs"),
        (["trainer.batch_size=0"], "trainer.batch_size"),
        (["model=resnet", "model.depth=deep"], "model.depth"),
        (["model=resnet", "model.depth=21"], "nearest: 20, 26"),
        (["model=resnet", "model.depth=null"], "model.depth"),
        (["model=mlp", "model.hidden=5"], "model.hidden"),
        (["model=mlp", "model.hidden=[a]"], "hidden"),
        (["model.name=null"], "model"),
        (["model.name=5"], "model"),
        (["model.width=[1,2]"], "width"),
        (["model.stem_stride=true"], "stem_stride"),
        (["model.in_channels=3"], "channel"),
        (["model.num_classes=3"], "num_classes"),
        (["data.image_size=1"], "image_size"),
        (["model.blocks=5"], "blocks"),
        (["optimizer.weight_decay=much"], "weight_decay"),
        (["optimizer.weight_decay=-1"], "weight_decay"),
        (["optimizer=muon", "optimizer.other_lr_scale=small"], "other_lr_scale"),
        (["optimizer=muon", "optimizer.steps=many"], "steps"),
        (["optimizer=adam", "optimizer.betas=[0.9]"], "betas"),
        (["optimizer=LBFGS"], "LBFGS"),
        (["trainer.class_weights=[1,2]"], "class_weights"),
        (["trainer.precision=fp16", "trainer.device=cpu"], "fp16"),
        (["trainer.device=cuda:99"], "auto"),
        (["data.val_fraction=0.9", "data.test_fraction=0.9"], "data.val_fraction"),
        (["data.limit=3"], "data.limit"),
        (["model=mlp", "model.batch_norm=true", "trainer.batch_size=1"], "batch"),
        (["model=resnet", "model.depth=8", "data.image_size=2", "trainer.batch_size=1"], "batch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_setting_is_one_line_and_no_folder(
    words: list[str], named: str, command: CommandLine, tmp_path: Path
) -> None:
    assert named in refused(command, tmp_path, "data.limit=40", "trainer.epochs=1", *words)


# ---- images


def image(path: Path, seed: int = 0, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def two_classes(root: Path, count: int = 10) -> None:
    for number in range(count):
        image(root / "cat" / f"{number}.png", number)
        image(root / "dog" / f"{number}.png", 1000 + number)


def nothing(root: Path) -> None:
    pass


def a_file(root: Path) -> None:
    root.write_text("a file")


def empty(root: Path) -> None:
    root.mkdir()


def empty_class(root: Path) -> None:
    two_classes(root)
    (root / "mouse").mkdir()


def class_only_in_test(root: Path) -> None:
    two_classes(root / "train")
    two_classes(root / "test")
    image(root / "test" / "mouse" / "1.png")


def no_train_folder(root: Path) -> None:
    two_classes(root / "val")
    two_classes(root / "test")


def one_class(root: Path) -> None:
    image(root / "cat" / "1.png")
    image(root / "cat" / "2.png")


def texts(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        (root / name / "notes.txt").write_text("not an image")


def loose_images(root: Path) -> None:
    for number in range(5):
        image(root / f"{number}.png", number)


def texts_named_png(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            (root / name / f"{number}.png").write_text("not an image")


def one_class_unreadable(root: Path) -> None:
    two_classes(root, 200)
    for file in (root / "dog").iterdir():
        file.unlink()
    (root / "dog" / "1.png").write_text("not an image")


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (nothing, "is not a folder"),
        (a_file, "is not a folder"),
        (empty, "no class folders"),
        (empty_class, "mouse"),
        (class_only_in_test, "'mouse'"),
        (no_train_folder, "train"),
        (one_class, "'cat'"),
        (texts, "*.txt"),
        (loose_images, "5 loose images"),
    ],
)
def test_a_folder_that_is_no_data_set_is_one_line(
    build: Callable[[Path], None], named: str, command: CommandLine, tmp_path: Path
) -> None:
    build(tmp_path / "photos")
    line = refused(command, tmp_path, "data=folder", f"data.root={tmp_path / 'photos'}", "trainer.epochs=1")
    assert named in line
    assert "photos" in line or "mouse" in line


@pytest.mark.parametrize(("build", "named"), [(texts_named_png, "8 of 8"), (one_class_unreadable, "'dog'")])
def test_a_folder_of_unreadable_files_ends_with_one_line(
    build: Callable[[Path], None], named: str, command: CommandLine, tmp_path: Path
) -> None:
    build(tmp_path / "photos")
    place = tmp_path / "work"
    result = command("train", "data=folder", f"data.root={tmp_path / 'photos'}", "data.max_corrupt=0.5", cwd=place)
    assert result.code == 2
    assert named in result.error_lines[-1]
    assert [line for line in result.error_lines if not line.startswith("decoding images")] == result.error_lines[-1:]
    assert nothing_below(place)


def test_the_nearest_folder_is_offered(command: CommandLine, tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    assert "photos" in refused(command, tmp_path, "data=folder", f"data.root={tmp_path / 'fotos'}")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "caltech101"])
def test_a_missing_set_is_one_line_with_the_fix(name: str, command: CommandLine, tmp_path: Path) -> None:
    words = [f"data={name}", f"data.root={tmp_path / 'nowhere'}", "data.download=false"]
    line = refused(command, tmp_path, *words)
    assert "data.root" in line
    assert "data.download=true" in line


def test_images_smaller_than_the_network_takes_are_one_line(command: CommandLine, tmp_path: Path) -> None:
    for number in range(6):
        image(tmp_path / "photos" / "cat" / f"{number}.png", number, side=1)
        image(tmp_path / "photos" / "dog" / f"{number}.png", 10 + number, side=1)
    words = ["data=folder", f"data.root={tmp_path / 'photos'}", "model=vgg", "augment=none"]
    place = tmp_path / "work"
    result = command("train", *words, cwd=place)
    assert result.code == 2
    assert "too small" in result.error_lines[-1]
    assert nothing_below(place)


@pytest.mark.skipif(os.name == "nt", reason="Windows names are Unicode")
def test_images_with_names_of_another_encoding_are_trained_on_or_refused_in_one_line(
    command: CommandLine, tmp_path: Path
) -> None:
    two_classes(tmp_path / "photos")
    photos = os.fsencode(tmp_path / "photos" / "cat")
    os.rename(os.path.join(photos, b"0.png"), os.path.join(photos, b"caf\xe9.png"))
    words = ["data=folder", f"data.root={tmp_path / 'photos'}", "model=mlp", "model.hidden=[4]", "augment=none"]
    result = command("train", *words, "trainer.epochs=1", "logger=none", f"run.dir={tmp_path / 'run'}")
    if result.code:
        assert "caf" in one_line(result)
        assert not (tmp_path / "run").exists()
    else:
        assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("name", ["a b", "it's", "ü=日本", "[x], {y}\\"])
def test_a_run_folder_may_have_any_name(name: str, command: CommandLine, tmp_path: Path) -> None:
    result = command("train", *SMALL, f"run.dir={tmp_path / name}")
    assert result.code == 0, result.err
    assert command("test", tmp_path / name).code == 0
    assert command("resume", tmp_path / name).code == 0


# ---- run folders


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_another_run_is_left_as_it_is(command: CommandLine, run: Path) -> None:
    before = content(run)
    line = one_line(command("train", *SMALL, f"run.dir={run}"))
    assert f"cnnlab resume {run}" in line
    assert content(run) == before


def test_a_folder_that_holds_other_files_is_left_as_it_is(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    one_line(command("train", *SMALL, f"run.dir={tmp_path / 'thesis'}"))
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["test", "predict", "resume", "compare"])
def test_a_run_that_is_not_there_is_one_line_with_the_nearest(name: str, command: CommandLine, run: Path) -> None:
    words = [run.parent / "rum", *([run / "report.html"] if name == "predict" else [])]
    line = one_line(command(name, *words))
    assert "rum" in line
    assert f"Did you mean '{run}'?" in line


@pytest.mark.parametrize("name", ["test", "predict", "resume", "compare"])
def test_a_folder_that_is_no_run_is_one_line(name: str, command: CommandLine, tmp_path: Path) -> None:
    image(tmp_path / "folder" / "a.png")
    words = [tmp_path / "folder", *([tmp_path / "folder" / "a.png"] if name == "predict" else [])]
    assert "config.yaml" in one_line(command(name, *words))


@pytest.mark.parametrize("name", ["test", "predict"])
def test_a_run_without_weights_is_one_line(name: str, command: CommandLine, run: Path) -> None:
    image(run.parent / "a.png")
    shutil.rmtree(run / "best")
    before = content(run)
    line = one_line(command(name, run, *([run.parent / "a.png"] if name == "predict" else [])))
    assert "no weights" in line
    assert content(run) == before


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["test", "predict"])
def test_truncated_weights_are_one_line(name: str, share: float, command: CommandLine, run: Path) -> None:
    image(run.parent / "a.png")
    weights = run / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    before = content(run)
    line = one_line(command(name, run, *([run.parent / "a.png"] if name == "predict" else [])))
    assert "truncated" in line
    assert content(run) == before


@pytest.mark.parametrize("file", ["config.yaml", "split.json"])
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"[1, 2"])
def test_a_damaged_file_of_a_run_is_one_line(file: str, damage: bytes, command: CommandLine, run: Path) -> None:
    (run / file).write_bytes(damage)
    assert file in one_line(command("test", run))


@pytest.mark.parametrize("file", ["config.yaml", "split.json", "environment.json", "metrics.jsonl"])
def test_an_unfinished_run_without_one_of_its_files_is_no_traceback(file: str, command: CommandLine, run: Path) -> None:
    (run / "report.html").unlink()
    (run / file).unlink()
    result = command("resume", run)
    assert "Traceback" not in result.err
    assert result.code in (0, 2)
    if result.code == 2:
        assert file in one_line(result)


@pytest.mark.parametrize("name", ["test", "predict"])
def test_a_device_that_is_none_is_one_line(name: str, command: CommandLine, run: Path) -> None:
    image(run.parent / "a.png")
    words = [run, *([run.parent / "a.png"] if name == "predict" else []), "--device", "tpu"]
    assert "tpu" in one_line(command(name, *words))


# ---- where nothing can be written


def test_a_file_where_the_folder_should_be_is_one_line(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "file" / "deep" / "run"):
        one_line(command("train", *SMALL, f"run.dir={path}"))
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_place_that_takes_no_folders_is_one_line(command: CommandLine) -> None:
    assert "/proc" in one_line(command("train", *SMALL, "run.dir=/proc/cnnlab/run"))


def test_a_name_that_is_too_long_is_one_line(command: CommandLine, tmp_path: Path) -> None:
    one_line(command("train", *SMALL, f"run.dir={tmp_path / ('n' * 300)}"))
    one_line(command("resume", tmp_path / ("n" * 300)))
    one_line(command("train", "data=folder", f"data.root={tmp_path / ('n' * 300)}"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_one_line(command: CommandLine, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert "permission" in one_line(command("train", *SMALL, f"run.dir={closed / 'run'}"))
    closed.chmod(0)
    assert "permission" in one_line(command("train", *SMALL, f"run.dir={closed / 'run'}"))
    closed.chmod(0o700)


class Disk:
    """A file system of its own, of a few MB."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, options: str) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        return subprocess.run(words, capture_output=True).returncode == 0

    def fill(self) -> None:
        with open(self.path / "ballast", "wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(b"\0" * size) == size:
                        pass
                except OSError:
                    pass


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    made = Disk(place)
    if sys.platform != "linux" or os.geteuid() != 0 or not made.mount("size=16m"):
        pytest.skip("only root on Linux can mount a small disk")
    yield made
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_without_room_for_a_run_is_one_line_and_no_folder(command: CommandLine, disk: Disk) -> None:
    disk.fill()
    line = one_line(command("train", *SMALL, f"run.dir={disk.path / 'run'}"))
    assert "no space left" in line
    assert [path.name for path in disk.path.iterdir()] == ["ballast"]


def test_a_disk_that_fills_up_while_training_is_one_line_and_the_run_goes_on_later(
    command: CommandLine, disk: Disk
) -> None:
    folder = disk.path / "run"
    words = ["trainer.epochs=100000", "trainer.checkpoint_minutes=0", f"run.dir={folder}"]
    running = command.start("train", *SMALL, *words)
    running.wait_until(lambda: (folder / "metrics.jsonl").exists())
    disk.fill()
    line = one_line(running.wait())
    assert "no space left" in line
    assert f"cnnlab resume {folder}" in line
    assert not list(folder.rglob("*.tmp"))
    done = load_state(folder / "last" / "state.pt")["counters"]["step"]
    assert done > 0
    (disk.path / "ballast").unlink()
    running = command.start("resume", folder)
    running.wait_until(lambda: load_state(folder / "last" / "state.pt")["counters"]["step"] > done)
    running.send(15)
    assert running.wait().code == 130


def test_no_room_for_decoded_images_is_one_line(command: CommandLine, disk: Disk, tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    disk.fill()
    words = ["data=folder", f"data.root={tmp_path / 'photos'}", "data.storage=mmap", "augment=none"]
    place = tmp_path / "work"
    result = command("train", *words, cwd=place, environment={"CNNLAB_CACHE": str(disk.path / "cache")})
    assert result.code == 2
    assert "CNNLAB_CACHE" in result.error_lines[-1]
    assert "Traceback" not in result.err
    assert nothing_below(place)


def test_a_cache_that_cannot_be_written_is_one_line(command: CommandLine, tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    (tmp_path / "file").write_text("a file")
    words = ["data=folder", f"data.root={tmp_path / 'photos'}"]
    place = tmp_path / "work"
    place.mkdir()
    caches = [tmp_path / "file" / "cache", *([Path("/proc/cache")] if sys.platform == "linux" else [])]
    for cache in caches:
        result = command("train", *words, cwd=place, environment={"CNNLAB_CACHE": str(cache)})
        assert "CNNLAB_CACHE" in one_line(result)
        assert nothing_below(place)


def test_a_read_only_disk_is_one_line(command: CommandLine, disk: Disk, finished_run: Path) -> None:
    run = Path(shutil.copytree(finished_run, disk.path / "run"))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(disk.path / "a.png")
    assert disk.mount("remount,ro")
    before = content(disk.path)
    assert command("predict", run, disk.path / "a.png").code == 0  # reading is enough
    assert "permission" in one_line(command("train", *SMALL, f"run.dir={disk.path / 'new'}"))
    assert "permission" in one_line(command("test", run))
    result = command("resume", run)
    assert "Traceback" not in result.err
    assert result.code in (0, 2)
    assert content(disk.path) == before


# ---- a loss that is no number


def test_a_loss_that_is_no_number_is_one_line_with_the_step_and_leaves_a_state(
    command: CommandLine, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = ["model=mlp", "model.hidden=[8,8]", "optimizer=sgd", "optimizer.lr=9e5", "trainer.ema=null"]
    words += ["data.limit=200", "trainer.batch_size=10", "trainer.epochs=30", "schedule=constant", "logger=none"]
    line = one_line(command("train", *words, f"run.dir={folder}"))
    assert "not finite at step" in line
    assert "optimizer.lr" in line
    state = load_state(folder / "last" / "state.pt")
    assert all(value.isfinite().all() for value in state["model"].values() if value.is_floating_point())
    again = one_line(command("resume", folder))
    step = [text.split("at step ")[1].split()[0] for text in (line, again)]
    assert step[0] == step[1] != "1"
