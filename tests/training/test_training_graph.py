"""Steps as graphs: all but CUDA's capture itself, for which a tape of torch's operations stands in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cnnlab.config import resolve
from cnnlab.data.build import build_data
from cnnlab.device import choose_device
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.state import load_state
from cnnlab.tracking.base import Noted
from cnnlab.training import graph, trainer
from cnnlab.training.build import build_model, initialise
from cnnlab.training.graph import can_be_graphed, pays_as_graph
from cnnlab.training.trainer import Trainer

SMALL = ["data=digits", "data.limit=60", "trainer.batch_size=6", "trainer.precision=fp32", "logger=none"]
SMALL += ["trainer.threads=1", "trainer.ema=0.9", "trainer.epochs=3"]
SPEEDRUN = ["recipe=speedrun", "data.image_size=16", "model.widths=[4,6]", "trainer.epochs=3", "optimizer.lr=0.02"]
SGD = ["model=lenet", "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.05"]
KINDS = {
    "growing images": [*SPEEDRUN, "augment.start_size=0.5"],
    "accumulation, clipping": [*SGD, "trainer.accumulate=2", "trainer.batch_size=3", "trainer.grad_clip=1"],
    "mixed images": ["model=resnet", "model.depth=8", "model.width=4", "optimizer=adamw", "augment.mixup=1"],
    "gradients by layer": ["model=resnet", "model.depth=8", "model.width=4", "optimizer=muon", "logger.gradients=true"],
}


class Tape(TorchDispatchMode):
    """Keeps what is done on tensors, each tensor as it is and each number as it was, as a CUDA graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.aten._local_scalar_dense.default:
            self.operations.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def play(self) -> None:
        for func, args, kwargs, result in self.operations:
            again = func(*args, **kwargs)
            if func._schema.is_mutable:
                continue
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor):
                    old.copy_(new)


class Recorder:
    """What `recorder` gives on CUDA. Taping a step does it, where a capture does nothing: the first replay is left out.

    Attributes:
        recordings: how many; replays: how many steps were done by them.
    """

    recordings = replays = 0

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1
        tape = Tape()
        with tape:
            function()
        taped = [True]

        def replay() -> None:
            self.replays += 1
            if taped:
                taped.clear()
            else:
                tape.play()

        return replay


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Graphs on the processor."""
    found = Recorder()
    monkeypatch.setattr(trainer, "pays_as_graph", lambda *_: True)
    monkeypatch.setattr(trainer, "recorder", lambda device: found)
    monkeypatch.setattr(graph, "EAGER_STEPS", 1)
    return found


def new_trainer(folder: Path, *words: str) -> Trainer:
    config = resolve([*SMALL, *words, f"run.dir={folder}"]).config
    data = build_data(config, choose_device("cpu"), lambda done, total: None)
    folder.mkdir(exist_ok=True)
    (folder / "environment.json").write_text("{}")
    model = build_model(config, data)
    initialise(model, config, data, None)
    return Trainer(model, data, config, RunFolder(folder))


def train(run: Trainer) -> Trainer:
    while not run.finished:
        for _ in run.train_epoch():
            pass
        run.end_epoch()
    return run


def tensors(run: Trainer) -> dict[str, Tensor]:
    state = run._state()
    found = {f"model.{name}": value for name, value in state["model"].items()}
    found |= {f"average.{name}": value for name, value in state["average"].items()}
    for number, of_one in state["optimizer"]["state"].items():
        found |= {f"{number}.{key}": value for key, value in of_one.items()}
    return found


def assert_equal(one: Trainer, other: Trainer) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
    left_out = ("seconds", "images_per_second")
    for row, same in zip(one.state.history, other.state.history, strict=True):
        assert {k: v for k, v in row.items() if k not in left_out} == {k: same[k] for k in row if k not in left_out}
    assert one.gradients == other.gradients


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_steps_are_the_eager_ones_bit_for_bit(
    kind: str, tapes: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, average, optimizer, metrics, over several sizes of images and the last step of an epoch."""
    recorded = train(new_trainer(tmp_path / "recorded", *KINDS[kind]))
    assert recorded.graphs is not None
    assert tapes.replays > recorded.state.step // 2
    assert tapes.recordings == len(recorded.graphs.recordings) < tapes.replays
    monkeypatch.setattr(graph, "EAGER_STEPS", 10**6)
    replays = tapes.replays
    assert_equal(recorded, train(new_trainer(tmp_path / "eager", *KINDS[kind])))
    assert tapes.replays == replays


def test_growing_images_are_recorded_once_for_each_size(tapes: Recorder, tmp_path: Path) -> None:
    run = train(new_trainer(tmp_path / "run", *KINDS["growing images"]))
    assert run.graphs is not None
    sizes = {inputs[0].images.shape[2] for inputs, _ in run.graphs.recordings.values()}
    assert len(sizes) > 1


def test_graphs_train_as_without_them_to_rounding(tapes: Recorder, tmp_path: Path) -> None:
    """Rates are float32 there, and the average is taken in three operations."""
    recorded = train(new_trainer(tmp_path / "recorded", *KINDS["accumulation, clipping"]))
    plain = new_trainer(tmp_path / "plain", *KINDS["accumulation, clipping"])
    plain.graphs = None
    ours, theirs = tensors(recorded), tensors(train(plain))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("same_trainer", [True, False])
def test_a_resumed_run_goes_on_bit_for_bit(same_trainer: bool, tapes: Recorder, tmp_path: Path) -> None:
    """From the midst of an epoch, in a new process or over recordings that knew other tensors."""
    words = KINDS["growing images"]
    whole = train(new_trainer(tmp_path / "whole", *words))
    run = new_trainer(tmp_path / "stopped", *words)
    for _ in run.train_epoch():
        pass
    run.end_epoch()
    for _ in islice(run.train_epoch(), 4):
        pass
    run.save()
    if same_trainer:
        for _ in islice(run.train_epoch(), 2):  # it strays
            pass
    else:
        run = new_trainer(tmp_path / "stopped", *words)
    run.restore(load_state(run.folder.state))
    before = tapes.replays
    assert_equal(whole, train(run))
    assert tapes.replays > before


def test_a_failed_capture_is_said_once_and_training_goes_on(
    tapes: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(function: Callable[[], None]) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    whole = train(new_trainer(tmp_path / "whole", *KINDS["growing images"]))
    monkeypatch.setattr(trainer, "recorder", lambda device: fail)
    run = new_trainer(tmp_path / "failing", *KINDS["growing images"])
    notes = []
    while not run.finished:
        notes += [event for event in run.train_epoch() if isinstance(event, Noted)]
        run.end_epoch()
    assert_equal(whole, run)
    assert len(notes) == 1
    assert "cannot be a CUDA graph here (CUDA error: operation not permitted when stream is capturing)" in notes[0].text


def test_steps_that_draw_random_numbers_are_not_recorded(
    tapes: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing in the kinds of layers told of it."""
    monkeypatch.setattr(trainer, "can_be_graphed", lambda *_: True)
    run = train(new_trainer(tmp_path / "run", "model=mlp", "model.hidden=[8]", "model.dropout=0.5", "optimizer=adamw"))
    assert run.graphs is not None
    assert run.graphs.gave_up
    assert tapes.recordings == 0


@pytest.mark.parametrize(
    ("words", "can"),
    [
        (["optimizer=muon"], True),
        (["optimizer=adamw"], True),
        (["optimizer=adamw", "optimizer.foreach=true"], False),
        (["trainer.loss=focal"], True),
        (["init.freeze=1", "init.unfreeze_epoch=1"], False),
        (["adapt.method=dann", "adapt.data=digits"], False),
        (["model=mlp", "model.hidden=[8]", "model.dropout=0.5"], False),
    ],
)
def test_what_can_be_a_graph(words: list[str], can: bool, tmp_path: Path) -> None:
    run = new_trainer(tmp_path / "run", *(words if words[0] == "model=mlp" else ["model=lenet", *words]))
    assert can_be_graphed(run.config, run.model, run.optimizer, run.precision) is can
    assert run.graphs is None  # on a processor


def test_layers_and_hooks_of_the_users_own_are_not_recorded(tmp_path: Path) -> None:
    class Own(nn.ReLU):
        """May compute anything in Python."""

    run = new_trainer(tmp_path / "run", "model=lenet", "optimizer=muon")
    about = run.optimizer, run.precision
    assert can_be_graphed(run.config, nn.Sequential(run.model, nn.ReLU()), *about)
    assert not can_be_graphed(run.config, nn.Sequential(run.model, Own()), *about)
    run.model.register_forward_hook(lambda *_: None)
    assert not can_be_graphed(run.config, run.model, *about)
    own_loss = dataclasses.replace(run.config.trainer, loss="own")
    assert not can_be_graphed(dataclasses.replace(run.config, trainer=own_loss), nn.ReLU(), *about)
    own_task = dataclasses.replace(run.config, task="module:Class")
    assert not can_be_graphed(own_task, nn.ReLU(), *about)
    half = dataclasses.replace(run.precision, name="fp16")
    assert not can_be_graphed(run.config, nn.ReLU(), run.optimizer, half)


def test_graphs_are_for_long_runs_on_cuda_where_compile_is_auto(tmp_path: Path) -> None:
    cuda, settings = torch.device("cuda", 0), resolve([*SMALL, f"run.dir={tmp_path / 'run'}"]).config.trainer
    assert pays_as_graph(settings, cuda, steps=1000)
    assert not pays_as_graph(settings, cuda, steps=20)
    assert not pays_as_graph(settings, torch.device("mps"), steps=1000)
    never = dataclasses.replace(settings, compile=False)
    assert not pays_as_graph(never, cuda, steps=1000)
