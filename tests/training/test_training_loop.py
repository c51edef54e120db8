"""The loop: against a plain one, with recorded losses, and each of its settings against what it must do."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnlab
from cnnlab.config import compose, load_yaml
from cnnlab.data.batch import Batch
from cnnlab.data.data import Data
from cnnlab.errors import ConfigError, Interrupted, NonFiniteLoss, OutOfMemory
from cnnlab.experiment import Run, resume_experiment, run_experiment
from cnnlab.models.registry import MODELS
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.state import load_state
from cnnlab.runs.weights import load_run, read_weights
from cnnlab.tracking.base import EpochEnded, Event
from cnnlab.training.trainer import Trainer

PLAIN = ["logger=none", "schedule=constant", "trainer.ema=null", "trainer.precision=fp32", "optimizer.lr=0.1"]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [32], "image_size": 8},
    "vgg": {"width": 8, "image_size": 8},
    "resnet": {"depth": 8, "width": 8},
}


def digits(batch_size: int = 32, limit: int = 64, augment: str = "none", **keys: Any) -> Data:
    return cnnlab.load_data("digits", augment=augment, batch_size=batch_size, limit=limit, **keys)


def model(name: str = "mlp", **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return cnnlab.create_model(name, in_channels=1, num_classes=10, **ARGUMENTS[name] | arguments)


def fit(folder: Path, net: nn.Module, data: Data, *overrides: str, epochs: int = 1, **more: Any) -> Run:
    return cnnlab.fit(net, data, epochs=epochs, dir=folder, overrides=[*PLAIN, *overrides], **more)


def last_weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_state(folder / "last" / "state.pt")["model"]
    return state


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], **tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(
            value, theirs[key].contiguous(), msg=lambda text, key=key: f"{key}: {text}", **tolerance
        )


# ---- against a plain loop


def test_the_loop_does_what_a_plain_loop_does(tmp_path: Path) -> None:
    data = digits(batch_size=16)
    net = model("vgg")
    plain = copy.deepcopy(net)
    decays = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decays, "weight_decay": 5e-4}, {"params": others}], lr=0.1, momentum=0.9, nesterov=True
    )
    losses, correct = [], 0
    for epoch in range(3):
        for batch in data.train.epoch(epoch):
            optimizer.zero_grad()
            logits = plain(batch.images)
            loss = F.cross_entropy(logits, batch.targets)
            loss.backward()
            optimizer.step()
            if epoch == 2:
                losses.append(loss.item())
                correct += int((logits.argmax(1) == batch.targets).sum())
    run = fit(tmp_path / "run", net, data, epochs=3)
    assert_close(last_weights(run.dir), plain.state_dict(), rtol=1e-4, atol=1e-5)
    row = run.history[-1]
    assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert row["train_accuracy"] == correct / 64
    assert (row["epoch"], row["step"], row["lr"]) == (3, 12, 0.1)
    plain.eval()
    with torch.no_grad():
        logits = torch.cat([plain(images) for images, _ in data.val])
    labels = torch.cat([labels for _, labels in data.val])
    assert row["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert row["val_accuracy"] == (logits.argmax(1) == labels).float().mean().item()


# ---- recorded losses: a guard against changes that nobody meant; record anew only on purpose

GOLDEN = {
    "vgg": [2.303882, 2.301925, 2.298066, 2.293721, 2.289305, 2.283649, 2.278848, 2.277061, 2.275015, 2.27118],
    "mlp": [2.31233, 2.270911, 2.194994, 2.084388, 1.977539, 1.828277, 1.711282, 1.615219, 1.589059, 1.560774],
    "resnet": [2.30305, 2.291095, 2.270714, 2.238983, 2.203928, 2.142923, 2.107327, 2.04508, 2.010867, 1.983845],
}


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_ten_steps_give_the_recorded_losses(name: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = digits(batch_size=64, augment="light", seed=1)
        overrides = ["logger=none", "trainer.precision=fp32", "optimizer=sgd", "optimizer.lr=0.1"]
        overrides += ["schedule=onecycle", "trainer.ema=null"]
        run = cnnlab.fit(model(name), data, epochs=10, dir=tmp_path / "run", overrides=overrides)
    finally:
        torch.set_num_threads(threads)
    assert [row["step"] for row in run.history] == list(range(1, 11))
    assert [row["train_loss"] for row in run.history] == pytest.approx(GOLDEN[name], rel=1e-4)


# ---- the norm of the gradient


def norms_of_a_plain_loop(net: nn.Module, data: Data) -> list[float]:
    """Of every step of the first epoch, with plain SGD."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    norms = []
    for batch in data.train.epoch(0):
        optimizer.zero_grad()
        F.cross_entropy(net(batch.images), batch.targets).backward()
        norms.append(float(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm()))
        optimizer.step()
    return norms


BARE = ["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false", "optimizer.weight_decay=0"]


def test_the_norm_is_the_mean_of_every_eighth_step(tmp_path: Path) -> None:
    net, data = model(), digits(batch_size=4, limit=72)
    norms = norms_of_a_plain_loop(copy.deepcopy(net), data)
    assert len(norms) == 18
    run = fit(tmp_path / "run", net, data, *BARE)
    assert run.history[0]["gradient_norm"] == pytest.approx(np.mean(norms[::8]), rel=1e-4)


def test_with_clipping_it_is_the_norm_of_all_steps_before_it(tmp_path: Path) -> None:
    net, data = model(), digits(batch_size=4, limit=72)
    norms = norms_of_a_plain_loop(copy.deepcopy(net), data)
    run = fit(tmp_path / "run", net, data, *BARE, "trainer.grad_clip=1000")
    assert run.history[0]["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-4)


def test_a_norm_that_is_no_number_is_left_out_of_the_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnlab.training import trainer

    given = iter([torch.tensor(2.0), torch.tensor(float("inf")), torch.tensor(4.0), *[torch.tensor(float("nan"))] * 3])
    monkeypatch.setattr(trainer, "gradient_norm", lambda net: next(given))
    run = fit(tmp_path / "run", model(), digits(batch_size=4, limit=72), epochs=2)
    assert [row["gradient_norm"] for row in run.history] == [3, None]
    for line in (run.dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


# ---- settings


def test_accumulated_batches_take_the_step_of_one_big_batch(tmp_path: Path) -> None:
    weights = []
    for name, size, accumulate in (("small", 8, 4), ("big", 32, 1)):
        run = fit(tmp_path / name, model(), digits(size), f"trainer.accumulate={accumulate}", epochs=3)
        assert run.history[-1]["step"] == 6
        weights.append(last_weights(run.dir))
    assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_more_batches_to_accumulate_than_there_are_is_all_of_them(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model(), digits(32), "trainer.accumulate=1000")
    assert run.history[0]["step"] == 1


def moved(folder: Path, *overrides: str) -> tuple[float, Run]:
    """How far one step without momentum and decay moves the weights."""
    net = model()
    start = {key: value.clone() for key, value in net.state_dict().items()}
    still = ["optimizer.momentum=0", "optimizer.nesterov=false", "optimizer.weight_decay=0"]
    run = fit(folder, net, digits(64), *still, *overrides)
    end = last_weights(folder)
    return torch.cat([(end[key] - start[key]).flatten() for key in start]).norm().item(), run


def test_a_long_gradient_is_clipped_and_a_short_one_is_not(tmp_path: Path) -> None:
    free, _ = moved(tmp_path / "free")
    clipped, _ = moved(tmp_path / "clipped", "trainer.grad_clip=0.001")
    loose, _ = moved(tmp_path / "loose", "trainer.grad_clip=1000")
    assert clipped == pytest.approx(0.1 * 0.001, rel=1e-3)
    assert loose == pytest.approx(free)
    assert free > 10 * clipped


def test_training_stops_early_where_nothing_gets_better(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model(), digits(limit=128), "optimizer.lr=1e-12", "trainer.early_stopping=2", epochs=50)
    assert len(run.history) == 3  # the first is the best, then two without a better one
    assert json.loads((run.dir / "best" / "model.json").read_text(encoding="utf-8"))["epoch"] == 1


def test_training_goes_on_where_it_gets_better(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model(), digits(), "trainer.early_stopping=2", "optimizer.lr=0.01", epochs=5)
    assert len(run.history) == 5


def test_the_best_epoch_is_that_of_the_highest_validation_accuracy_then_the_lowest_loss(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model(), digits(limit=128), "optimizer.lr=0.5", epochs=8)
    best = max(run.history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    _, card = load_run(run.dir)
    assert {key: card[key] for key in ("epoch", "step", "val_loss", "val_accuracy")} == {
        key: best[key] for key in ("epoch", "step", "val_loss", "val_accuracy")
    }


class NoNumberAtFirst(nn.Module):
    """Always answers class 0; in evaluation with logits that are no numbers, until a second epoch has trained."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.steps = nn.Buffer(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        logits = 0 * self.linear(x.flatten(1)) + torch.eye(10)[0]
        if self.training:
            self.steps += 1
        return logits if self.training or self.steps > 2 else logits * torch.nan


def test_an_epoch_whose_validation_loss_is_no_number_is_not_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "no_number", NoNumberAtFirst)
    net = cnnlab.create_model("no_number")
    run = fit(tmp_path / "run", net, digits(batch_size=16, limit=40), epochs=2)
    first, second = run.history
    assert np.isnan(first["val_loss"]) and first["val_accuracy"] == second["val_accuracy"]
    assert load_run(run.dir)[1]["epoch"] == 2


def test_without_validation_images_the_latest_epoch_is_best(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model(), digits(val_fraction=0.0), epochs=3)
    assert [row["val_accuracy"] for row in run.history] == [None] * 3
    assert load_run(run.dir)[1]["epoch"] == 3


def test_without_test_images_nothing_is_tested(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model(), digits(test_fraction=0.0))
    assert run.test is None
    assert not (run.dir / "test.json").exists()
    assert (run.dir / "report.html").exists()


def test_with_an_average_the_average_is_kept_and_validated(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model(), digits(), "trainer.ema=0.9", epochs=2)
    tensors, card = read_weights(run.dir / "best" / "model.safetensors")
    assert card["averaged"] is True
    state = load_state(run.dir / "last" / "state.pt")
    if card["epoch"] == 2:
        assert_close(tensors, state["average"], rtol=0, atol=0)
    assert not torch.equal(state["average"]["head.weight"], state["model"]["head.weight"])


@pytest.mark.parametrize("loss", ["focal", "mse"])
def test_other_losses_learn(loss: str, tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model(), digits(16, 200), f"trainer.loss={loss}", epochs=6)
    assert run.history[-1]["train_accuracy"] > 0.5 > run.history[0]["train_accuracy"] - 0.2
    assert run.history[-1]["val_loss"] < run.history[0]["val_loss"]


@pytest.mark.parametrize(
    "override",
    ["trainer.label_smoothing=0.1", "trainer.class_weights=balanced", "trainer.class_weights=[1,2,3,4,5,6,7,8,9,10]"],
)
def test_settings_of_the_loss_change_training_and_not_the_measure(override: str, tmp_path: Path) -> None:
    data = digits(16)
    first, second = (
        fit(tmp_path / name, model(), data, "optimizer.lr=1e-12", *more)
        for name, more in (("with", [override]), ("without", []))
    )
    assert first.history[0]["val_loss"] == pytest.approx(second.history[0]["val_loss"], rel=1e-6)
    if "balanced" not in override:
        assert first.history[0]["train_loss"] != pytest.approx(second.history[0]["train_loss"], rel=1e-6)


@pytest.mark.parametrize("augment", ["light", "standard", "strong"])
def test_every_augmentation_trains(augment: str, tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model("vgg", width=4), digits(augment=augment), epochs=2)
    assert all(np.isfinite(row["train_loss"]) for row in run.history)


# ---- reproducible


def test_dropout_draws_from_the_seed_and_the_step(tmp_path: Path) -> None:
    weights = []
    for number, seed in enumerate((3, 3, 4)):
        torch.rand(number)  # whatever was drawn before
        net = model(dropout=0.5)
        torch.rand(number)
        data = cnnlab.load_data("digits", augment="none", batch_size=16, limit=64)
        data.config = dataclasses.replace(data.config, seed=seed)  # the same split and order
        run = fit(tmp_path / str(number), net, data, epochs=2)
        weights.append(last_weights(run.dir)["head.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_deterministic_algorithms_can_be_asked_for(tmp_path: Path) -> None:
    try:
        run = fit(tmp_path / "run", model("resnet"), digits(augment="strong"), "trainer.deterministic=true")
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(run.history) == 1


def test_compilation_can_be_switched_off(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", model("vgg"), digits(), "trainer.compile=false")
    assert len(run.history) == 1


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(tmp_path: Path) -> None:
    histories = [
        fit(tmp_path / setting, model(), digits(), f"trainer.compile={setting}", epochs=2).history
        for setting in ("true", "false")
    ]
    for compiled, plain in zip(*histories, strict=True):
        assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)


# ---- what the loop is told


@pytest.mark.parametrize("override", ["seed=7", "trainer.batch_size=16", "augment.name=strong", "data.limit=32"])
def test_a_setting_that_comes_after_the_data_is_taken_or_refused_but_not_dropped(override: str, tmp_path: Path) -> None:
    try:
        run = fit(tmp_path / "run", model(), digits(), override)
    except cnnlab.CnnlabError:
        assert not (tmp_path / "run").exists()
        return
    key, value = override.split("=")
    written = load_yaml(run.dir / "config.yaml").to_dict()
    for name in key.split("."):
        written = written[name]
    assert str(written) == value


def test_balanced_sampling_that_comes_after_the_data_is_done_or_refused(tmp_path: Path) -> None:
    """Written into config.yaml but not done, a resume would go on with other batches than the run began with."""
    data, weights = digits(), []
    epoch_of = data.train.epoch

    def watched(*numbers: int, **how: Any) -> Iterator[Batch]:
        weights.append(how.get("weights"))
        return epoch_of(*numbers, **how)

    data.train.epoch = watched  # type: ignore[method-assign]
    try:
        run = fit(tmp_path / "run", model(), data, "trainer.balanced_sampling=true")
    except cnnlab.CnnlabError:
        return
    assert load_yaml(run.dir / "config.yaml").trainer.balanced_sampling == all(one is not None for one in weights)
    assert weights


class Listener:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = 0

    def log(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1


def test_a_listener_hears_every_epoch_and_is_closed_once(tmp_path: Path) -> None:
    listener = Listener()
    run = fit(tmp_path / "run", model(), digits(), "logger.gradients=true", epochs=3, trackers=[listener])
    ended = [event for event in listener.events if isinstance(event, EpochEnded)]
    assert [event.row for event in ended] == run.history
    assert ended[0].best
    assert set(ended[0].gradients) == {"hidden.1", "head"}
    assert listener.closed == 1


# ---- a loss that is no number


def test_a_batch_may_be_one_image(tmp_path: Path) -> None:
    words = ["data=digits", "data.limit=12", "trainer.batch_size=1", "trainer.epochs=1", "logger=none", "model=mlp"]
    run = run_experiment(compose([*words, f"run.dir={tmp_path / 'run'}"]), test=False)
    assert run.history[0]["step"] == 12


def test_a_stop_while_the_last_epoch_is_validated_leaves_the_test_for_later(tmp_path: Path) -> None:
    """Nothing is left to train, and resuming tests what was trained."""
    config = compose(["data=digits", "data.limit=40", "trainer.batch_size=20", "trainer.epochs=1", "logger=none"])
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(tmp_path / "run")))
    asked = iter([False, False, True])  # after each of the two steps, and at the end
    with pytest.raises(Interrupted, match="Resume with"):
        run_experiment(config, should_stop=lambda: next(asked))
    assert (tmp_path / "run" / "metrics.jsonl").exists() and not (tmp_path / "run" / "test.json").exists()
    assert resume_experiment(tmp_path / "run")[0].test is not None


def test_a_loss_that_is_no_number_stops_with_the_step_and_leaves_a_state(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(NonFiniteLoss, match=r"step \d+ \(epoch \d+\)"):
        fit(folder, model(), digits(8), "optimizer.lr=9e5", "trainer.loss=cross_entropy", epochs=20)
    state = load_state(folder / "last" / "state.pt")
    for key, value in state["model"].items():
        assert value.isfinite().all(), f"{key}: the message calls this the last good state"


@pytest.mark.parametrize(
    ("fits", "accumulate", "said"),
    [
        (20, 1, "on 32 images at once; 16 do: start again with trainer.batch_size=16 trainer.accumulate=2."),
        (19, 1, "on 32 images at once; 8 do: start again with trainer.batch_size=8 trainer.accumulate=4."),
        (20, 2, "on 32 images at once; 16 do: start again with trainer.batch_size=16 trainer.accumulate=4."),
        (2, 1, "on 32 images at once; 2 do: start again with trainer.batch_size=2 trainer.accumulate=16."),
        (0, 1, "on 32 images at once; halve trainer.batch_size, or take a smaller model or smaller images."),
    ],
)
def test_a_batch_that_takes_too_much_memory_is_one_line_with_one_that_does_not(
    fits: int, accumulate: int, said: str, tmp_path: Path
) -> None:
    class Hungry(nn.Module):
        """Where the batch is larger than it may be, more memory is asked for than there is."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            if self.training and len(images) > fits and torch.is_grad_enabled():
                torch.empty(1 << 50)
            return self.head(images.flatten(1))  # type: ignore[no-any-return]

    net = Hungry()
    net._cnnlab_spec = ("mlp", {})  # type: ignore[assignment]
    with pytest.raises(OutOfMemory) as caught:
        fit(tmp_path / "run", net, digits(), f"trainer.accumulate={accumulate}")
    assert str(caught.value) == f"there is not enough memory to train {said}"


def test_a_non_finite_image_is_seen_at_its_step(tmp_path: Path) -> None:
    data = digits(16)

    class Broken(nn.Module):
        """Gives no number from its third training batch on."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net, self.calls = net, 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return self.net(x) * (float("nan") if self.calls == 3 else 1.0)

    net = Broken(model())
    net._cnnlab_spec = ("mlp", {})  # type: ignore[assignment]
    with pytest.raises(NonFiniteLoss, match=r"step 3 \(epoch 1\)"):
        fit(tmp_path / "run", net, data, epochs=2)


def test_the_wrong_number_of_class_weights_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="class_weights"):
        fit(tmp_path / "run", model(), digits(), "trainer.class_weights=[1,2,3]")
    assert not (tmp_path / "run").exists()


def test_the_loss_of_mixed_images_is_cross_entropy_with_the_mixed_target(tmp_path: Path) -> None:
    data = digits(16, 64)
    settings = compose(["model=mlp", f"run.dir={tmp_path / 'run'}", "logger=none"])
    trainer = Trainer(model(), data, settings, RunFolder(tmp_path / "run"))
    batch = next(data.train.epoch(0))
    second, share = batch.targets.roll(1), torch.linspace(0.1, 0.9, 16)
    logits = torch.randn(16, 10)
    one_hot, other = F.one_hot(batch.targets, 10).float(), F.one_hot(second, 10).float()
    target = share[:, None] * one_hot + (1 - share)[:, None] * other
    found = trainer._task_loss(logits, batch._replace(second=second, share=share))
    torch.testing.assert_close(found, F.cross_entropy(logits, target))
    torch.testing.assert_close(trainer._task_loss(logits, batch), F.cross_entropy(logits, batch.targets))
