"""Names of models, and a model built from a name and arguments: the only way a model comes to be from a file."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from cnnlab.config import key_elsewhere, with_canonical_names
from cnnlab.errors import CnnlabError, ModelError, nearest
from cnnlab.imports import import_named
from cnnlab.models.alexnet import AlexNet
from cnnlab.models.convnet import ConvNet
from cnnlab.models.imagenet_resnet import resnet18, resnet34, resnet50
from cnnlab.models.lenet import LeNet
from cnnlab.models.mlp import MLP
from cnnlab.models.pretrained import Pretrained
from cnnlab.models.resnet import ResNet
from cnnlab.models.speednet import SpeedNet
from cnnlab.models.unet import UNet
from cnnlab.models.vgg import VGG, vgg11, vgg13, vgg16, vgg19

MODELS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": AlexNet,
    "convnet": ConvNet,
    "lenet": LeNet,
    "mlp": MLP,
    "pretrained": Pretrained,
    "resnet": ResNet,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "speednet": SpeedNet,
    "unet": UNet,
    "vgg": VGG,
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
}
SPEC = "_cnnlab_spec"
OWN_MODULE = "own_module"  # model.name of a plain nn.Module that no name builds again

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


def register_model(name: str) -> Callable[[Builder], Builder]:
    """Decorator: make a class or function known as `model=name`.

    Example:
        >>> @register_model("tiny")
        ... class Tiny(Classifier): ...
    """

    def register(builder: Builder) -> Builder:
        MODELS[name] = builder
        return builder

    return register


def list_models() -> list[str]:
    """Names that `create_model` knows, sorted."""
    return sorted(MODELS)


def create_model(name: str, *, trust_code: bool = False, **arguments: Any) -> nn.Module:
    """Build a model. The name and the full arguments stay with it, so that a run folder can rebuild it.

    Args:
        name: one of `list_models()`, or "package.module:Class" for a class of your own.
        trust_code: import `package.module`, which runs its code. Without it only known names are built.
        arguments: of the constructor.

    Raises:
        ModelError: an unknown name or argument, or values that make no network.
    """
    if trust_code:
        import_model(name)
    builder = find_model(name)
    allowed = named_parameters(name)
    unknown = [key for key in arguments if key not in allowed]
    if unknown and not takes_any(name):
        hint = key_elsewhere("model", unknown[0]) or nearest(unknown[0], allowed)
        raise ModelError(f"model {name!r} has no argument {unknown[0]!r}.{hint}")
    if builder.__module__.startswith("cnnlab."):  # constructors of others check for themselves
        arguments = with_canonical_names(arguments)
        for key, value in arguments.items():
            _check_type(name, key, value, allowed[key])
    try:
        model = builder(**arguments)
    except CnnlabError:
        raise
    except Exception as error:  # a constructor of the user's own can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"cannot build model {name!r} with {arguments}: {reason}.") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {name!r} builds a {type(model).__name__}; it must build an nn.Module.")
    spec = default_arguments(name) | _plain(arguments)
    try:
        json.dumps(spec, allow_nan=False)
    except (TypeError, ValueError):
        raise ModelError(
            f"the arguments of model {name!r} must be finite numbers, texts, lists or dictionaries, so that a run"
            f" folder can keep them; got {spec}."
        ) from None
    setattr(model, SPEC, (name, spec))
    return model


def default_arguments(name: str) -> dict[str, Any]:
    """The constructor's defaults, as they would stand in a card."""
    return _plain({key: p.default for key, p in named_parameters(name).items() if p.default is not p.empty})


def named_parameters(name: str) -> dict[str, inspect.Parameter]:
    """The constructor's arguments by name, without *args and **kwargs."""
    parameters = inspect.signature(find_model(name)).parameters
    return {key: p for key, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def takes_any(name: str) -> bool:
    """Whether the constructor takes **kwargs."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(find_model(name)).parameters.values())


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}


def _check_type(name: str, key: str, value: Any, parameter: inspect.Parameter) -> None:
    """A whole number where the default is one, a truth value where it is one, text where it is text."""
    kind = type(parameter.default)
    if value is None and "None" in str(parameter.annotation):
        return
    if kind in (tuple, list) and not isinstance(value, tuple | list):
        raise ModelError(f"model.{key} of {name!r} must be a list such as {list(parameter.default)}, got {value!r}.")
    fits = isinstance(value, int | float) and not isinstance(value, bool) if kind is float else isinstance(value, kind)
    numbers = value if isinstance(value, list | tuple) else [value]
    if not all(math.isfinite(one) for one in numbers if isinstance(one, float)):
        raise ModelError(f"model.{key} of {name!r} must be finite, got {value!r}.")
    if kind is int and isinstance(value, bool):
        fits = False
    if kind in (bool, int, float, str) and not fits and not (kind is int and isinstance(value, list | tuple)):
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise ModelError(f"model.{key} of {name!r} must be {words[kind]}, got {value!r}.")


def import_model(name: str) -> None:
    """Make "package.module:Class" known under that name, importing the module; the working folder is searched first.

    Any other name passes. Raises ModelError if there is no such module or class, or its code fails.
    """
    if not isinstance(name, str) or ":" not in name or name in MODELS:
        return
    MODELS[name] = import_named(name, "model", ModelError, lambda found: issubclass(found, nn.Module))


def find_model(name: str) -> Callable[..., nn.Module]:
    if not isinstance(name, str):
        raise ModelError(f"a model is named by text such as 'resnet', got {name!r}.")
    if name == OWN_MODULE and name not in MODELS:
        raise ModelError(
            "the network of this run is an nn.Module given from Python, which no name builds again: give the module,"
            " cnnlab.load_run(RUN, model=Net()), or put its class into a file and train with"
            " model=package.module:Class."
        )
    if name not in MODELS and ":" in name:
        raise ModelError(
            f"{name} is code outside of cnnlab, which is run only if you trust it: pass --trust-code on the command"
            " line, or trust_code=True in Python."
        )
    if name not in MODELS:
        raise ModelError(f"unknown model {name!r}.{nearest(name, MODELS)}")
    return MODELS[name]


def model_arguments(name: str, given: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """What the user gave, and of the data's facts (in_channels, num_classes, image_size) those the model asks for."""
    allowed = named_parameters(name)
    return {key: value for key, value in facts.items() if key in allowed} | given


def rebuild_arguments(builder: object) -> dict[str, Any]:
    """Arguments that a model or its builder wants where its tensors come from a file: nothing is fetched then."""
    return dict(getattr(builder, "rebuild_arguments", {}))


def model_spec(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of a model that `create_model` built. Raises ModelError for any other."""
    spec = getattr(model, SPEC, None)
    if spec is None:
        raise ModelError(
            f"{type(model).__name__} was not built by cnnlab.create_model, so no run folder could rebuild it:"
            " decorate its class with @cnnlab.register_model('name') and build it with cnnlab.create_model('name')."
        )
    name, arguments = spec
    if "num_classes" in arguments and hasattr(model, "num_classes"):
        arguments = arguments | {"num_classes": model.num_classes}  # reset_classifier may have changed it
    return name, arguments
