"""A training state of the right form that training could not have come to is refused in one line."""

from __future__ import annotations

import dataclasses
import io
import itertools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cnnlab
from cnnlab.cli import main
from cnnlab.config import compose
from cnnlab.data.build import build_data
from cnnlab.experiment import build_model, run_experiment
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.state import load_state
from cnnlab.training.optim import optimizer_names
from cnnlab.training.state import Sums, TrainingState
from cnnlab.training.trainer import Trainer

RUN = ["data.limit=60", "trainer.batch_size=10", "trainer.accumulate=2", "trainer.epochs=2", "trainer.ema=0.9"]
RUN += ["trainer.precision=fp32", "trainer.threads=1", "model.width=4", "augment=none", "logger=none"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of three that has not ended."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    run_experiment(compose([*RUN, f"run.dir={folder}"]), test=False)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("epochs: 2", "epochs: 3"))
    return folder


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        holder: Any = state
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value(holder[path[-1]]) if callable(value) else value

    return change


def leave_out(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        holder: Any = state
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]

    return change


NAN, INF = float("nan"), float("inf")
WEIGHT = "head.weight"
COUNTS = {"epoch": [-5, 1.5, 1, 3, 10**30, NAN, "2", None, True, [2]], "batch": [-3, 1, 2, 4000, 0.0, "0", None]}
COUNTS |= {"step": [-1, 0, 10**12, 2**70, NAN, INF, "1"], "stale": [-1, 3, 1e9, None], "rate": [NAN, INF, "1", None]}
VALUES: tuple[Any, ...] = (None, "x\x1b[2J", -1.5, [], {}, [[[]]])
PARTS = ("counters", "sums", "norms", "optimizer", "scaler", "history", "best", "model", "average", "threads")
CHANGES = {
    **{f"{name}={value}": put("counters", name, value=value) for name, values in COUNTS.items() for value in values},
    **{f"no {part}": leave_out(part) for part in ("counters", "sums", "optimizer", "scaler", "history", "best")},
    **{f"{part}={value!r}": put(part, value=value) for part in PARTS for value in VALUES
       if (part, value) != ("scaler", {})},
    "no step": leave_out("counters", "step"),
    "a sum": put("sums", 0, value=NAN),
    "a count": put("sums", 2, value=0.5),
    "a tensor in the sums": put("sums", 0, value=torch.zeros(())),
    "no weight": leave_out("model", WEIGHT),
    "a number for a key": put("model", 7, value=torch.zeros(1)) ,
    "a text for a weight": put("model", WEIGHT, value="x"),
    "another shape": put("model", WEIGHT, value=lambda t: t[:1]),
    "another type": put("model", WEIGHT, value=lambda t: t.to(torch.complex64)),
    "half": put("average", WEIGHT, value=lambda t: t.half()),
    "sparse": put("model", WEIGHT, value=lambda t: t.to_sparse()),
    "no numbers at all": put("model", WEIGHT, value=lambda t: t.to("meta")),
    "a huge one": put("model", WEIGHT, value=torch.zeros(1).expand(10**9, 10**9)),
    "optimizer, another shape": put("optimizer", "state", 0, "momentum_buffer", value=torch.zeros(3)),
    "optimizer, a text": put("optimizer", "state", 0, "momentum_buffer", value="x"),
    "optimizer, none": put("optimizer", "state", 0, value={}),
    "optimizer, more": put("optimizer", "state", 0, "more", value=torch.zeros(3)),
    "optimizer, a parameter that is not": put("optimizer", "state", value=lambda old: old | {999: old[0]}),
    "optimizer, a text for a parameter": put("optimizer", "state", value=lambda old: old | {"x": old[0]}),
    "optimizer, no group": put("optimizer", "param_groups", value=[]),
    "optimizer, a group of none": put("optimizer", "param_groups", 0, "params", value=[]),
    "optimizer, tensors for numbers": put("optimizer", "param_groups", 0, "params", 0, value=torch.zeros(2)),
    "history, a tensor": put("history", 0, "train_loss", value=torch.zeros(())),
    "history, another epoch": put("history", 0, "epoch", value=2),
    "history, a text": put("history", 0, "more", value="<script>"),
    "history, deep": put("history", 0, "more", value=[[[]]]),
    "history, no validation": put("history", 0, "val_loss", value=None),
    "history, infinite": put("history", 1, "lr", value=INF),
    "best, a model": put("best", "model", value={"name": "os:system"}),
    "best, another epoch": put("best", "epoch", value=-1),
    "best, half": put("best", "epoch", value=1.5),
    "best, other metrics": put("best", "val_loss", value=-1.0),
    "best, no metrics": leave_out("best", "val_loss"),
}  # fmt: skip


@pytest.fixture(scope="module")
def again(stopped: Path) -> Trainer:
    return trainer_of(stopped, "trainer.epochs=3")


@pytest.mark.parametrize("name", CHANGES)
def test_a_state_that_training_cannot_have_come_to_is_refused_before_anything_changes(
    name: str, stopped: Path, again: Trainer
) -> None:
    state = load_state(stopped / "last" / "state.pt")
    before = {key: value.clone() for key, value in again.model.state_dict().items()}
    CHANGES[name](state)
    with pytest.raises(cnnlab.errors.RunError, match=r"does not fit this run: .*; restore it from a copy"):
        again.restore(state)
    assert (again.state.epoch, again.state.step, again.state.batch, again.state.history) == (0, 0, 0, [])
    assert all(torch.equal(value, before[key]) for key, value in again.model.state_dict().items())


@pytest.mark.parametrize("name", ["epoch=-5", "epoch=1.5", "batch=-3", "no counters", "another shape", "history=None"])
def test_resume_says_in_one_line_that_the_state_is_wrong(
    name: str, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stopped / "last" / "state.pt"
    content, metrics = file.read_bytes(), (stopped / "metrics.jsonl").read_bytes()
    state = load_state(file)
    CHANGES[name](state)
    torch.save(state, file)
    try:
        assert main(["resume", str(stopped)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert (stopped / "metrics.jsonl").read_bytes() == metrics
    finally:
        file.write_bytes(content)


def trainer_of(folder: Path, *more: str) -> Trainer:
    config = compose([*RUN, *more, f"run.dir={folder}"])
    data = build_data(config, torch.device("cpu"))
    return Trainer(build_model(config, data), data, config, RunFolder(folder))


def after_two_steps(trainer: Trainer) -> dict[str, Any]:
    for _ in itertools.islice(trainer.train_epoch(), 2):
        pass
    trainer.save()
    return load_state(trainer.folder.state)


@pytest.mark.parametrize("name", optimizer_names())
def test_the_state_of_every_optimizer_is_taken_back(name: str, tmp_path: Path) -> None:
    first, second = trainer_with(tmp_path, name), trainer_with(tmp_path, name)
    second.restore(after_two_steps(first))
    ours, theirs = second.optimizer.state_dict()["state"], first.optimizer.state_dict()["state"]
    assert ours.keys() == theirs.keys() and len(ours) > 3
    for number, values in theirs.items():
        assert values.keys() == ours[number].keys()
        for key, value in values.items():
            if torch.is_tensor(value):
                assert torch.equal(value, ours[number][key]) and value.stride() == ours[number][key].stride(), key
            else:
                assert value == ours[number][key]


def trainer_with(folder: Path, name: str) -> Trainer:
    config = compose([*RUN, f"run.dir={folder}"])
    config = dataclasses.replace(
        config, optimizer={"name": name, "lr": 0.001} | ({"momentum": 0.9} if name == "SGD" else {})
    )
    data = build_data(config, torch.device("cpu"))
    torch.manual_seed(0)
    return Trainer(build_model(config, data), data, config, RunFolder(folder))


@pytest.mark.parametrize("value", [-1.0, NAN, 1e30])
def test_an_optimizer_that_counts_other_steps_is_refused(value: float, tmp_path: Path) -> None:
    state = after_two_steps(trainer_with(tmp_path, "AdamW"))
    state["optimizer"]["state"][0]["step"] = torch.tensor(value)
    with pytest.raises(cnnlab.errors.RunError, match="after 2 steps"):
        trainer_with(tmp_path, "AdamW").restore(state)


def test_numbers_that_share_their_place_train_on_and_settings_in_the_file_count_for_nothing(tmp_path: Path) -> None:
    state = after_two_steps(trainer_with(tmp_path, "Muon"))
    momentum = state["optimizer"]["state"][0]["momentum"]
    state["optimizer"]["state"][0]["momentum"] = torch.zeros(1).expand(momentum.shape)
    for group in state["optimizer"]["param_groups"]:
        group.update(steps=10**9, lr="x", betas=(2.0, NAN))
    again = trainer_with(tmp_path, "Muon")
    again.restore(state)
    list(again.train_epoch())


def test_a_state_that_unpacks_to_more_than_its_size_is_refused(tmp_path: Path, stopped: Path) -> None:
    packed = tmp_path / "state.pt"
    with (
        zipfile.ZipFile(stopped / "last" / "state.pt") as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.namelist():
            new.writestr(member, old.read(member))
        new.writestr("archive/data/bomb", bytes(10_000_000))
    with pytest.raises(cnnlab.errors.RunError, match="larger than the file"):
        load_state(packed)
    stream = io.BytesIO()
    torch.save({"model": OrderedDict()}, stream)
    packed.write_bytes(stream.getvalue())
    assert load_state(packed) == {"model": {}}


def test_a_part_that_the_run_has_no_use_for_may_be_missing(stopped: Path) -> None:
    """A campaign of changed files found this one: it ended in a KeyError."""
    state = load_state(stopped / "last" / "state.pt")
    del state["adversary"], state["lost"]  # the second is newer than the first states
    trainer = trainer_of(stopped, "trainer.epochs=3")
    trainer.restore(state)
    assert trainer.state.epoch > 0


def test_an_epoch_whose_losses_overflowed_in_part_has_the_same_loss_after_a_resume() -> None:
    sums = Sums.zero(torch.device("cpu"))
    sums.loss += 30.0
    sums.lost += 8
    sums.count = 32
    again = TrainingState.from_dict(TrainingState(sums).to_dict(), torch.device("cpu"))
    again.sums.loss += 6.0
    again.sums.count += 8
    sums.loss += 6.0
    sums.count += 8
    assert again.sums.metrics() == sums.metrics() == (36.0 / 32, 0.0, None)
