"""A plain `nn.Module` that `create_model` has not built: name and arguments that build it again, if there are."""

from __future__ import annotations

import copy
import inspect
import json
import sys
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.models.registry import MODELS, OWN_MODULE, SPEC, create_model, default_arguments


def is_built(model: nn.Module) -> bool:
    """Whether `create_model` built it."""
    return hasattr(model, SPEC)


def is_own(model: nn.Module) -> bool:
    """Whether no name builds it again."""
    return is_built(model) and getattr(model, SPEC)[0] == OWN_MODULE


def describe_plain(model: nn.Module, images: Tensor) -> bool:
    """Give a plain module the name and arguments that a run folder keeps, and say whether they build it again.

    They do where its class can be imported and its arguments are its defaults or its attributes of the same names, and
    where a module so built, with the same weights, prints and answers like this one. Any other is kept as `model=own`.

    Args:
        images: (B, C, H, W) that it takes.
    """
    cls = type(model)
    name = next((known for known, builder in MODELS.items() if builder is cls), f"{cls.__module__}:{cls.__qualname__}")
    if importable(cls) and (arguments := recorded_arguments(model)) is not None:
        had = MODELS.get(name)
        MODELS[name] = cls
        if same_when_rebuilt(model, name, arguments, images):
            setattr(model, SPEC, (name, default_arguments(name) | arguments))
            return True
        if had is None:
            del MODELS[name]
    setattr(model, SPEC, (OWN_MODULE, {"class": f"{cls.__module__}.{cls.__qualname__}"}))
    return False


def importable(cls: type) -> bool:
    """Whether "module:Class" names it in another process too."""
    module = sys.modules.get(cls.__module__)
    return cls.__module__ != "__main__" and getattr(module, cls.__qualname__, None) is cls


def recorded_arguments(model: nn.Module) -> dict[str, Any] | None:
    """The constructor's arguments, each from the attribute of its name; None where one is nowhere or no JSON."""
    arguments = {}
    for key, parameter in inspect.signature(type(model)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = getattr(model, key, parameter.default)
        if isinstance(value, nn.Module | Tensor) or callable(value):
            value = parameter.default  # a layer of the same name
        value = list(value) if isinstance(value, tuple) else value
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            return None
        arguments[key] = value
    return arguments


def same_when_rebuilt(model: nn.Module, name: str, arguments: dict[str, Any], images: Tensor) -> bool:
    """Whether a module built from name and arguments, with the same weights, prints and answers as `model`."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            ours = copy.deepcopy(model).cpu().eval()
            theirs = create_model(name, **arguments).eval()
            theirs.load_state_dict(ours.state_dict())
            return str(theirs) == str(ours) and torch.equal(theirs(images), ours(images))
    except Exception:  # the user's code can fail in any way, and then it is not rebuilt
        return False
