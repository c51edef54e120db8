"""An optimizer by name, with the parameters sorted into those that decay and those that do not."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from cnnlab.config import key_elsewhere, optimizer_names
from cnnlab.errors import ConfigError, nearest
from cnnlab.torch_patches import build_optimizers_without_compiler
from cnnlab.training.muon import Muon

LARGEST_SIDE = 1024  # shorter side of a matrix that Muon takes: the work grows with its cube
WIDE = 512  # inputs of a layer from which on AdamW's rate falls with their number (Yang et al. 2022, table 3)


def argument_defaults(name: str) -> dict[str, Any]:
    """The arguments that settings of this optimizer can hold, each with its default. Raises ConfigError for no name."""
    if name not in optimizer_names():
        raise ConfigError(f"unknown optimizer {name!r}.{nearest(name, optimizer_names())}")
    chosen: Any = Muon if name == "Muon" else getattr(torch.optim, name)
    signature = inspect.signature(chosen.__init__).parameters
    own = {
        key: one.default
        for key, one in signature.items()
        if key not in ("self", "params", "differentiable", "orthogonal")
    }
    scales = {"backbone_lr_scale": 1.0} | ({"other_lr_scale": 1.0} if name == "Muon" else {})
    return {"lr": None, "weight_decay": 0.0} | own | scales


def create_optimizer(
    settings: dict[str, Any], model: nn.Module, device: torch.device, later: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Build `settings["name"]` over the model's parameters that need a gradient.

    `later` are parameters that begin to learn in a later epoch; they get groups of their own, as torch's fused steps
    want the parameters of a group to have begun together.

    `backbone_lr_scale` multiplies the rate of everything before the head.

    Weight decay is off for biases and for the scales of normalisation layers (all parameters of one axis). Muon takes
    filters and hidden matrices; the last layer, matrices of more than LARGEST_SIDE rows and columns, and everything of
    one axis go to its AdamW at lr · other_lr_scale, which for layers of many inputs falls with their number.

    Raises:
        ConfigError: an unknown optimizer or argument, or a value it refuses.
    """
    build_optimizers_without_compiler()
    arguments = dict(settings)
    name = arguments.pop("name")
    decay = arguments.pop("weight_decay", 0.0)
    other_scale = arguments.pop("other_lr_scale", 1.0) if name == "Muon" else 1.0
    backbone_scale = arguments.pop("backbone_lr_scale", 1.0)
    known = optimizer_names()
    if name not in known:
        raise ConfigError(f"unknown optimizer {name!r}.{nearest(str(name), known)}")
    chosen: Any = Muon if name == "Muon" else getattr(torch.optim, name)
    allowed = inspect.signature(chosen.__init__).parameters
    for key in arguments:
        if key not in allowed:
            hint = key_elsewhere("optimizer", key) or nearest(key, set(allowed) - {"self", "params"})
            raise ConfigError(f"optimizer {name} has no argument {key!r}.{hint}")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    if arguments.get("differentiable"):
        raise ConfigError("optimizer.differentiable=true has no use here: nothing differentiates through a step.")
    own_choice = {"fused", "foreach"} & set(arguments)
    if "fused" in allowed and not own_choice and device.type != "mps":
        arguments["fused"] = True
    scales = {"other_lr_scale": other_scale, "backbone_lr_scale": backbone_scale}
    for key, value in {**arguments, "weight_decay": decay, **scales}.items():
        _check_value(name, key, value, allowed[key].default if key in allowed else 0.0 if key not in scales else 1.0)
    rate = arguments.get("lr", allowed["lr"].default)

    parameters = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    last = _last_matrix(parameters)
    groups: list[dict[str, Any]] = []
    if name == "Muon":
        matrices = {key: p for key, p in parameters if p.ndim > 1}
        orthogonal = {k for k, p in matrices.items() if k != last and min(p.flatten(1).shape) <= LARGEST_SIDE}
        filters = [p for key, p in matrices.items() if key in orthogonal]
        groups.append({"params": filters, "weight_decay": decay, "orthogonal": True, "scale": 1.0})
        for p in (p for key, p in matrices.items() if key not in orthogonal):
            scale = other_scale * min(1.0, WIDE / p[0].numel())
            groups.append({"params": [p], "weight_decay": decay, "orthogonal": False, "scale": scale})
    else:
        groups.append({"params": [p for _, p in parameters if p.ndim > 1], "weight_decay": decay, "scale": 1.0})
    vectors = {"params": [p for _, p in parameters if p.ndim <= 1], "weight_decay": 0.0, "scale": other_scale}
    groups.append(vectors | ({"orthogonal": False} if name == "Muon" else {}))
    head = {id(p) for key, p in parameters if key.startswith("head.")}
    if backbone_scale != 1 and not head:
        raise ConfigError("optimizer.backbone_lr_scale needs a model whose last layer is called head.")
    backbone = {id(p) for _, p in parameters} - head if backbone_scale != 1 else set()
    groups = [part for group in groups for part in _cut(group, backbone, backbone_scale)]
    groups = [part for group in groups for part in _cut(group, {id(p) for p in later}, 1.0)]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ConfigError("nothing is left to train: every parameter is frozen; set init.freeze lower.")
    try:
        optimizer: torch.optim.Optimizer = chosen(groups, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer {name} refuses its arguments: {error}.") from None
    for group in optimizer.param_groups:
        group["highest_lr"] = rate * group["scale"]
    return optimizer


def add_parameters(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Let the optimizer learn more parameters than the model's, at its full rate and without decay."""
    kind: dict[str, Any] = {"orthogonal": False} if isinstance(optimizer, Muon) else {}
    rate = float(optimizer.defaults["lr"])
    optimizer.add_param_group({"params": parameters, "weight_decay": 0.0, "highest_lr": rate, "scale": 1.0, **kind})


def _cut(group: dict[str, Any], chosen: set[int], scale: float) -> list[dict[str, Any]]:
    """The group without the chosen parameters, and the chosen ones at `scale` times the rate."""
    others = [p for p in group["params"] if id(p) not in chosen]
    cut = [p for p in group["params"] if id(p) in chosen]
    return [group | {"params": others}, group | {"params": cut, "scale": group["scale"] * scale}]


def _check_value(name: str, key: str, value: Any, default: Any) -> None:
    """Numbers where the default is a number, as many of them as it has; no negative decay."""

    def number(it: Any) -> bool:
        return isinstance(it, int | float) and not isinstance(it, bool) and math.isfinite(it)

    if isinstance(default, bool) or key in ("foreach", "fused"):
        fits = isinstance(value, bool) or value is default
    elif isinstance(default, tuple):
        fits = isinstance(value, tuple) and len(value) == len(default) and all(map(number, value))
    elif number(default):
        fits = number(value) and (key != "steps" or isinstance(value, int))
    else:
        fits = True
    if not fits or (key in ("weight_decay", "other_lr_scale", "backbone_lr_scale") and value < 0):
        raise ConfigError(f"optimizer.{key} of {name} cannot be {value!r}; its default is {default!r}.")


def _last_matrix(parameters: list[tuple[str, nn.Parameter]]) -> str:
    """The head's, wherever it was defined; of a model without a `head` the one that was defined last."""
    matrices = [key for key, p in parameters if p.ndim > 1]
    heads = [key for key in matrices if key.startswith("head.")]
    return (heads or matrices or [""])[-1]


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group to its highest rate times `factor`; return the rate that `optimizer.lr` stands for."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest_lr"] * factor
    return float(optimizer.defaults["lr"]) * factor
