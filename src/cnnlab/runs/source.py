"""Where weights come from: a run folder, a safetensors file, or torchvision by name."""

from __future__ import annotations

import json
import re
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from cnnlab.errors import RunError
from cnnlab.files import given_path
from cnnlab.models.registry import list_models
from cnnlab.runs.addresses import LIBRARY, is_address
from cnnlab.runs.folder import open_folder, refuse_address
from cnnlab.runs.weights import read_weights


def read_source(source: str) -> tuple[dict[str, Tensor], list[str] | None]:
    """Tensors by name from a run folder or FILE.safetensors of this machine, or torchvision:NAME[:WEIGHTS].

    Returns:
        The tensors, and the class names that their head answers with, None where the source does not say.

    Raises:
        RunError, ModelError: nothing there, a damaged file, an unknown name, or weights that cannot be downloaded.
    """
    if source.startswith(LIBRARY):
        from cnnlab.models.pretrained import fetch_tensors  # it imports torchvision

        name, _, weights = source.removeprefix(LIBRARY).partition(":")
        return fetch_tensors(name, weights or "DEFAULT", "start from random ones (init.from=null)"), None
    refuse_address(source)
    path = given_path(source, "init.from")
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise RunError(f"{path} may be a pickle, which can run code: save its state dict as .safetensors.")
    if path.suffix != ".safetensors" or path.is_dir():
        if not path.exists():
            raise RunError(nothing_at(source))
        tensors, card = read_weights(open_folder(path).weights)
        return tensors, card["classes"]
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get("cnnlab", "{}"))
        classes = card.get("classes") if isinstance(card, dict) else None
        return load_file(path), classes
    except FileNotFoundError:
        raise RunError(f"there is no file {path}; init.from takes a run folder or a .safetensors file.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as safetensors ({error}); restore it or convert it.") from None


def nothing_at(source: str) -> str:
    """What to say of an init.from that is not there: it may be a network of torchvision without its prefix."""
    from torchvision.models import list_models as architectures

    name = re.split(r"[/.:\\]", source)[-1].casefold()
    if name in architectures():
        return f"there is nothing at {source}; for the weights that torchvision publishes: init.from={LIBRARY}{name}."
    return (
        f"there is nothing at {source}; init.from takes a run folder, FILE.safetensors or torchvision:NAME, such as"
        f" {LIBRARY}resnet18."
    )


def network_of(source: str) -> dict[str, Any] | None:
    """Name and arguments of the network in a run folder of this machine, less what the new set decides.

    None for any other source, and for a network of the user's own. Raises RunError where nothing is there.
    """
    if source.startswith(LIBRARY) or is_address(source) or source.endswith(".safetensors"):
        return None
    if not given_path(source, "init.from").exists():
        raise RunError(nothing_at(source))
    network = open_folder(source).read_card()["model"]
    if ":" in network["name"] or network["name"] not in list_models():
        return None
    of_data = ("in_channels", "num_classes", "image_size")
    return {"name": network["name"], **{k: v for k, v in network["arguments"].items() if k not in of_data}}
