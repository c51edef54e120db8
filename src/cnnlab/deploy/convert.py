"""A model → the bytes of an ONNX or a torch.export file, with any number of images at once."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from cnnlab.deploy.exported import KEY, missing_extra
from cnnlab.errors import ExportError
from cnnlab.explain import FullyConvolutional
from cnnlab.torch_patches import exportable
from cnnlab.values import to_json

PT2_FACTS = "cnnlab.json"  # name of the extra file in a .pt2 archive
LARGER = (16, 24)  # pixels by which the example of a fully-convolutional form is larger than its window


def to_onnx(model: nn.Module, images: Tensor, facts: dict[str, Any]) -> bytes:
    """One file with the weights inside; its input is `images`, its output `logits`.

    Args:
        model: in evaluation mode, on the processor.
        images: (2, C, H, W) example; the number of images stays open, and the size too for a FullyConvolutional.

    Raises:
        ExportError: the extra is not installed, or the model does what has no ONNX form.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise missing_extra("export") from None
    with _quiet(), _one_line(model), exportable():
        program = torch.onnx.export(
            model,
            (_example(model, images),),
            dynamo=True,
            dynamic_shapes=(_open_sizes(model, images),),
            external_data=False,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    return with_facts(program.model_proto, facts)


def to_pt2(model: nn.Module, images: Tensor, facts: dict[str, Any]) -> bytes:
    """An archive for `torch.export.load`; arguments and errors as for `to_onnx`."""
    stream = io.BytesIO()
    with _quiet(), _one_line(model):
        sizes = (_open_sizes(model, images),)
        program = torch.export.export(model, (_example(model, images),), dynamic_shapes=sizes)
        torch.export.save(program, stream, extra_files={PT2_FACTS: to_json(facts)})
    return stream.getvalue()


def from_pt2(content: bytes) -> nn.Module:
    """What `to_pt2` made, as a module to call."""
    with _quiet():
        return torch.export.load(io.BytesIO(content)).module()


def with_facts(proto: Any, facts: dict[str, Any]) -> bytes:
    """An ONNX model as bytes, with what it should say of itself."""
    import onnx

    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {KEY: to_json(facts)})
    return bytes(proto.SerializeToString())


def _example(model: nn.Module, images: Tensor) -> Tensor:
    if isinstance(model, FullyConvolutional):
        return nn.functional.pad(images, (0, LARGER[1], 0, LARGER[0]))
    return images.contiguous()


def _open_sizes(model: nn.Module, images: Tensor) -> dict[int, Any]:
    if isinstance(model, FullyConvolutional):
        height, width = images.shape[2:]
        return {0: Dim("batch"), 2: Dim("height", min=height), 3: Dim("width", min=width)}
    return {0: Dim("batch")}


@contextlib.contextmanager
def _one_line(model: nn.Module) -> Iterator[None]:
    """Tracing can fail in any way that the code of a model can."""
    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0][:200] if str(cause).strip() else type(cause).__name__
        raise ExportError(
            f"{type(model).__name__} cannot be exported ({reason}); avoid what depends on the pixels in its forward."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own insides."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
