"""A model layer by layer: sizes and their arithmetic, parameters, cost, receptive field and memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from cnnlab.errors import CnnlabError, ModelError
from cnnlab.models.cost import run_on_meta_device, to_meta_device
from cnnlab.models.flow import Flow, Step
from cnnlab.models.trace import Operation, TraceMode, tensors_in
from cnnlab.models.traced_tensor import TracedTensor
from cnnlab.torch_patches import shares_memory

WHOLE = "global"  # as a receptive field: the whole image
FLOAT32 = 4  # bytes

# One number, "global", a tuple with one for each axis if they differ, or None for what does not see the image.
Extent = int | float | str | tuple[int | float | str | None, ...] | None


@dataclass
class LayerRow:
    """One call of a layer, or of a function outside of all layers that is worth a row.

    Attributes:
        name: dotted name; of a function the name of the module that calls it, and "max_pool2d()".
        kind: name of the class, or "function".
        input, output: shapes without the batch. None for a layer that is given or gives no tensor.
        arithmetic: how each spatial operation in it comes to its size, checked against the size torch gave; a text
            for height ("h: …") and one for width ("w: …") if they differ.
        parameters: number of scalars that no row above holds.
        shared: number of scalars that a row above, `shared_with`, holds already.
        multiply_adds: of convolutions and products of matrices, for one image.
        receptive_field: pixels that one position of the output sees along an axis; "global" for the whole image.
        jump: pixels from one position of the output to the next; None where there are none.
        activation_bytes: of the output in float32 for one image; 0 if it lies in the input's memory, as that of a
            ReLU in place or of a flatten does.
    """

    name: str
    kind: str
    input: tuple[int, ...] | None = None
    output: tuple[int, ...] | None = None
    arithmetic: tuple[str, ...] = ()
    parameters: int = 0
    shared: int = 0
    shared_with: str | None = None
    multiply_adds: int = 0
    receptive_field: Extent = None
    jump: Extent = None
    activation_bytes: int = 0


@dataclass(frozen=True)
class Summary:
    """What `summarise` found out.

    Attributes:
        input: shape of the image (C, H, W).
        layers: rows in the order of the calls.
        parameters, trainable_parameters: of the model, each scalar once; also of layers that never ran.
        receptive_field: of the last feature map with positions; "global" for a model without one, such as an MLP.
            A number may be larger than the image: then the padding is seen, too.
        activation_bytes: of all rows together, in float32 for one image.
        parameter_bytes: in the type that the model has.
        steps: the image, layers and joins in the order of the calls, each with the steps that it reads.
        output: the step that the model returns; None if what it returns does not depend on the image.
    """

    input: tuple[int, ...]
    layers: list[LayerRow] = field(default_factory=list)
    parameters: int = 0
    trainable_parameters: int = 0
    receptive_field: Extent = WHOLE
    activation_bytes: int = 0
    parameter_bytes: int = 0
    steps: list[Step] = field(default_factory=list)
    output: int | None = None

    @property
    def multiply_adds(self) -> int:
        """For one image."""
        return sum(row.multiply_adds for row in self.layers)

    @property
    def idle_parameters(self) -> int:
        """Parameters of layers that this forward pass did not call."""
        return self.parameters - sum(row.parameters for row in self.layers)


def summarise(model: nn.Module, shape: tuple[int, ...]) -> Summary:
    """Run a model once without numbers and write down what every layer does.

    Args:
        model: any module that takes (B, *shape). It is copied; neither its weights nor its mode change.
        shape: (C, H, W) of one image.

    Raises:
        ModelError: the image does not fit the model, or the model looks at numbers as it runs.
        ArithmeticMismatch: a size is not what its arithmetic gives; a fault of cnnlab, not of the model.
    """
    if len(shape) < 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ModelError(f"the shape of an image is (channels, height, width), each at least 1, got {shape}.")
    meta_model = to_meta_device(model)
    rows = _Rows(meta_model)
    try:
        with rows.watching():
            output = run_on_meta_device(meta_model, shape, rows.start_trace)
    except CnnlabError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"an image of shape {shape} does not go through {type(model).__name__}: {reason}") from error
    parameters = list(meta_model.parameters())
    last = rows.mode.last_map if rows.mode is not None else None
    return Summary(
        input=tuple(shape),
        layers=rows.rows,
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        receptive_field=WHOLE if last is None else _extent(last),
        activation_bytes=sum(row.activation_bytes for row in rows.rows),
        parameter_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        steps=rows.flow.steps if rows.flow is not None else [],
        output=next(iter(rows.flow.sources(tensors_in(output))), None) if rows.flow is not None else None,
    )


class _Rows:
    """Collects the rows while a model runs on the meta device."""

    def __init__(self, meta_model: nn.Module) -> None:
        self.names = {
            module: name for name, module in meta_model.named_modules() if ".parametrizations" not in f".{name}"
        }
        self.rows: list[LayerRow] = []
        # Modules that are running, the outermost first: each with its row and the parameters that the row is to hold.
        self.calls: list[tuple[nn.Module, LayerRow | None, list[nn.Parameter]]] = []
        self.holders: dict[Tensor, str] = {}  # which row a parameter was counted in
        self.mode: TraceMode | None = None
        self.flow: Flow | None = None

    def start_trace(self, image: Tensor) -> TraceMode:
        self.mode = TraceMode(image, self._on_operation)
        self.flow = Flow(image)
        return self.mode

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = []
        for module in self.names:
            hooks.append(module.register_forward_pre_hook(self._on_call, with_kwargs=True, prepend=True))
            hooks.append(module.register_forward_hook(self._on_return, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _on_call(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        row = None
        if self._own(module) or not any(True for _ in module.children()):
            row = LayerRow(self.names[module] or type(module).__name__, type(module).__name__)
            tensors = list(tensors_in([args, kwargs]))
            row.input = _shape(tensors[0]) if tensors else None
            self.rows.append(row)
        self.calls.append((module, row, []))

    def _own(self, module: nn.Module) -> list[nn.Parameter]:
        return list(module.parameters(recurse=parametrize.is_parametrized(module)))

    def _count(self, row: LayerRow, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter in self.holders:
                row.shared += parameter.numel()
                row.shared_with = self.holders[parameter]
            else:
                row.parameters += parameter.numel()
                self.holders[parameter] = row.name

    def _on_return(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        _, row, used = self.calls.pop()
        if row is not None:
            self._count(row, list(dict.fromkeys([*self._own(module), *used])))
            self._finish(row, list(tensors_in([args, kwargs])), list(tensors_in(output)))

    def _on_operation(self, operation: Operation) -> None:
        row, held = next(((row, held) for _, row, held in reversed(self.calls) if row is not None), (None, []))
        used = [tensor for tensor in operation.inputs if isinstance(tensor, nn.Parameter)]
        held += used  # also weights of a layer that is never called, as attention uses those of its last
        makes_row = row is None and bool(operation.arithmetic or operation.multiply_adds)
        in_layer = bool(self.calls) and not any(True for _ in self.calls[-1][0].children())
        if self.flow is not None and not makes_row and not in_layer:
            self.flow.on_operation(operation.name, operation.inputs, list(tensors_in(operation.output)))
        if not operation.arithmetic and not operation.multiply_adds:
            return
        if row is None:
            caller = self.names[self.calls[-1][0]] if self.calls else ""
            row = LayerRow(f"{caller}.{_function(operation)}".lstrip("."), "function")
            row.input = _shape(operation.inputs[0])
            self.rows.append(row)
            self._count(row, used)
        texts = _of_all_axes(operation.arithmetic)
        if operation.name != "slice" or row.arithmetic[-1:] != texts:  # one axis after the other, often the same
            row.arithmetic += texts
        row.multiply_adds += operation.multiply_adds
        if makes_row:
            self._finish(row, list(operation.inputs), list(tensors_in(operation.output)))

    def _finish(self, row: LayerRow, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        if not outputs or self.mode is None:
            return
        output = outputs[0]
        row.output = _shape(output)
        if not any(shares_memory(output, tensor) for tensor in inputs):
            row.activation_bytes = FLOAT32 * prod(row.output)
        traced = self.mode.traced(output)
        if traced is not None:
            row.receptive_field, row.jump = _extent(traced), _jump(traced)
        if self.flow is not None and row is self.rows[-1]:
            costs = {"multiplies": row.multiply_adds > 0, "resizes": bool(row.arithmetic)}
            self.flow.on_layer(len(self.rows) - 1, inputs, outputs, **costs)
        elif self.flow is not None:  # its layers have been told of one by one
            self.flow.on_container(next(i for i, other in enumerate(self.rows) if other is row), outputs)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape[1:])


def _function(operation: Operation) -> str:
    """Name of the function that a user would have called."""
    if operation.name == "convolution":
        axes = len(operation.given["stride"])
        return f"conv{'_transpose' if operation.given['transposed'] else ''}{axes}d()"
    name = operation.name.strip("_").removesuffix("_with_indices")
    return {"view": "flatten", "constant_pad_nd": "pad", "slice": "crop"}.get(name, name) + "()"


def _of_all_axes(texts: tuple[str, ...]) -> tuple[str, ...]:
    """One text if all axes agree, else one for each."""
    if len(set(texts)) < 2:
        return texts[:1]
    letters = "hw" if len(texts) == 2 else "dhw"
    return tuple(f"{letter}: {text}" for letter, text in zip(letters, texts, strict=True))


def _extent(traced: TracedTensor) -> Extent:
    """Pixels that are seen along each axis; features of a flattened map have seen the whole image."""
    flat = len(traced.dims) <= 2
    sizes = [
        WHOLE if field is None or (flat and traced.has(axis) and traced.positions > 1) else field.size
        for axis, field in enumerate(traced.fields)
    ]
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


def _jump(traced: TracedTensor) -> Extent:
    if not traced.is_map or None in traced.fields:
        return None
    jumps = [_number(field.jump) for field in traced.fields if field is not None]
    return jumps[0] if len(set(jumps)) == 1 else tuple(jumps)


def _number(value: Any) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
