"""Weights and their card. Nothing in these files is ever executed: safetensors and JSON.

The card (model name and arguments, classes, preprocess, validation metrics) lies inside the weights file, so the two
can never be of different epochs; best/model.json is a copy for people and other programs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from cnnlab.data.preprocess import Preprocess
from cnnlab.errors import CnnlabError, ModelError, RunError
from cnnlab.finite import infinite_buffers, non_finite
from cnnlab.host_device import fetch, separate
from cnnlab.models.registry import OWN_MODULE, create_model, find_model, import_model, rebuild_arguments
from cnnlab.runs.files import write_json, write_whole
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.opened import opened_run
from cnnlab.values import are_names, to_json


def save_weights(folder: RunFolder, state: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write best/model.safetensors, then its card for people. The card names the SHA-256 of the tensors."""
    plain: dict[str, Tensor] = {}
    memory: set[int] = set()
    if any(tensor.device.type != "cpu" for tensor in state.values()):
        state = separate(fetch(dict(state)))
    for name, tensor in state.items():
        own = tensor.detach().contiguous()
        place = own.untyped_storage().data_ptr()
        plain[name] = own.clone() if place in memory else own  # weights that layers share are written for each of them
        memory.add(place)
    card = card | {"sha256": _digest(plain)}
    write_whole(folder.weights, save(plain, metadata={"cnnlab": to_json(card)}))
    write_json(folder.card, card)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and card of a weights file. Raises RunError if it is missing, truncated or not ours."""
    if not path.exists():
        raise RunError(
            f"{path} is missing: this run has no weights yet. Continue it with `cnnlab resume {path.parents[1]}`."
        )
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get("cnnlab", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged or truncated ({error}); restore it from a copy or train again.") from None
    if not isinstance(card, dict) or not {"model", "classes", "preprocess"} <= set(card):
        raise RunError(f"{path} holds no cnnlab model; give a run folder that `cnnlab train` made.")
    if card.get("sha256", digest := _digest(tensors)) != digest:
        raise RunError(f"{path} is damaged: its weights are not those it was written with; restore it from a copy.")
    return tensors, card


def _digest(tensors: dict[str, Tensor]) -> str:
    """Of names and bytes, in the order of the names: a lost tail of zeros looks like weights, and is none."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_run(
    run: str | Path,
    device: str | torch.device = "cpu",
    trust_code: bool = False,
    model: nn.Module | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the best model of a run, in evaluation mode.

    Args:
        trust_code: import the module of a model of the user's own that the run names; else only known names are built.
        model: load the weights into this module, built as the one that was trained; nothing is imported then.

    Returns:
        The model and its card: model {name, arguments}, classes, preprocess, epoch, val_accuracy, …

    Raises:
        RunError: no run, no weights, or weights that do not fit the model or are not finite.
    """
    with opened_run(run) as folder:
        return load_model(RunFolder(folder), device, trust_code, model)


def load_model(
    folder: RunFolder,
    device: str | torch.device = "cpu",
    trust_code: bool = False,
    model: nn.Module | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """`load_run` for a folder of this machine."""
    tensors, card = read_weights(folder.weights)
    named = card["model"].get("name") if isinstance(card["model"], dict) else None
    if model is None and isinstance(named, str) and (":" in named or named == OWN_MODULE) and not trust_code:
        find_model(named)  # says that it takes trust, or the module
    if trust_code and model is None:
        import_model(named)  # type: ignore[arg-type]  # what is no text, it lets pass
    try:
        if model is None:
            name, arguments = card["model"]["name"], card["model"]["arguments"]
            arguments |= rebuild_arguments(find_model(name))
            _check_size(name, arguments, tensors)
            model = create_model(name, **arguments)
        masks = infinite_buffers(model)
        model.load_state_dict(tensors)
        Preprocess.from_dict(card["preprocess"])
        if len(card["classes"]) != getattr(model, "num_classes", len(card["classes"])):
            raise RunError(f"{len(card['classes'])} class names")
        if not are_names(card["classes"]):
            raise RunError("a class name that cannot be shown")
    except (KeyError, TypeError, ValueError, RuntimeError, CnnlabError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{folder.weights} does not fit its model: {reason[:300].rstrip('.')}.") from None
    if wrong := non_finite(model.state_dict(), masks):
        raise RunError(
            f"{folder.weights} holds no usable weights: {wrong[0]} is not finite. Train again with a lower optimizer.lr"
            " or trainer.grad_clip=1."
        )
    return model.to(device).eval(), card


def _check_size(name: str, arguments: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse a card that asks for another network than the file has numbers for, before memory is taken for it.

    The network is built without memory, and no further than it can have parameters.
    """
    left = 2 * len(tensors) + 100  # some layers register a parameter more than once

    def count(module: nn.Module, key: str, parameter: object) -> None:
        nonlocal left
        left -= parameter is not None
        if left < 0:
            raise RunError("it asks for more layers than there are weights")

    watched = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), _NoDraws():
            shapes = {key: tensor.shape for key, tensor in create_model(name, **arguments).state_dict().items()}
    except ModelError:  # it has to compute while it is built, or cannot be built at all: then that is said below
        return
    finally:
        watched.remove()
    for key, tensor in tensors.items():
        if shapes.get(key) != tensor.shape:
            wanted = tuple(shapes[key]) if key in shapes else "nothing"
            raise RunError(f"{key} is {tuple(tensor.shape)}, and its card asks for {wanted}")


class _NoDraws(TorchFunctionMode):
    """Initial weights are not drawn: on the meta device torch imports its compiler to draw none, for two seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
