"""A model as data: what `torch.export` (ATen) sees it compute on one image, as a list of nodes and their numbers.

Everything in it has one image and no gradient, so an operation that changes its input in place is the same operation
with another name for the result, dropout is nothing, and batch normalisation is a scale and a shift per channel.
"""

from __future__ import annotations

import base64
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from cnnlab.errors import ModelError
from cnnlab.models.base import count_parameters

MOST_WEIGHTS = 30_000_000  # 80 MB of text in 16 bits, 160 MB in 32: what a browser opens within seconds

IDENTITY = {"dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "alias", "detach", "to", "identity"}
IDENTITY |= {"_to_copy", "lift_fresh_copy"}
RESHAPE = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"}
UNARY: dict[str, tuple[str, ...]] = {  # and the arguments that they have beside their input
    **dict.fromkeys(("relu", "relu6", "silu", "mish", "tanh", "sigmoid", "hardsigmoid", "hardswish", "selu"), ()),
    **dict.fromkeys(("abs", "neg", "exp", "log", "sqrt", "rsqrt", "erf", "square"), ()),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha",),
    "gelu": ("approximate",),
    "hardtanh": ("min_val", "max_val"),
    "softplus": ("beta", "threshold"),
    "clamp": ("min", "max"),
    "clamp_min": ("min",),
}
BINARY = {"add", "sub", "mul", "div", "maximum", "minimum", "pow"}
HIDDEN = {"reshape", "permute", "slice", "pad", "constant", "roll"}  # they move numbers and make none


@dataclass
class Node:
    """One operation. `inputs` are numbers of nodes, `tensors` numbers of tensors; shapes have a leading 1 (the image).

    `name` is the layer's dotted name, with the operation behind it where the layer's own `forward` computes.
    """

    op: str
    inputs: list[int]
    shape: list[int]
    name: str
    module: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        facts = {"op": self.op, "inputs": self.inputs, "shape": self.shape, "name": self.name, "module": self.module}
        return {**facts, "attributes": self.attributes, "tensors": self.tensors, "shown": self.op not in HIDDEN}


@dataclass
class Graph:
    """Nodes in the order of computation, the first is the image; `output` is the node of the logits."""

    nodes: list[Node]
    output: int
    tensors: list[Tensor]
    half: set[int] = field(default_factory=set)  # tensors that are kept in 16 bits

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `block` holds the numbers that `tensors` describe."""
        described, offset = [], 0
        for number, tensor in enumerate(self.tensors):
            half = number in self.half
            described.append({"shape": list(tensor.shape), "half": half, "offset": offset})
            offset += _padded(tensor.numel() * (2 if half else 4))
        return {"nodes": [node.to_dict() for node in self.nodes], "output": self.output, "tensors": described}

    def block(self) -> str:
        """All tensors one after another, little-endian, each from a multiple of 4 bytes on, in base64."""
        parts = []
        for number, tensor in enumerate(self.tensors):
            numbers = tensor.contiguous().numpy().astype("<f2" if number in self.half else "<f4").tobytes()
            parts.append(numbers + bytes(_padded(len(numbers)) - len(numbers)))
        return base64.b64encode(b"".join(parts)).decode()


def _padded(length: int) -> int:
    return -(-length // 4) * 4


def export_graph(model: nn.Module, image: Tensor) -> Graph:
    """What `model` computes, with its numbers in 32 bits.

    Args:
        model: in evaluation mode, on the processor.
        image: (1, C, H, W).

    Raises:
        ModelError: an operation that the page does not know, a forward that depends on the numbers of its input, or
            more weights than a page holds.
    """
    weights = count_parameters(model)
    if weights > MOST_WEIGHTS:
        raise ModelError(
            f"this network has {weights:,} weights and a page holds {MOST_WEIGHTS:,} at most; look at one with fewer"
            " filters (model.width) or fewer layers."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (image,))
    except Exception as error:  # tracing can fail in any way that the code of a model can
        cause = str(error.__cause__ or error).strip() or type(error).__name__
        raise ModelError(
            f"{type(model).__name__} cannot be looked into ({cause.splitlines()[0][:200].rstrip('.')}); avoid what"
            " depends on the pixels in its forward."
        ) from error
    return _Reader(program).read()


class _Reader:
    """Walks through an exported program; `places` says what each of its values became."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.graph = Graph([], 0, [])
        self.places: dict[fx.Node, int | Tensor | list[int]] = {}
        self.kept: dict[int, int] = {}  # id of a tensor → its number
        self.renamed: dict[str, int] = {}

    def read(self) -> Graph:
        signature = self.program.graph_signature
        state = {**self.program.state_dict, **self.program.constants}
        sources = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        with torch.no_grad():
            for node in self.program.graph.nodes:
                if node.op == "placeholder" and node.name in sources:
                    self.places[node] = state[sources[node.name]].detach()
                elif node.op == "placeholder":
                    self.places[node] = self.emit("input", [], node, name="image")
                elif node.op == "call_function":
                    self.call(node)
                elif node.op == "output":
                    return self.finish(node)
        raise AssertionError("an exported program has an output")

    def finish(self, node: fx.Node) -> Graph:
        outputs = node.args[0]
        if not isinstance(outputs, tuple | list) or len(outputs) != 1:
            raise ModelError("this network gives more than one tensor, and the page shows one answer.")
        self.graph.output = self.number(outputs[0])
        return _without_unused(self.graph)

    def emit(
        self,
        op: str,
        inputs: list[int],
        node: fx.Node,
        name: str | None = None,
        tensors: dict[str, Tensor | None] | None = None,
        **attributes: Any,
    ) -> int:
        """Add a node, return its number."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = (str(stack[-1][0]), str(stack[-1][1]).rpartition(".")[2]) if stack else ("", "")
        path = path.partition("@")[0]
        if name is None:
            own = op if op not in HIDDEN else str(node.name)
            name = path if kind.lower().replace("2d", "") in own.replace("2d", "").replace("_", "") else ""
            name = name or f"{path}.{own}".lstrip(".")
        self.renamed[name] = self.renamed.get(name, 0) + 1
        if self.renamed[name] > 1:
            name = f"{name}#{self.renamed[name]}"
        value = node.meta["val"]
        shape = [int(side) for side in (value[0] if isinstance(value, tuple | list) else value).shape]
        kept = {key: self.keep(tensor) for key, tensor in (tensors or {}).items() if tensor is not None}
        self.graph.nodes.append(Node(op, inputs, shape, name, path, attributes, kept))
        return len(self.graph.nodes) - 1

    def keep(self, tensor: Tensor) -> int:
        if id(tensor) not in self.kept:
            self.kept[id(tensor)] = len(self.graph.tensors)
            self.graph.tensors.append(tensor)  # which keeps its id taken
        return self.kept[id(tensor)]

    def number(self, value: Any) -> int:
        """The node of a value; a tensor becomes a node that gives it."""
        place = self.places[value]
        if isinstance(place, Tensor):
            place = self.places[value] = self.emit("constant", [], value, tensors={"value": place.float()})
        assert isinstance(place, int)
        return place

    def tensor(self, value: Any, op: str) -> Tensor | None:
        place = None if value is None else self.places[value]
        if isinstance(place, int | list):
            raise ModelError(f"aten.{op} with a computed kernel is an operation that the page does not know.")
        return place

    def call(self, node: fx.Node) -> None:
        if getattr(node.target, "__name__", "") == "getitem":
            place = self.places[node.args[0]]  # type: ignore[index]
            self.places[node] = place[node.args[1]] if isinstance(place, list) else place  # type: ignore[index]
            return
        given = [self.places.get(value) for value in node.all_input_nodes]
        if all(isinstance(place, Tensor) for place in given):
            arguments, named = fx.node.map_arg((node.args, node.kwargs), lambda value: self.places[value])
            self.places[node] = node.target(*arguments, **named)  # type: ignore[operator]
            return
        schema = getattr(node.target, "_schema", None)
        full = str(node.target)
        op = schema.name.partition("::")[2] if schema is not None else full
        if op.startswith("_assert"):
            return
        bound: dict[str, Any] = {}
        for place, argument in enumerate(schema.arguments if schema is not None else ()):
            default = argument.default_value if argument.has_default_value() else None
            given_by_name = node.kwargs.get(argument.name, default)
            bound[argument.name] = node.args[place] if place < len(node.args) else given_by_name
        in_place = op.endswith("_") and not op.startswith("_")
        found = self.translate(op.removesuffix("_") if in_place else op, bound, node)
        if found is None:
            raise ModelError(
                f"this network computes {full.removesuffix('.default')}, an operation that the page does not know;"
                " cnnlab explain and cnnlab model work without it."
            )
        self.places[node] = found
        if in_place:  # whoever asks for the input later means the result
            self.places[node.args[0]] = found  # type: ignore[index]

    def translate(self, op: str, a: dict[str, Any], node: fx.Node) -> int | list[int] | None:
        """The node or nodes for an operation with the arguments `a`; None: it is not known."""
        if op in IDENTITY:
            return self.number(a.get("self", a.get("input")))
        if op in RESHAPE:
            return self.emit("reshape", [self.number(a["self"])], node)
        if op in UNARY:
            attributes = {key: a[key] for key in UNARY[op]}
            return self.emit(op, [self.number(a["self"])], node, **attributes)
        if op in BINARY:
            return self.binary(op, a, node)
        match op:
            case "conv2d" | "conv_transpose2d":
                return self.convolution(op, a, node)
            case "linear":
                tensors = {"weight": self.tensor(a["weight"], op), "bias": self.tensor(a["bias"], op)}
                return self.emit("linear", [self.number(a["input"])], node, tensors=tensors)
            case "batch_norm":
                return self.batch_norm(a, node)
            case "group_norm":
                tensors = {"weight": self.tensor(a["weight"], op), "bias": self.tensor(a["bias"], op)}
                groups, eps = a["num_groups"], a["eps"]
                return self.emit(op, [self.number(a["input"])], node, tensors=tensors, groups=groups, eps=eps)
            case "instance_norm" if a["use_input_stats"]:
                tensors = {"weight": self.tensor(a["weight"], op), "bias": self.tensor(a["bias"], op)}
                place = self.number(a["input"])
                groups = self.graph.nodes[place].shape[1]
                return self.emit("group_norm", [place], node, tensors=tensors, groups=groups, eps=a["eps"])
            case "layer_norm":
                tensors = {"weight": self.tensor(a["weight"], op), "bias": self.tensor(a["bias"], op)}
                dims = len(a["normalized_shape"])
                return self.emit(op, [self.number(a["input"])], node, tensors=tensors, dims=dims, eps=a["eps"])
            case "prelu":
                return self.emit(op, [self.number(a["self"])], node, tensors={"weight": self.tensor(a["weight"], op)})
            case "max_pool2d" | "max_pool2d_with_indices" | "avg_pool2d":
                return self.pool(op.removesuffix("_with_indices"), a, node)
            case "adaptive_avg_pool2d" | "adaptive_max_pool2d":
                return self.emit(op, [self.number(a["self"])], node)
            case "mean" | "sum" | "amax":
                return self.reduce(op, a, node)
            case "softmax" | "log_softmax":
                return self.emit(op, [self.number(a["self"])], node, dim=self.dim(a["self"], a["dim"]))
            case "cat" | "concat" | "concatenate":
                parts = [self.number(value) for value in a["tensors"]]
                return self.emit("cat", parts, node, dim=a["dim"] % len(self.graph.nodes[parts[0]].shape))
            case "matmul" | "bmm" | "mm":
                other = a["other"] if op == "matmul" else a["mat2"]
                return self.emit("matmul", [self.number(a["self"]), self.number(other)], node)
            case "permute":
                return self.permute(self.number(a["self"]), a["dims"], node)
            case "transpose":
                order = list(range(len(node.meta["val"].shape)))
                i, j = a["dim0"], a["dim1"]
                order[i], order[j] = order[j], order[i]
                return self.permute(self.number(a["self"]), order, node)
            case "slice":
                start, end, step = a["start"] or 0, a["end"], a["step"] or 1
                return self.slice(self.number(a["self"]), a["dim"], start, end, step, node)
            case "select":
                place = self.slice(self.number(a["self"]), a["dim"], a["index"], a["index"] + 1 or None, 1, node)
                return self.emit("reshape", [place], node)
            case "chunk" | "split" | "split_with_sizes":
                return self.pieces(a, node)
            case "pad" | "constant_pad_nd" if a.get("mode", "constant") == "constant":
                return self.emit(
                    "pad", [self.number(a["self"])], node, pad=list(a["pad"]), value=float(a["value"] or 0)
                )
            case "upsample_nearest2d" | "upsample_bilinear2d":
                corners = bool(a.get("align_corners"))
                factors = a.get("scale_factors") or [None, None]
                place = self.number(a.get("input", a.get("self")))
                return self.emit(op, [place], node, align_corners=corners, factors=list(factors))
            case "pixel_shuffle":
                return self.emit(op, [self.number(a["self"])], node, factor=a["upscale_factor"])
        return None

    def dim(self, value: fx.Node, dim: int) -> int:
        return dim % len(self.graph.nodes[self.number(value)].shape)

    def binary(self, op: str, a: dict[str, Any], node: fx.Node) -> int | None:
        other = a.get("other", a.get("exponent"))
        if a.get("rounding_mode") is not None or not isinstance(a["self"], fx.Node):
            return None
        attributes: dict[str, Any] = {"alpha": float(a["alpha"])} if a.get("alpha", 1) != 1 else {}
        if isinstance(other, fx.Node):
            return self.emit(op, [self.number(a["self"]), self.number(other)], node, **attributes)
        return self.emit(op, [self.number(a["self"])], node, scalar=float(other or 0), **attributes)

    def convolution(self, op: str, a: dict[str, Any], node: fx.Node) -> int:
        weight = self.tensor(a["weight"], op)
        assert weight is not None
        stride, dilation = _pair(a["stride"]), _pair(a["dilation"])
        padding = a["padding"]
        if padding == "valid":
            before = after = [0, 0]
        elif padding == "same":  # an even kernel has one more on the far side
            whole = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            before = [side // 2 for side in whole]
            after = [side - half for side, half in zip(whole, before, strict=True)]
        else:
            before = after = _pair(padding)
        transposed = op == "conv_transpose2d"
        more: dict[str, Any] = {"output_padding": _pair(a["output_padding"])} if transposed else {"after": after}
        return self.emit(
            op,
            [self.number(a["input"])],
            node,
            tensors={"weight": weight, "bias": self.tensor(a["bias"], op)},
            stride=stride,
            dilation=dilation,
            padding=before,
            groups=a["groups"],
            **more,
        )

    def batch_norm(self, a: dict[str, Any], node: fx.Node) -> int | None:
        names = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (self.tensor(a[name], "batch_norm") for name in names)
        if mean is None or var is None or a["training"]:
            return None  # statistics of the batch
        scale = (var.double() + a["eps"]).rsqrt() * (1 if weight is None else weight.double())
        shift = (0 if bias is None else bias.double()) - mean.double() * scale
        tensors = {"scale": scale.float(), "shift": shift.float()}
        return self.emit("batch_norm", [self.number(a["input"])], node, tensors=tensors)

    def pool(self, op: str, a: dict[str, Any], node: fx.Node) -> int | None:
        kernel = _pair(a["kernel_size"])
        attributes: dict[str, Any] = {
            "kernel": kernel,
            "stride": _pair(a["stride"] or kernel),
            "padding": _pair(a["padding"]),
        }
        if op == "max_pool2d":
            attributes["dilation"] = _pair(a["dilation"])
        elif a["divisor_override"] is not None:
            return None
        else:
            attributes["count_padding"] = bool(a["count_include_pad"])
        return self.emit(op, [self.number(a["self"])], node, **attributes)

    def reduce(self, op: str, a: dict[str, Any], node: fx.Node) -> int:
        place = self.number(a["self"])
        source = self.graph.nodes[place]
        dims = a["dim"] if a.get("dim") not in (None, []) else list(range(len(source.shape)))
        dims = sorted(dim % len(source.shape) for dim in ([dims] if isinstance(dims, int) else dims))
        if source.op == "permute" and not a["keepdim"]:  # the same numbers, of the map that is shown
            order = source.attributes["order"]
            rest = [order[dim] for dim in range(len(order)) if dim not in dims]
            if rest == sorted(rest):
                place, dims = source.inputs[0], sorted(order[dim] for dim in dims)
        return self.emit(op, [place], node, dims=dims)

    def permute(self, place: int, order: list[int], node: fx.Node) -> int:
        source = self.graph.nodes[place]
        order = [dim % len(order) for dim in order]
        if source.op == "permute":
            place, order = source.inputs[0], [source.attributes["order"][dim] for dim in order]
        if order == sorted(order):
            return place
        return self.emit("permute", [place], node, order=order)

    def slice(self, place: int, dim: int, start: int, end: int | None, step: int, node: fx.Node) -> int:
        shape = list(self.graph.nodes[place].shape)
        dim %= len(shape)
        start, end, step = slice(start, end, step).indices(shape[dim])
        if (start, end, step) == (0, shape[dim], 1):
            return place
        made = self.emit("slice", [place], node, dim=dim, start=start, end=end, step=step)
        shape[dim] = len(range(start, end, step))
        self.graph.nodes[made].shape = shape
        return made

    def pieces(self, a: dict[str, Any], node: fx.Node) -> list[int]:
        place, dim = self.number(a["self"]), self.dim(a["self"], a["dim"])
        made, start = [], 0
        for piece in node.meta["val"]:
            made.append(self.slice(place, dim, start, start + int(piece.shape[dim]), 1, node))
            start += int(piece.shape[dim])
        return made


def _pair(value: Any) -> list[int]:
    """[h, w] of what is given for one or both."""
    values = [value] if isinstance(value, int) else [int(v) for v in value]
    return values * 2 if len(values) == 1 else values


def _without_unused(graph: Graph) -> Graph:
    """Only what the output depends on, numbered anew."""
    used, waiting = {0, graph.output}, [graph.output]
    while waiting:
        for place in graph.nodes[waiting.pop()].inputs:
            if place not in used:
                used.add(place)
                waiting.append(place)
    order = sorted(used)
    numbers = {old: new for new, old in enumerate(order)}
    nodes = [graph.nodes[place] for place in order]
    tensors = sorted({number for node in nodes for number in node.tensors.values()})
    kept = {old: new for new, old in enumerate(tensors)}
    for node in nodes:
        node.inputs = [numbers[place] for place in node.inputs]
        node.tensors = {name: kept[number] for name, number in node.tensors.items()}
    return Graph(nodes, numbers[graph.output], [_plain(graph.tensors[number]) for number in tensors])


def _plain(tensor: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(tensor.detach().float().numpy()))
