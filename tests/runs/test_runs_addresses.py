"""A run keeps where its images and its weights lie, and is found and gone on with wherever one stands."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torchvision.datasets
import yaml
from PIL import Image

import cnnlab
from cnnlab.config import Config, DataConfig, compose, from_dict, load_yaml
from cnnlab.errors import CnnlabError, DataError, Interrupted, RunError
from cnnlab.evaluation.evaluate import evaluate
from cnnlab.experiment import resume_experiment, run_experiment
from cnnlab.files import local_path, whole_address
from cnnlab.runs.addresses import check_root, with_whole_addresses
from cnnlab.runs.opened import has_begun
from cnnlab.tracking.base import EpochEnded, Event
from small_sets import write_mnist

if TYPE_CHECKING:
    from conftest import CommandLine

RUN = [
    "model=mlp",
    "model.hidden=[8]",
    "augment=none",
    "trainer.epochs=2",
    "trainer.batch_size=20",
    "trainer.precision=fp32",
    "data.image_size=8",
    "logger=none",
]


def write_photos(root: Path, count: int = 20) -> Path:
    random = np.random.default_rng(3)
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 128, (8, 8, 3), dtype=np.uint8) + (100 if label == "dog" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{number}.png")
    return root


class Stopper:
    """A listener that ends the training as Ctrl-C does, after the first epoch."""

    def log(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            import signal

            signal.raise_signal(signal.SIGINT)

    def close(self) -> None:
        pass


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Go to a folder, made where it is missing."""

    def go(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        return folder

    return go


def stopped(*words: str) -> None:
    with pytest.raises(Interrupted):
        run_experiment(compose([*RUN, *words]), [Stopper()])


def stored(run: Path) -> Config:
    return load_yaml(run / "config.yaml")


# ---- what is kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("photos", "{here}/photos"),
        ("./photos/", "{here}/photos"),
        ("../photos", "{above}/photos"),
        ("/data/photos", "/data/photos"),
        ("~/photos", "{home}/photos"),
        ("~", "{home}"),
        ("~nobody-of-this-name/x", "{here}/~nobody-of-this-name/x"),
        ("file:///data/photos", "/data/photos"),
        ("file://photos", "{here}/photos"),
        ("gs://bucket/photos", "gs://bucket/photos"),
        ("https://a.org/p", "https://a.org/p"),
        ("Fotos/Ü ö=1, 'x'", "{here}/Fotos/Ü ö=1, 'x'"),
        ("nul\0l", "nul\0l"),
        ("link/x", "{above}/elsewhere/x"),
        ("loop", "{here}/loop"),
        ("a" * 5000, "{here}/" + "a" * 5000),
    ],
)
def test_every_address_is_kept_whole(
    places: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, given: str, kept: str
) -> None:
    here = places("here")
    monkeypatch.setenv("HOME", str(here.parent / "home"))
    (here.parent / "elsewhere").mkdir()
    (here / "link").symlink_to("../elsewhere")
    (here / "loop").symlink_to("loop")
    keys = ("data.root", "data.backgrounds", "adapt.root", "init.from")
    config = with_whole_addresses(compose([f"{key}={given}" for key in keys]))
    found = [config.data.root, config.data.backgrounds, config.adapt.root, config.init.source]
    assert found == 4 * [kept.format(here=here, above=here.parent, home=here.parent / "home")]
    assert with_whole_addresses(config) == config


@pytest.mark.parametrize("source", ["torchvision:resnet18", "wandb:me/project/model:best", "gs://b/run", "hf:x/y"])
def test_a_source_that_is_no_file_stays(source: str) -> None:
    found = with_whole_addresses(compose([f"init.from={source}"])).init.source
    assert found == (source if not source.startswith("hf:") else os.path.realpath(source))


def test_a_tilde_of_nobody_is_one_line(tmp_path: Path) -> None:
    assert local_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    for key, value in (("data.root", "~nobody-of-this-name/x"), ("data.root", "a" * 5000), ("data.root", "loop")):
        with pytest.raises(CnnlabError) as caught:
            run_experiment(compose([*RUN, "data=folder", f"{key}={value}", f"run.dir={tmp_path / 'run'}"]))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_folder_of_an_offline_run_of_wandb_is_kept_whole(places: Callable[[str], Path]) -> None:
    here = places("here")
    (here / "offline-run-1").mkdir()
    kept = with_whole_addresses(compose(["init.from=wandb:offline-run-1"])).init.source
    assert kept == f"wandb:{here / 'offline-run-1'}"


def test_a_run_folder_below_a_tilde_is_in_the_users_home(
    places: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = places("here")
    monkeypatch.setenv("HOME", str(here.parent / "home"))
    run = run_experiment(compose([*RUN, "data.limit=60", "run.dir=~/runs/mine"])).dir
    assert run == here.parent / "home" / "runs" / "mine"
    assert list(here.iterdir()) == []
    assert evaluate("~/runs/mine")["n"] > 0


# ---- the same command again


def test_a_run_on_relative_photographs_is_found_and_ends_elsewhere(places: Callable[[str], Path]) -> None:
    here = places("here")
    write_photos(here / "photos")
    words = ["data=folder", "data.root=photos", "run.dir=run"]
    stopped(*words)
    config = stored(here / "run")
    assert (config.data.root, config.run.dir) == (str(here / "photos"), str(here / "run"))
    assert has_begun(compose([*RUN, *words]))

    there = places("there")
    assert resume_experiment("../here/run")[1]
    assert cnnlab.evaluate("../here/run")["n"] > 0
    places("here")
    assert len(run_experiment(compose([*RUN, *words]), resume=True).history) == 2
    assert list(there.iterdir()) == []


def test_a_way_up_through_a_folder_that_is_not_there_is_the_folder_it_ends_in(places: Callable[[str], Path]) -> None:
    here = places("here")
    stopped("data.limit=60", "run.dir=new/../run")
    assert [path.name for path in here.iterdir()] == ["run"]
    assert has_begun(compose([*RUN, "data.limit=60", "run.dir=run"]))
    assert has_begun(compose([*RUN, "data.limit=60", "run.dir=./other/../run/"]))


@pytest.mark.parametrize("root", ["", "/nope"])
def test_a_root_that_is_none_is_refused_whether_a_run_has_ended_or_not(
    places: Callable[[str], Path], run_on_mnist: Path, root: str
) -> None:
    for _ in range(2):
        with pytest.raises(CnnlabError, match="--data-root"):
            resume_experiment("run", data_root=root)
        if root:
            return
        resume_experiment("run")


def test_an_empty_name_in_the_folder_of_an_earlier_version_is_none() -> None:
    assert from_dict({"run": {"dir": "", "name": ""}}).run.dir == ""


def test_a_link_to_the_working_folder_changes_nothing(
    places: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = places("here")
    write_photos(here / "photos")
    (tmp_path / "link").symlink_to(here)
    monkeypatch.chdir(tmp_path / "link")
    monkeypatch.setenv("PWD", str(tmp_path / "link"))
    words = ["data=folder", "data.root=photos", "run.dir=run"]
    stopped(*words)
    monkeypatch.chdir(here)
    assert has_begun(compose([*RUN, *words]))
    assert has_begun(compose([*RUN, "data=folder", f"data.root={tmp_path / 'link' / 'photos'}", "run.dir=run"]))
    assert resume_experiment(tmp_path / "link" / "run")[1]


def test_a_run_that_was_moved_goes_on(places: Callable[[str], Path], tmp_path: Path) -> None:
    here = places("here")
    write_photos(here / "photos")
    stopped("data=folder", "data.root=photos", "run.dir=runs/one")
    (tmp_path / "archive").mkdir()
    shutil.move(here / "runs" / "one", tmp_path / "archive" / "two")
    places("there")
    assert resume_experiment("../archive/two")[1]
    assert cnnlab.evaluate("../archive/two")["n"] > 0


def test_a_run_begun_with_the_weights_of_a_relative_one_is_found(places: Callable[[str], Path]) -> None:
    here = places("here")
    run_experiment(compose([*RUN, "data.limit=60", "run.dir=first"]))
    words = ["data.limit=60", "init.from=first", "run.dir=second"]
    stopped(*words)
    assert stored(here / "second").init.source == str(here / "first")
    assert has_begun(compose([*RUN, *words]))
    assert has_begun(compose([*RUN, *words[:1], f"init.from={here / 'first'}", "run.dir=second"]))
    places("there")
    with pytest.raises(RunError, match=r"another init than this \(init.source='.*here/first', not '.*there/first'\)"):
        has_begun(compose([*RUN, *words[:2], f"run.dir={here / 'second'}"]))


def test_the_number_of_processes_makes_no_other_run(places: Callable[[str], Path]) -> None:
    places("here")
    stopped("data.limit=60", "run.dir=run")
    assert has_begun(compose([*RUN, "data.limit=60", "run.dir=run", "trainer.devices=2"]))
    with pytest.raises(RunError, match=r"another trainer than this \(trainer.epochs=2, not 3\)"):
        has_begun(compose([*RUN, "data.limit=60", "run.dir=run", "trainer.epochs=3"]))
    with pytest.raises(RunError, match=r"another seed than this \(0, not 1\)"):
        has_begun(compose([*RUN, "data.limit=60", "run.dir=run", "seed=1"]))


def test_a_set_that_needs_no_folder_is_found_from_any(places: Callable[[str], Path]) -> None:
    here = places("here")
    stopped("data.limit=60", "run.dir=run")
    places("there")
    words = [*RUN, "data.limit=60", f"run.dir={here / 'run'}"]
    assert len(run_experiment(compose(words), resume=True).history) == 2


def test_the_same_command_with_another_root_goes_on_there_if_the_images_are_the_same(
    places: Callable[[str], Path], tmp_path: Path
) -> None:
    here = places("here")
    write_photos(here / "photos")
    stopped("data=folder", "data.root=photos", "run.dir=run")
    shutil.move(here / "photos", tmp_path / "moved")
    write_photos(tmp_path / "other", count=21)
    words = [*RUN, "data=folder", "run.dir=run"]
    with pytest.raises(RunError, match="the images are not those"):
        run_experiment(compose([*words, f"data.root={tmp_path / 'other'}"]), resume=True)
    assert stored(here / "run").data.root == str(here / "photos")
    assert len(run_experiment(compose([*words, "data.root=../moved"]), resume=True).history) == 2
    assert stored(here / "run").data.root == str(tmp_path / "moved")
    assert cnnlab.evaluate("run")["n"] > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are started as on Linux")
@pytest.mark.parametrize("launcher", ["ours", "torchrun"])
def test_several_processes_find_their_own_run(command: CommandLine, tmp_path: Path, launcher: str) -> None:
    write_photos(tmp_path / "photos")
    words = ["train", *RUN, "data=folder", "data.root=photos", "run.dir=run", "--resume"]
    if launcher == "ours":
        for first in (True, False):  # it begins; it finds that nothing is left
            done = command(*words, "trainer.devices=2", cwd=tmp_path, new_interpreters=first)
            assert done.code == 0, done.out + done.err
    else:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cnnlab"]
        begun = subprocess.run([*start, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert begun.returncode == 0, begun.stdout + begun.stderr
        size = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
        ranks = [{"RANK": rank, "LOCAL_RANK": rank} | size for rank in ("0", "1")]
        both = [command.start(*words, cwd=tmp_path, environment=rank) for rank in ranks]  # as torchrun starts them
        for done in [process.wait() for process in both]:
            assert done.code == 0, done.out + done.err
    config = stored(tmp_path / "run")
    assert (config.data.root, config.trainer.devices) == (str(tmp_path / "photos"), 2)


def free_port() -> str:
    with socket.create_server(("localhost", 0)) as server:
        return str(server.getsockname()[1])


# ---- images that are not there


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that torchvision was asked to download."""
    asked: list[str] = []

    def download(self: Any) -> None:
        asked.append(str(self.root))
        raise OSError("no network in tests")

    for name in ("MNIST", "FashionMNIST", "CIFAR10"):
        monkeypatch.setattr(getattr(torchvision.datasets, name), "download", download)
    return asked


@pytest.fixture
def run_on_mnist(places: Callable[[str], Path]) -> Path:
    here = places("here")
    write_mnist(here / "data", train=60, test=20)
    stopped("data=mnist", "run.dir=run")
    return here / "run"


def test_a_run_on_a_downloaded_root_is_found(places: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here = places("here")

    def download(self: Any) -> None:
        write_mnist(Path(self.root), train=60, test=20)

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    words = ["data=mnist", "run.dir=run"]
    stopped(*words)
    assert stored(here / "run").data.root == str(here / "data")
    places("there")
    assert resume_experiment(here / "run")[1]
    places("here")
    assert len(run_experiment(compose([*RUN, *words]), resume=True).history) == 2


def test_neither_test_nor_resume_fetches_a_set_or_leaves_a_folder(
    places: Callable[[str], Path], run_on_mnist: Path, no_network: list[str]
) -> None:
    there = places("there")
    assert cnnlab.evaluate(run_on_mnist, split="val")["n"] > 0  # from another folder
    shutil.move(run_on_mnist.parent / "data", there.parent / "moved")
    for attempt in (resume_experiment, evaluate):
        with pytest.raises(DataError) as caught:
            attempt(run_on_mnist)
        assert str(run_on_mnist.parent / "data") in str(caught.value)
        assert "--data-root" in str(caught.value)
    assert evaluate(run_on_mnist, "val", data_root="../moved")["n"] > 0
    assert resume_experiment(run_on_mnist, data_root="../moved")[1]
    assert stored(run_on_mnist).data.root == str(there.parent / "moved")
    assert evaluate(run_on_mnist)["n"] == 20
    assert no_network == []
    assert list(there.iterdir()) == []
    assert not (run_on_mnist.parent / "data").exists()


def test_a_run_of_an_earlier_version_keeps_its_relative_root(
    places: Callable[[str], Path], run_on_mnist: Path, no_network: list[str]
) -> None:
    file = run_on_mnist / "config.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    values["data"]["root"], values["run"]["dir"] = "data", "run"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    places("here")
    assert has_begun(compose([*RUN, "data=mnist", "run.dir=run"]))
    assert evaluate("run", "val")["n"] > 0
    there = places("there")
    with pytest.raises(DataError, match=r"mnist is not below data, where \.\./here/run has its images; .*--data-root"):
        evaluate("../here/run", "val")
    with pytest.raises(DataError, match="--data-root"):
        resume_experiment("../here/run")
    assert no_network == []
    assert list(there.iterdir()) == []
    assert resume_experiment("../here/run", data_root="../here/data")[1]
    assert evaluate("../here/run")["n"] == 20  # it knows the place from now on


def test_a_test_fetches_a_set_when_it_is_told_to(
    places: Callable[[str], Path], run_on_mnist: Path, no_network: list[str]
) -> None:
    there = places("there")
    with pytest.raises(DataError, match="could not download mnist"):
        evaluate(run_on_mnist, data="mnist", data_root=str(there / "new"), download=True)
    assert no_network


def test_a_download_that_fails_leaves_no_empty_folder(places: Callable[[str], Path], no_network: list[str]) -> None:
    here = places("here")
    for name in ("mnist", "cifar10"):
        with pytest.raises(DataError, match="could not download"):
            run_experiment(compose([*RUN, f"data={name}", "data.root=deep/data", "run.dir=run"]))
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("words", [["test", "RUN", "--data-root", "/nope"], ["export", "RUN", "--data-root", "/nope"]])
def test_a_root_for_a_set_that_has_none_is_refused(
    command: CommandLine, finished_run: Path, tmp_path: Path, words: list[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    before = sorted(str(path) for path in run.rglob("*"))
    done = command(*(run if word == "RUN" else word for word in words))
    assert done.code == 2
    assert len(done.error_lines) == 1 and "leave out --data-root" in done.err
    assert sorted(str(path) for path in run.rglob("*")) == before


def test_every_command_opens_a_run_from_another_folder(
    command: CommandLine, places: Callable[[str], Path], tmp_path: Path
) -> None:
    here = places("here")
    write_photos(here / "photos")
    words = [*RUN, "model=convnet", "data=folder", "data.root=photos", "run.dir=run"]
    words.remove("model.hidden=[8]")
    assert command("train", *words, cwd=here).code == 0
    there = tmp_path / "there"
    there.mkdir()
    image = here / "photos" / "cat" / "0.png"
    for given in (
        ["test", "../here/run"],
        ["predict", "../here/run", image],
        ["explain", "../here/run", image],
        ["resume", "../here/run"],
        ["compare", "../here/run", here / "run"],
    ):
        done = command(*given, cwd=there)
        assert done.code == 0, done.err
    assert [path.name for path in there.iterdir()] == ["compare.png"]
    shutil.move(here / "photos", tmp_path / "moved")
    refused = command("test", "../here/run", cwd=there)
    assert refused.code == 2
    assert len(refused.error_lines) == 1
    assert command("test", "../here/run", "--data-root", "../moved", cwd=there).code == 0
    done = command("resume", "../here/run", "--data-root", "../moved", cwd=there)
    assert done.code == 0, done.err


def test_whole_addresses_survive_the_configuration_file(tmp_path: Path) -> None:
    for text in ("photos \udcff", "a\nb", "- x", "#", "1e5", "no", "ünï"):
        config = with_whole_addresses(from_dict({"data": {"root": text}}))
        assert config.data.root == whole_address(text) == str(Path.cwd() / text)


def test_a_run_of_a_folder_that_was_moved_names_that_folder(tmp_path: Path) -> None:
    gone = tmp_path / "photos"
    told = r"photos, where mine has its images; .* holds them now with --data-root"
    with pytest.raises(DataError, match=told) as caught:
        check_root(DataConfig(name="folder", root=str(gone)), Path("mine"))
    assert str(caught.value).startswith(f"there is no folder {gone}, ")
