"""What is no number is never saved, never kept as best, and ends the run by one line that says how to go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnlab
from cnnlab.config import compose
from cnnlab.errors import CnnlabError, ConfigError, Interrupted, ModelError, NonFiniteLoss, RunError
from cnnlab.experiment import resume_experiment
from cnnlab.finite import infinite_buffers, non_finite
from cnnlab.models.registry import MODELS
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.state import load_state, save_state
from cnnlab.runs.weights import load_run
from cnnlab.training.average import WeightAverage
from cnnlab.training.interrupt import InterruptGuard

WORDS = ["data.limit=80", "trainer.batch_size=20", "logger=none", "trainer.precision=fp32", "schedule=constant"]
WORDS += ["optimizer=sgd", "trainer.ema=null"]
PER_EPOCH = 4  # steps
NAN, INF = float("nan"), float("inf")


class Faulty(nn.Module):
    """A small network with batch norm; `harm` may do anything at a training pass, which it is told the number of."""

    harm: Any = None
    calls = 0

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, num_classes)

    def harmed(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            Faulty.calls += 1
            if Faulty.harm is not None:
                x = Faulty.harm(self, x, Faulty.calls)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.harmed(x)
        return self.head(self.norm(self.body(x)).relu().mean((2, 3)))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "faulty", Faulty)
    monkeypatch.setattr(Faulty, "harm", None)
    monkeypatch.setattr(Faulty, "calls", 0)


def train(folder: Path, *words: str, epochs: int = 3, **more: Any) -> cnnlab.experiment.Run:
    data = cnnlab.load_data("digits", limit=80, batch_size=20)
    torch.manual_seed(0)
    model = cnnlab.create_model("faulty")
    words = ("logger=none", "trainer.precision=fp32", "schedule=constant", "optimizer=sgd", "optimizer.lr=0.1", *words)
    ema = () if any(word.startswith("trainer.ema") for word in words) else ("trainer.ema=null",)
    return cnnlab.fit(model, data, epochs=epochs, dir=folder, overrides=[*words, *ema], **more)


def stored(folder: Path) -> dict[str, Any]:
    return load_state(folder / "last" / "state.pt")


def assert_finite(folder: Path) -> dict[str, Any]:
    state = stored(folder)
    parts = {name: state[name] for name in ("model", "average", "optimizer", "adversary", "sums", "norms")}
    assert non_finite(parts) == []
    return state


def passing_nan(at: int) -> Any:
    return lambda model, x, call: x * NAN if call == at else x


def weights_after(at: int, value: float = NAN) -> Any:
    """The gradient of that pass is no number, though its loss is one."""

    def harm(model: Faulty, x: Tensor, call: int) -> Tensor:
        if call == at:
            handle = model.head.weight.register_hook(lambda gradient: (handle.remove(), gradient * 0 + value)[1])
        return x

    return harm


def buffer_after(at: int, value: float = INF) -> Any:
    def harm(model: Faulty, x: Tensor, call: int) -> Tensor:
        if call == at:
            model.norm.running_var.fill_(value)  # of an infinite variance come answers that are numbers
        return x

    return harm


@pytest.mark.parametrize(
    ("harm", "at", "ema", "minutes"),
    [
        (passing_nan, 6, "0.9", "0"),
        (passing_nan, 6, "null", "5"),
        (passing_nan, 1, "null", "0"),
        (weights_after, 6, "null", "0"),
        (weights_after, 8, "0.9", "5"),
        (buffer_after, 6, "0.9", "0"),
        (buffer_after, 8, "null", "5"),
    ],
)
def test_the_last_finite_state_stays_and_is_gone_on_from(
    harm: Any, at: int, ema: str, minutes: str, tmp_path: Path
) -> None:
    words = (f"trainer.ema={ema}", f"trainer.checkpoint_minutes={minutes}")
    Faulty.harm = harm(at)
    with pytest.raises(NonFiniteLoss, match="is not finite at step") as caught:
        train(tmp_path / "run", *words)
    assert "\n" not in str(caught.value) and f"cnnlab resume {tmp_path / 'run'} optimizer.lr=0.01" in str(caught.value)
    state = assert_finite(tmp_path / "run")
    assert state["counters"]["step"] <= at
    assert state["counters"]["step"] >= (at - 1 if minutes == "0" else (at - 1) // PER_EPOCH * PER_EPOCH)
    Faulty.harm = None
    unbroken = train(tmp_path / "unbroken", *words)
    run, _ = resume_experiment(tmp_path / "run")
    ours, theirs = stored(run.dir), stored(unbroken.dir)
    assert all(torch.equal(ours["model"][name], value) for name, value in theirs["model"].items())
    for name in ("best/model.safetensors", "test.json"):
        assert (run.dir / name).read_bytes() == (unbroken.dir / name).read_bytes()


def test_what_is_not_finite_at_the_end_is_no_model(tmp_path: Path) -> None:
    """The last step of all makes the weights NaN: no further loss shows it."""
    Faulty.harm = weights_after(PER_EPOCH)
    with pytest.raises(NonFiniteLoss, match=r"model\.head\.weight is not finite at step 4 \(epoch 1\)"):
        train(tmp_path / "run", epochs=1)
    assert not (tmp_path / "run" / "best").exists() and not (tmp_path / "run" / "test.json").exists()
    assert assert_finite(tmp_path / "run")["counters"]["step"] == 0


def test_muon_stays_finite_however_often_it_iterates(tmp_path: Path) -> None:
    data = cnnlab.load_data("digits", limit=80, batch_size=80)
    model = cnnlab.create_model("mlp", image_size=8, in_channels=1, num_classes=10)
    words = ["logger=none", "optimizer=muon", "optimizer.steps=1000"]
    run = cnnlab.fit(model, data, epochs=1, dir=tmp_path / "run", overrides=words)
    assert_finite(run.dir)
    assert np.isfinite(cnnlab.evaluate(run.dir)["loss"])


def test_weights_that_overflow_in_the_last_step_are_refused(tmp_path: Path) -> None:
    data = cnnlab.load_data("digits", limit=80, batch_size=80)
    model = cnnlab.create_model("mlp", image_size=8, in_channels=1, num_classes=10)
    words = ["logger=none", "optimizer=muon", "optimizer.weight_decay=1e60"]
    with pytest.raises(NonFiniteLoss, match="weight is not finite at step 1"):
        cnnlab.fit(model, data, epochs=1, dir=tmp_path / "run", overrides=words)
    assert_finite(tmp_path / "run")


def test_ctrl_c_while_a_weight_is_nan_keeps_the_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Faulty.harm = weights_after(6)
    monkeypatch.setattr(InterruptGuard, "requested", property(lambda guard: Faulty.calls >= 6), raising=False)
    monkeypatch.setattr(InterruptGuard, "__init__", lambda guard: None)
    monkeypatch.setattr(InterruptGuard, "__enter__", lambda guard: guard)
    monkeypatch.setattr(InterruptGuard, "__exit__", lambda guard, *error: None)
    with pytest.raises(CnnlabError) as caught:
        train(tmp_path / "run")
    assert isinstance(caught.value, NonFiniteLoss) and not isinstance(caught.value, Interrupted)
    assert assert_finite(tmp_path / "run")["counters"]["step"] == PER_EPOCH


@pytest.mark.parametrize("key", ["optimizer.lr=0.01", "trainer.grad_clip=1"])
def test_a_resume_goes_on_from_it_at_a_lower_rate(key: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    data = cnnlab.load_data("digits", limit=200, batch_size=20)
    model = cnnlab.create_model("mlp", image_size=8, in_channels=1, num_classes=10)
    words = ["logger=none", "schedule=constant", "optimizer=sgd", "optimizer.lr=900000"]
    with pytest.raises(NonFiniteLoss):
        cnnlab.fit(model, data, epochs=3, dir=folder, overrides=words)
    assert_finite(folder)
    if key.startswith("trainer"):
        with pytest.raises(NonFiniteLoss):  # clipped, and still nine hundred thousand times too far
            resume_experiment(folder, overrides=[key])
        assert "grad_clip: 1" in (folder / "config.yaml").read_text()
        return
    run, anything = resume_experiment(folder, overrides=[key])
    assert anything and len(run.history) == 3 and run.test is not None
    assert run.history[-1]["lr"] == 0.01
    assert all(group["lr"] == 0.01 for group in stored(folder)["optimizer"]["param_groups"])
    assert "lr: 0.01" in (folder / "config.yaml").read_text()
    with pytest.raises(RunError, match="is finished"):
        resume_experiment(folder, overrides=[key])


@pytest.mark.parametrize(
    "word",
    [
        "trainer.epochs=9",
        "model=mlp",
        "optimizer.lr=-1",
        "optimizer.lr=.nan",
        "lr=1",
        "lr",
        "optimizer.lr='",
        "optimizer.lr=null",
    ],
)
def test_what_a_resume_cannot_change_leaves_the_folder_as_it_is(word: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Faulty.harm = passing_nan(6)
    with pytest.raises(NonFiniteLoss):
        train(folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError):
        resume_experiment(folder, overrides=[word])
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("where", ["model", "sums", "optimizer"])
def test_a_state_that_earlier_versions_left_with_nan_is_refused_by_one_line(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Faulty.harm = passing_nan(6)
    with pytest.raises(NonFiniteLoss):
        train(folder, "optimizer.momentum=0.9")
    state = stored(folder)
    if where == "sums":
        state["sums"][0] = NAN
    elif where == "model":
        state["model"]["norm.running_mean"][1] = NAN
    else:
        state["optimizer"]["state"][0]["momentum_buffer"][0] = INF
    save_state(folder / "last" / "state.pt", state)
    with pytest.raises(RunError, match=r"cannot resume from .* is not finite|it\.sums\[0\] should be a number"):
        resume_experiment(folder)


def test_weights_that_are_not_finite_at_the_start_leave_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cnnlab.create_model("faulty")
    nn.init.constant_(model.head.weight, NAN)  # type: ignore[union-attr, arg-type]
    with pytest.raises(ModelError, match=r"model\.head\.weight is not finite before the first step"):
        cnnlab.fit(model, cnnlab.load_data("digits", limit=80), epochs=1, dir=tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists() and not (tmp_path / "run" / "last").exists()


def test_a_validation_loss_that_never_is_a_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.BatchNorm2d, "eval", lambda layer: layer.train(False), raising=False)
    forward = Faulty.forward
    monkeypatch.setattr(Faulty, "forward", lambda self, x: forward(self, x) * (1.0 if self.training else NAN))
    with pytest.raises(NonFiniteLoss, match="the validation loss is not finite at step 8"):
        train(tmp_path / "run", epochs=2)
    assert not (tmp_path / "run" / "best").exists()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["val_loss"] for row in rows] == [None]
    monkeypatch.setattr(Faulty, "forward", forward)
    assert len(resume_experiment(tmp_path / "run")[0].history) == 2


class Masked(Faulty):
    """With a mask of −inf among its buffers, as in attention."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__(num_classes, in_channels)
        self.mask = nn.Buffer(torch.tensor([0.0, -INF]))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.mask.softmax(0)[0]


@pytest.mark.parametrize("ema", ["null", "0.9"])
def test_a_mask_of_infinities_is_sound(ema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "masked", Masked)
    words = [f"trainer.ema={ema}", "logger=none"]
    data = cnnlab.load_data("digits", limit=80, batch_size=20)
    run = cnnlab.fit(cnnlab.create_model("masked"), data, epochs=1, dir=tmp_path / "run", overrides=words)
    model, _ = load_run(run.dir)
    assert torch.equal(model.state_dict()["mask"], torch.tensor([0.0, -INF]))
    model.mask.fill_(NAN)  # type: ignore[union-attr, operator]
    assert non_finite(model.state_dict(), infinite_buffers(Masked())) == ["mask"]


# ---- weights that come from a file


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "run"
    data = cnnlab.load_data("digits", limit=80, batch_size=20)
    model = cnnlab.create_model("resnet", depth=8, width=4, in_channels=1, num_classes=10)
    cnnlab.fit(model, data, epochs=1, dir=folder, overrides=["logger=none", "trainer.precision=fp32"])
    return folder


def spoil(good: Path, folder: Path, value: float) -> Path:
    """A copy of a run with one value of its weights changed, in a file that is whole."""
    from cnnlab.runs.weights import read_weights, save_weights

    shutil.copytree(good, folder)
    tensors, card = read_weights(folder / "best" / "model.safetensors")
    tensors["head.weight"][0, 0] = value
    save_weights(RunFolder(folder), tensors, card)
    return folder


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_weights_that_are_not_finite_are_refused_wherever_they_are_read(
    value: float, good: Path, tmp_path: Path
) -> None:
    from PIL import Image

    from cnnlab.deploy.export import export_run
    from cnnlab.deploy.service import Service
    from cnnlab.explain.images import explain_images, localize_images

    run = spoil(good, tmp_path / "run", value)
    Image.new("L", (8, 8), 128).save(tmp_path / "a.png")
    image = [str(tmp_path / "a.png")]
    ways: list[Any] = [
        lambda: load_run(run),
        lambda: cnnlab.Predictor.from_run(run),
        lambda: list(explain_images(run, image)),
        lambda: list(localize_images(run, image)),
        lambda: Service.from_run(run),
        lambda: export_run(run),
        lambda: cnnlab.evaluate(run),
    ]
    for way in ways:
        with pytest.raises(RunError, match=r"head\.weight is not finite") as caught:
            way()
        assert "\n" not in str(caught.value)
    data = cnnlab.load_data("digits", limit=80, batch_size=20)
    model = cnnlab.create_model("resnet", depth=8, width=4, in_channels=1, num_classes=10)
    for source in (run, run / "best" / "model.safetensors"):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ModelError, match=r"head\.weight of the source is not finite"):
            cnnlab.fit(model, data, epochs=1, dir=tmp_path / "new", overrides=[f"init.from={source}", "logger=none"])
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not (tmp_path / "new").exists()


def test_answers_that_overflow_are_refused_by_one_line(good: Path, tmp_path: Path) -> None:
    from PIL import Image

    from cnnlab.deploy.service import Service
    from cnnlab.explain.images import explain_images, localize_images
    from cnnlab.runs.weights import read_weights, save_weights

    run = Path(shutil.copytree(good, tmp_path / "run"))
    tensors, card = read_weights(run / "best" / "model.safetensors")
    save_weights(RunFolder(run), {name: t * 0 + 3e38 if t.ndim > 1 else t for name, t in tensors.items()}, card)
    Image.new("L", (8, 8), 128).save(tmp_path / "a.png")
    image = [str(tmp_path / "a.png")]
    ways: list[Any] = [
        lambda: cnnlab.Predictor.from_run(run).predict(image),
        lambda: list(explain_images(run, image)),
        lambda: list(localize_images(run, image)),
        lambda: Service.from_run(run),
        lambda: cnnlab.evaluate(run),
    ]
    for way in ways:
        with pytest.raises(CnnlabError, match="values that are not finite"):
            way()


# ---- weights that layers share


class Tied(Faulty):
    """Two layers with one weight, and one layer that is there twice."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__(num_classes, in_channels)
        self.first = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.second.weight = self.first.weight
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.body(self.harmed(x))).relu()
        return self.head(self.again(self.second(self.first(x).relu()).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize(("ema", "optimizer"), [("null", "sgd"), ("0.9", "muon")])
def test_layers_that_share_a_weight_train_load_resume_export_and_begin_others(
    ema: str, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnlab.deploy.export import export_run

    monkeypatch.setitem(MODELS, "tied", Tied)
    data = cnnlab.load_data("digits", limit=80, batch_size=20)
    words = [f"trainer.ema={ema}", "logger=none", f"optimizer={optimizer}", "trainer.precision=fp32"]
    run = cnnlab.fit(cnnlab.create_model("tied"), data, epochs=2, dir=tmp_path / "run", overrides=words)
    model, _ = load_run(run.dir)
    assert isinstance(model, Tied) and model.second.weight is model.first.weight
    Faulty.harm, Faulty.calls = passing_nan(6), 0
    with pytest.raises(NonFiniteLoss):
        cnnlab.fit(cnnlab.create_model("tied"), data, epochs=2, dir=tmp_path / "halt", overrides=words)
    Faulty.harm = None
    assert len(resume_experiment(tmp_path / "halt")[0].history) == 2
    assert export_run(run.dir).file.exists()
    words.append(f"init.from={run.dir}")
    assert cnnlab.fit(cnnlab.create_model("tied"), data, epochs=1, dir=tmp_path / "more", overrides=words).test


def test_an_average_moves_a_shared_weight_once() -> None:
    model = Tied()
    average = WeightAverage(model, 0.9)
    before = average.model.first.weight.clone()  # type: ignore[union-attr, operator]
    with torch.no_grad():
        model.first.weight.add_(1.0)
    average.move(average.share(1000))
    after: Any = average.model.first.weight  # type: ignore[union-attr]
    torch.testing.assert_close(after - before, torch.full_like(after, 0.1))


# ---- settings that are no numbers


@pytest.mark.parametrize(
    "word",
    [
        "trainer.class_weights=[.nan,1]",
        "trainer.class_weights=[.inf,1]",
        "trainer.class_weights=[-1,1]",
        "trainer.class_weights=[0,0]",
        "trainer.class_weights=[1e39,1]",
        "trainer.class_weights=[1e-46,0]",
        "trainer.class_weights=[true,1]",
        "trainer.class_weights=.nan",
        "trainer.class_weights={a:1}",
        "augment.ratio=[1,.inf]",
        "augment.ratio=[.nan,1]",
        "augment.scale=[.nan,1]",
        "augment.scale=[0.5,.nan]",
        "schedule.milestones=[.nan]",
        "schedule.milestones=[.inf]",
    ],
)
def test_a_list_with_what_is_no_number_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=word.split("=")[0]):
        compose([word])


@pytest.mark.parametrize(("name", "key", "value"), [("mlp", "dropout", NAN), ("convnet", "dropout", INF)])
def test_an_argument_of_a_model_that_is_no_number_is_refused(name: str, key: str, value: float) -> None:
    with pytest.raises(ModelError, match="finite"):
        cnnlab.create_model(name, in_channels=1, num_classes=10, **{key: value})


def test_a_batch_whose_classes_weigh_nothing_teaches_nothing(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "trainer.class_weights=[1,0,0,0,0,0,0,0,0,0]", epochs=1)
    assert run.test is not None
