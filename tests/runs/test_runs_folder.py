"""The run folder: its names, who may write there, and a model rebuilt from it alone."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cnnlab.config import compose, load_yaml
from cnnlab.errors import CnnlabError, RunError
from cnnlab.runs import environment
from cnnlab.runs.environment import describe, git_revision
from cnnlab.runs.files import write_json
from cnnlab.runs.folder import RunFolder, new_folder, open_folder, read_environment, read_split
from cnnlab.runs.state import load_state, save_state
from cnnlab.runs.weights import load_run, read_weights


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


# ---- names

FIXED = [
    "config.yaml",
    "environment.json",
    "split.json",
    "metrics.jsonl",
    "best/model.safetensors",
    "best/model.json",
    "last/state.pt",
    "test.json",
    "predictions.csv",
    "report.html",
    "tensorboard",
]


@pytest.mark.parametrize("name", FIXED)
def test_a_finished_run_has_its_fixed_files(name: str, finished_run: Path) -> None:
    assert (finished_run / name).exists()


def test_a_finished_run_has_no_other_files(finished_run: Path) -> None:
    files = {path.relative_to(finished_run).as_posix() for path in finished_run.rglob("*") if path.is_file()}
    others = {name for name in files - set(FIXED) if not name.startswith("tensorboard/")}
    assert others == {".lock", "best/objects.json"}


def test_the_names_are_those_of_the_object(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.state == tmp_path / "last" / "state.pt"
    assert folder.weights == tmp_path / "best" / "model.safetensors"
    assert list(tmp_path.iterdir()) == []


def test_a_run_names_itself_after_data_model_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose(["data=cifar10", "model=mlp"])
    first = new_folder(config)
    assert first.path.match("runs/cifar10-mlp-*-*")
    first.path.mkdir(parents=True)
    assert new_folder(config).path != first.path
    assert new_folder(compose(["run.name=mine"])).path == Path("runs/mine")
    assert new_folder(compose(["run.dir=there", "run.name=mine"])).path == Path("there")


# ---- who may write


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    RunFolder(tmp_path).refuse_if_taken()
    RunFolder(tmp_path / "new").refuse_if_taken()


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "best", "notes.txt", "photos"])
def test_a_folder_that_holds_something_is_not_mixed_with(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=r"run\.dir"):
        RunFolder(tmp_path).refuse_if_taken()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError):
            RunFolder(path).refuse_if_taken()
            RunFolder(path).lock()


def test_the_lock_keeps_a_second_out_until_it_is_released(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    lock = folder.lock()
    with pytest.raises(RunError, match="another process"):
        folder.lock()
    lock.release()
    folder.lock().release()


def test_the_nearest_run_is_offered(tmp_path: Path) -> None:
    for name in ("digits-1", "digts-images"):
        (tmp_path / name).mkdir()
    (tmp_path / "digits-1" / "config.yaml").touch()  # the other one is no run
    with pytest.raises(RunError, match=f"Did you mean '{tmp_path / 'digits-1'}'"):
        open_folder(tmp_path / "digts-1")
    with pytest.raises(RunError, match="no run folder"):
        open_folder(tmp_path / "nowhere" / "run")
    with pytest.raises(RunError, match=r"no config\.yaml"):
        open_folder(tmp_path / "digts-images")


@pytest.mark.parametrize("path", ["", ".", "/", "\0", "a" * 300])
def test_strange_paths_are_no_runs(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError):
        open_folder(path)


# ---- what a run tells


def test_history_is_read_back(finished_run: Path) -> None:
    rows = RunFolder(finished_run).history()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


def test_a_damaged_history_is_one_line(run: Path) -> None:
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"epoch": 5, "ste')
    with pytest.raises(RunError, match="metrics"):
        RunFolder(run).history()


def test_no_history_is_no_epoch(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).history() == []


@pytest.mark.parametrize("content", ["[]", "{}", '{"sha256": 3}', "", "null"])
def test_a_damaged_split_is_one_line(content: str, run: Path) -> None:
    (run / "split.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"split\.json"):
        read_split(RunFolder(run))


def test_the_split_names_every_image_once(finished_run: Path) -> None:
    split = read_split(RunFolder(finished_run))
    members = [split["members"][part] for part in ("train", "val", "test")]
    assert [len(part) for part in members] == [split["sizes"][part] for part in ("train", "val", "test")] == [200] * 3
    assert len({name for part in members for name in part}) == 600


def test_the_config_is_whole(finished_run: Path) -> None:
    config = load_yaml(finished_run / "config.yaml")
    assert config.model == {"name": "vgg", "width": 4}
    assert config.data.limit == 200
    assert config.run.dir == str(finished_run)


def test_the_environment_says_what_the_run_was_made_with(finished_run: Path) -> None:
    facts = json.loads((finished_run / "environment.json").read_text(encoding="utf-8"))
    assert facts["command"][:2] == ["cnnlab", "train"]
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0] or facts["versions"]["torch"]
    assert facts["machine"]["threads"] == 1
    assert facts["machine"]["cores"] == os.cpu_count()


def test_the_environment_of_a_run_from_source_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    folder = RunFolder(tmp_path)
    write_json(folder.environment, describe())
    assert read_environment(folder)["versions"]["no-such-package"] == "not installed"


def test_the_revision_is_that_of_the_folder_the_command_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision() is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *words], check=True, cwd=tmp_path)
    revision = git_revision()
    assert revision is not None
    assert len(revision["commit"]) == 40
    assert revision["modified"] is False
    (tmp_path / "file").write_text("x")
    assert (git_revision() or {})["modified"] is True
    monkeypatch.setenv("PATH", "")
    assert git_revision() is None
    assert describe()["git"] is None


# ---- weights


def test_the_card_inside_the_weights_is_the_card_beside_them(finished_run: Path) -> None:
    _, inside = read_weights(finished_run / "best" / "model.safetensors")
    beside = json.loads((finished_run / "best" / "model.json").read_text(encoding="utf-8"))
    assert inside == beside
    assert inside["classes"] == [str(digit) for digit in range(10)]
    assert {"model", "classes", "preprocess", "epoch", "val_accuracy", "val_loss", "git"} <= set(inside)


def test_a_model_is_rebuilt_from_the_weights_file_alone(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    shutil.copy(finished_run / "best" / "model.safetensors", tmp_path / "best")
    shutil.copy(finished_run / "config.yaml", tmp_path)
    model, card = load_run(tmp_path)
    assert not model.training
    assert card["model"]["name"] == "vgg"
    with safe_open(finished_run / "best" / "model.safetensors", framework="pt") as file:
        for name, value in model.state_dict().items():
            assert torch.equal(value, file.get_tensor(name)), name


def test_a_run_without_weights_says_how_to_get_some(run: Path) -> None:
    (run / "best" / "model.safetensors").unlink()
    with pytest.raises(RunError, match=f"no weights.*cnnlab resume {run}"):
        load_run(run)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 1000, -1])
def test_truncated_weights_are_refused(size: int, run: Path) -> None:
    weights = run / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(RunError, match=r"damaged or truncated"):
        load_run(run)


def test_weights_that_are_a_folder_are_refused(run: Path) -> None:
    (run / "best" / "model.safetensors").unlink()
    (run / "best" / "model.safetensors").mkdir()
    with pytest.raises(RunError):
        load_run(run)


def test_weights_of_something_else_are_refused(run: Path) -> None:
    save_file({"a": torch.zeros(3)}, run / "best" / "model.safetensors")
    with pytest.raises(RunError, match="holds no cnnlab model"):
        load_run(run)


def rewrite(run: Path, change: Any) -> None:
    tensors, card = read_weights(run / "best" / "model.safetensors")
    tensors, card = change(tensors, json.loads(json.dumps(card))) or (tensors, card)
    save_file(tensors, run / "best" / "model.safetensors", metadata={"cnnlab": json.dumps(card)})


def without_a_tensor(tensors: dict[str, Tensor], card: Any) -> Any:
    return dict(list(tensors.items())[1:]), card


def with_a_longer_tensor(tensors: dict[str, Tensor], card: Any) -> Any:
    return tensors | {"head.bias": torch.zeros(11)}, card


def card_with(**changes: Any) -> Any:
    return lambda tensors, card: (tensors, card | changes)


@pytest.mark.parametrize(
    "change",
    [
        without_a_tensor,
        with_a_longer_tensor,
        card_with(model={"name": "vgg", "arguments": {"width": 5}}),
        card_with(model={"name": "nothing", "arguments": {}}),
        card_with(model={"name": "vgg", "arguments": {"wdith": 4}}),
        card_with(model={"name": "vgg", "arguments": [1]}),
        card_with(model={"name": ["vgg"], "arguments": {}}),
        card_with(model={"name": "vgg"}),
        card_with(model="vgg"),
        card_with(model=None),
        card_with(preprocess={}),
        card_with(preprocess=None),
        card_with(preprocess={"layout": {"height": 8, "width": 8, "mode": "L"}, "mean": [0.5, 0.5], "std": [1.0]}),
        card_with(preprocess={"layout": {"height": 8, "width": 8, "mode": "L"}, "mean": [0.5], "std": [0.0]}),
        card_with(classes=["only one"]),
        card_with(classes=None),
    ],
)
def test_weights_that_do_not_fit_their_card_are_refused(change: Any, run: Path) -> None:
    rewrite(run, change)
    with pytest.raises(RunError, match=r"model\.safetensors"):
        load_run(run)


def test_a_class_by_its_path_in_a_card_is_not_imported(run: Path) -> None:
    rewrite(run, card_with(model={"name": "antigravity:Model", "arguments": {}}))
    with pytest.raises(CnnlabError):
        load_run(run)
    import sys

    assert "antigravity" not in sys.modules


# ---- state


def test_a_state_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    state = {"model": {"w": torch.randn(3)}, "counters": {"epoch": 3}, "history": [{"a": None, "b": 0.1}], "s": "ü"}
    save_state(tmp_path / "state.pt", state)
    loaded = load_state(tmp_path / "state.pt")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert {key: loaded[key] for key in loaded if key != "model"} == {k: state[k] for k in state if k != "model"}


def test_a_state_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in ([1, 2], {"weights": 3}, "text", torch.zeros(2)):
        torch.save(content, tmp_path / "state.pt")
        with pytest.raises(RunError, match=r"state\.pt"):
            load_state(tmp_path / "state.pt")
    with pytest.raises(RunError):
        load_state(tmp_path / "missing.pt")
    with pytest.raises(RunError):
        load_state(tmp_path)


def test_a_program_in_a_state_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"model": Bomb()}, tmp_path / "state.pt")
    with pytest.raises(RunError):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "exploded").exists()
    with open(tmp_path / "state.pt", "wb") as file:
        pickle.dump({"model": Bomb()}, file, protocol=2)
    with pytest.raises(RunError):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "exploded").exists()


def test_a_damaged_state_is_one_line_wherever_the_damage_is(finished_run: Path, tmp_path: Path) -> None:
    whole = (finished_run / "last" / "state.pt").read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        if draw.random() < 0.5:
            del damaged[draw.randrange(len(whole)) :]
        else:
            place = draw.randrange(len(whole))
            damaged[place : place + 8] = draw.randbytes(8)
        (tmp_path / "state.pt").write_bytes(damaged)
        try:
            load_state(tmp_path / "state.pt")
        except RunError as error:
            assert len(str(error).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damage_to_the_pickle_itself_is_one_line(tmp_path: Path) -> None:
    draw = random.Random(1)
    whole = pickle.dumps({"model": {"a": [1, 2.5, "x"]}, "history": [{"b": None}]}, protocol=2)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        (tmp_path / "state.pt").write_bytes(damaged)
        try:
            load_state(tmp_path / "state.pt")
        except RunError as error:
            assert len(str(error).splitlines()) == 1


def test_the_folder_object_is_frozen(tmp_path: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunFolder(tmp_path).path = tmp_path  # type: ignore[misc]


def test_the_run_that_is_meant_is_named_by_a_path_that_works_from_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "runs" / "nodes", dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"no run folder runs/noods\. Did you mean 'runs/nodes'\?"):
        open_folder("runs/noods")
    with pytest.raises(RunError, match=r"no run folder runs/zzz\. Known: runs/nodes\.$"):
        open_folder("runs/zzz")
    assert open_folder("runs/nodes").config.exists()
