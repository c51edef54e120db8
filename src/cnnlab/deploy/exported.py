"""An exported network: an .onnx file that says itself what its classes and its preprocess are."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.data.preprocess import Preprocess
from cnnlab.deploy.graph import refusal
from cnnlab.errors import CnnlabError, ExportError
from cnnlab.files import is_path, is_remote
from cnnlab.tasks.decision import are_thresholds
from cnnlab.values import are_names

NAMES = (
    "model.onnx",
    "model-int8.onnx",
    "model-fully-convolutional.onnx",
)  # in the order in which a folder is searched
KEY = "cnnlab"  # under which the facts lie in the metadata of a file


class OnnxModel(nn.Module):
    """Runs an .onnx file as if it were the model: (B, C, H, W) float32 → logits. Many threads may call it at once.

    Attributes:
        facts: what the file says of itself: classes, preprocess, task, thresholds (of a multi-label model), model,
            data, epoch, int8, fully_convolutional.
    """

    def __init__(self, content: bytes, name: str | Path = "the file") -> None:
        super().__init__()
        self.name = name
        runtime = onnx_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Threads that spin between two calls take the cores from everything else, torch included.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what goes wrong is raised; it need not be printed too
        try:
            self.session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            metadata = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # the runtime has a class of its own for each way a file can be damaged
            reason = str(error).splitlines()[0][:200]
            raise ExportError(f"{name} cannot be read as an ONNX model ({reason}); export the run again.") from None
        self.facts = _facts(metadata.get(KEY), name)
        self.input = self.session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        given = images.detach().to("cpu", torch.float32).contiguous().numpy()
        try:
            (logits,) = self.session.run(None, {self.input: given})
        except Exception as error:  # the runtime has a class of its own for each way
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise ExportError(
                f"{self.name} cannot compute images of shape {tuple(given.shape)} ({reason}); export the run again."
            ) from None
        return torch.from_numpy(logits)


def onnx_runtime() -> ModuleType:
    """ONNX Runtime. Raises ExportError where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("export") from None
    return onnxruntime


def missing_extra(extra: str) -> ExportError:
    return ExportError(f"this needs packages that are not installed; install them with: pip install 'cnnlab[{extra}]'")


def is_export(path: str | Path) -> bool:
    """Whether a path of this machine is meant as an exported model and not as a run folder."""
    place = Path(path)
    if place.suffix in (".onnx", ".pt2"):
        return True
    return (
        is_path(place)
        and place.is_dir()
        and not (place / "config.yaml").exists()
        and any((place / name).is_file() for name in NAMES)
    )


def read_export(path: str | Path) -> OnnxModel:
    """An .onnx file of `cnnlab export`, or a folder with one (model.onnx before model-int8.onnx).

    Raises:
        ExportError: no such file, a damaged one, or one that cnnlab did not write.
    """
    if is_remote(path):
        raise ExportError(f"{path} is an address that holds no export; give the folder or the file of one.")
    file = Path(path)
    if file.is_dir():
        found = [file / name for name in NAMES if (file / name).is_file()]
        if not found:
            raise ExportError(f"{file} holds no {' or '.join(NAMES[:2])}; make one with `cnnlab export RUN`.")
        file = found[0]
    if file.suffix == ".pt2":
        raise ExportError(f"{file} is for torch.export.load; give the .onnx file of the run, or the run folder.")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ExportError(f"{file} cannot be read ({error.strerror}); give an .onnx file of `cnnlab export`.") from None
    _refuse_foreign(content, file)
    return OnnxModel(content, file)


def _refuse_foreign(content: bytes, name: Path) -> None:
    """Raise ExportError for a graph that is not of the kind that cnnlab exports, before anything is made of it."""
    try:
        import onnx
    except ImportError:
        raise missing_extra("export") from None
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # of protobuf, which has several
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"{name} cannot be read as an ONNX model ({reason}); export the run again.") from None
    facts = _facts({entry.key: entry.value for entry in model.metadata_props}.get(KEY), name)
    layout = Preprocess.from_dict(facts["preprocess"]).layout
    shape = (layout.channels, layout.height, layout.width)
    any_size = facts.get("fully_convolutional") is True
    if reason := refusal(model, len(content), len(facts["classes"]), shape, any_size):
        raise ExportError(f"{name} is not computed: {reason}. Export the run again, or give the run folder.")


def _facts(text: str | None, name: str | Path) -> dict[str, Any]:
    try:
        facts = json.loads(text or "null")
        classes = facts["classes"]
        Preprocess.from_dict(facts["preprocess"])
        if not classes or not are_names(classes):
            raise ValueError("classes")
        if facts.get("thresholds") is not None and not are_thresholds(facts["thresholds"], classes):
            raise ValueError("thresholds")
    except (ValueError, KeyError, TypeError, RecursionError, CnnlabError):
        raise ExportError(
            f"{name} does not say what its classes and its preprocess are; make it with `cnnlab export RUN`."
        ) from None
    return facts
