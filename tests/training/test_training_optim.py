"""Optimizers by name: all of torch's, which parameters decay, and what is refused before the first step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.config import compose, options
from cnnlab.errors import ConfigError
from cnnlab.models.mlp import MLP
from cnnlab.models.vgg import VGG
from cnnlab.runs.state import load_state, save_state
from cnnlab.torch_patches import bare_step
from cnnlab.training.optim import create_optimizer, optimizer_names, set_rate

CPU = torch.device("cpu")


def network() -> VGG:
    torch.manual_seed(0)
    return VGG(width=4, image_size=8, in_channels=1, num_classes=4)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(16, 1, 8, 8, generator=random), torch.arange(16) % 4


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> float:
    images, labels = batch(seed)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def test_all_the_usual_names_are_known() -> None:
    usual = {"SGD", "Adam", "AdamW", "RMSprop", "Muon", "NAdam", "RAdam", "Adagrad", "Adadelta", "Adafactor", "Rprop"}
    assert usual <= set(optimizer_names())
    assert not {"Optimizer", "LBFGS", "SparseAdam"} & set(optimizer_names())


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_lowers_the_loss_of_a_small_network(name: str) -> None:
    model = network()
    optimizer = create_optimizer({"name": name, "lr": 0.02}, model, CPU)
    before = {key: value.clone() for key, value in model.named_parameters()}
    losses = [step(model, optimizer) for _ in range(8)]
    assert losses[-1] < losses[0]
    for key, value in model.named_parameters():
        assert value.isfinite().all(), key
        assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_goes_on_bit_by_bit_from_a_saved_state(name: str, tmp_path: Path) -> None:
    settings = {"name": name, "lr": 0.02, "weight_decay": 0.01}
    model = network()
    optimizer = create_optimizer(settings, model, CPU)
    for seed in range(2):
        step(model, optimizer, seed)
    save_state(tmp_path / "state.pt", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    for seed in range(2, 4):
        step(model, optimizer, seed)

    state = load_state(tmp_path / "state.pt")
    other = VGG(width=4, image_size=8, in_channels=1, num_classes=4)
    resumed = create_optimizer(settings, other, CPU)
    other.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    for seed in range(2, 4):
        step(other, resumed, seed)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


@pytest.mark.parametrize("name", options("optimizer"))
def test_every_optimizer_file_makes_an_optimizer(name: str) -> None:
    settings = compose([f"optimizer={name}"]).optimizer
    optimizer = create_optimizer(settings, network(), CPU)
    assert type(optimizer).__name__ == settings["name"]
    assert optimizer.param_groups[0]["highest_lr"] == settings["lr"]


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon", "RMSprop", "Adam"])
def test_only_matrices_and_filters_decay(name: str) -> None:
    model = network()
    optimizer = create_optimizer({"name": name, "lr": 0.1, "weight_decay": 0.5}, model, CPU)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shrunk = {key for key, value in model.named_parameters() if (value < 1).any()}
    assert shrunk == {key for key, value in model.named_parameters() if value.ndim > 1}
    assert "head.weight" in shrunk
    assert "head.bias" not in shrunk


@pytest.mark.parametrize("name", optimizer_names())
def test_every_parameter_is_in_one_group(name: str) -> None:
    for model in (network(), MLP((), image_size=8), MLP((5,), image_size=8)):
        optimizer = create_optimizer({"name": name, "lr": 0.1}, model, CPU)
        grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_muon_leaves_the_last_layer_and_vectors_to_adamw_at_their_own_rate() -> None:
    model = network()
    optimizer = create_optimizer({"name": "Muon", "lr": 0.2, "other_lr_scale": 0.1}, model, CPU)
    orthogonal = {id(p) for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]}
    filters = {id(p) for key, p in model.named_parameters() if p.ndim > 1 and key != "head.weight"}
    assert orthogonal == filters
    set_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups if group["orthogonal"]} == {0.1}
    assert [group["lr"] for group in optimizer.param_groups if not group["orthogonal"]] == pytest.approx([0.01, 0.01])


def test_frozen_parameters_are_left_alone() -> None:
    model = network()
    model.features.requires_grad_(False)
    optimizer = create_optimizer({"name": "SGD", "lr": 0.1}, model, CPU)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_the_rate_is_the_highest_times_the_factor() -> None:
    optimizer = create_optimizer({"name": "SGD", "lr": 0.4}, network(), CPU)
    assert set_rate(optimizer, 0.25) == pytest.approx(0.1)
    assert set_rate(optimizer, 1) == pytest.approx(0.4)  # not of the rate it had before
    assert {group["lr"] for group in optimizer.param_groups} == {0.4}


def test_without_a_rate_the_optimizers_own_is_taken() -> None:
    optimizer = create_optimizer({"name": "AdamW"}, network(), CPU)
    assert set_rate(optimizer, 1) == 1e-3


@pytest.mark.parametrize(("typed", "meant"), [("adamw", "AdamW"), ("SDG", "SGD"), ("Moun", "Muon"), ("NAdma", "NAdam")])
def test_an_unknown_optimizer_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"{typed}.*Did you mean '{meant}'"):
        create_optimizer({"name": typed, "lr": 0.1}, network(), CPU)


@pytest.mark.parametrize("name", ["LBFGS", "Optimizer", "lr_scheduler", "", None, 5])
def test_what_is_no_optimizer_for_this_loop_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="optimizer"):
        create_optimizer({"name": name, "lr": 0.1}, network(), CPU)


@pytest.mark.parametrize("key", ["foreach", "fused", "maximize"])
def test_arguments_of_torch_that_exclude_our_own_choice_are_taken(key: str) -> None:
    optimizer = create_optimizer({"name": "SGD", "lr": 0.1, key: True}, network(), CPU)
    assert optimizer.defaults[key] is True


def test_an_optimizer_that_differentiates_through_its_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="differentiable"):
        create_optimizer({"name": "SGD", "lr": 0.1, "differentiable": True}, network(), CPU)


def test_an_unknown_argument_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"SGD has no argument 'momentm'.*'momentum'"):
        create_optimizer({"name": "SGD", "lr": 0.1, "momentm": 0.9}, network(), CPU)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("SGD", "momentum", "much"),
        ("SGD", "momentum", -1),
        ("SGD", "weight_decay", "much"),
        ("SGD", "weight_decay", -0.1),
        ("SGD", "weight_decay", None),
        ("SGD", "lr", None),
        ("SGD", "lr", "fast"),
        ("SGD", "nesterov", True),  # without momentum
        ("SGD", "params", [1]),
        ("AdamW", "betas", 0.9),
        ("AdamW", "betas", [0.9]),
        ("AdamW", "betas", [0.9, 1.5]),
        ("AdamW", "eps", -1),
        ("AdamW", "weight_decay", [0.1]),
        ("Adam", "fused", "maybe"),
        ("Adam", "amsgrad", 3),
        ("Muon", "momentum", "much"),
        ("Muon", "momentum", 1.5),
        ("Muon", "betas", [0.9]),
        ("Muon", "betas", [0.9, 7]),
        ("Muon", "steps", "many"),
        ("Muon", "steps", 2.5),
        ("Muon", "other_lr_scale", "small"),
        ("Muon", "weight_decay", -1),
    ],
)
def test_a_wrong_argument_is_refused_before_the_first_step(name: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError):
        create_optimizer({"name": name, "lr": 0.1, key: value}, network(), CPU)


def test_muon_leaves_matrices_that_are_long_on_both_sides_to_adamw() -> None:
    model = nn.Sequential(nn.Linear(8, 1100), nn.Linear(1100, 1100), nn.Linear(1100, 4))
    optimizer = create_optimizer({"name": "Muon", "lr": 0.2}, model, CPU)
    taken = [p for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]]
    assert [tuple(p.shape) for p in taken] == [(1100, 8)]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


def test_a_rate_of_the_backbone_needs_a_head() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="last layer is called head"):
        create_optimizer({"name": "SGD", "lr": 0.1, "backbone_lr_scale": 0.1}, model, CPU)


def test_muon_finds_the_head_wherever_it_was_defined() -> None:
    class HeadFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(4, 2), nn.Conv2d(1, 4, 3)

    model = HeadFirst()
    optimizer = create_optimizer({"name": "Muon", "lr": 0.2}, model, CPU)
    taken = [p for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]]
    assert [id(p) for p in taken] == [id(model.body.weight)]


def test_training_does_not_import_the_compiler(tmp_path: Path) -> None:
    """It would take a second before the first step."""
    code = """
import sys
from cnnlab.config import compose
from cnnlab.experiment import run_experiment
for number, name in enumerate(["sgd", "muon", "Adagrad"]):
    words = ["trainer.epochs=1", "data.limit=40", "logger=none", "model.width=4"]
    run_experiment(compose([*words, f"optimizer={name}", f"run.dir={sys.argv[1]}/{number}"]))
    assert "torch._dynamo" not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "Muon"])
def test_the_bare_step_is_the_step(name: str) -> None:
    torch.manual_seed(0)
    ours, theirs = network(), network()
    theirs.load_state_dict(ours.state_dict())
    first, second = (create_optimizer({"name": name, "lr": 0.01}, model, CPU) for model in (ours, theirs))
    bare = bare_step(first)
    for _ in range(3):
        for model, update in ((ours, bare), (theirs, second.step)):
            model.zero_grad()
            model(batch()[0]).square().sum().backward()
            update()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        ("SGD", {}),
        ("Adam", {}),
        ("Adam", {"amsgrad": True}),
        ("AdamW", {}),
        ("Adagrad", {}),
        ("Muon", {}),
    ],
)
def test_channels_last_filters_are_stepped_as_torch_steps_them_and_without_copies(
    name: str, arguments: dict[str, Any]
) -> None:
    def run(ours: bool) -> tuple[list[Tensor], int]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 8, 1), nn.Linear(8, 4))
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = create_optimizer({"name": name, "lr": 0.1, **arguments}, model, torch.device("cpu"))
        step = bare_step(optimizer) if ours else optimizer.step
        for _ in range(3):
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                step()
        inside = [event.cpu_parent for event in profile.events() if event.name == "aten::contiguous"]
        copies = sum(event is not None and event.name.startswith("aten::_fused") for event in inside)
        return [p.detach().clone() for p in model.parameters()], copies

    stepped, copies = run(ours=True)
    expected, copies_of_torch = run(ours=False)
    for mine, theirs in zip(stepped, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-7)
    assert copies == 0 and copies_of_torch == (0 if name == "Muon" else 2)  # Muon's own step takes the filters
