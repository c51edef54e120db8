"""Where weights come from: a run folder, a safetensors file, or torchvision by name."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cnnlab.errors import RunError
from cnnlab.runs.folder import open_folder
from cnnlab.runs.weights import read_weights

LIBRARY = "torchvision:"


def read_source(source: str) -> dict[str, Tensor]:
    """Tensors by name from a run folder, FILE.safetensors, or torchvision:NAME[:WEIGHTS].

    Raises:
        RunError, ModelError: nothing there, a damaged file, an unknown name, or weights that cannot be downloaded.
    """
    if source.startswith(LIBRARY):
        from cnnlab.models.pretrained import fetch_tensors  # it imports torchvision

        name, _, weights = source.removeprefix(LIBRARY).partition(":")
        return fetch_tensors(name, weights or "DEFAULT")
    path = Path(source).expanduser()
    if path.suffix != ".safetensors":
        return read_weights(open_folder(path).weights)[0]
    try:
        return load_file(path)
    except FileNotFoundError:
        raise RunError(f"there is no file {path}; init.from takes a run folder or a .safetensors file.") from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read as safetensors ({error}); restore it or convert it.") from None
