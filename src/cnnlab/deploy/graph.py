"""What an .onnx file would compute, looked at before ONNX Runtime is asked to: a file from elsewhere may hold anything.

A graph of what cnnlab exports has one input, the images, one output, the logits, and between them layers whose sizes
follow from that of an image. Everything else is refused: loops and branches, weights in other files, tensors or work
that no network of this many weights needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

OPERATORS = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil",
    "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "DepthToSpace",
    "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor",
    "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater",
    "GreaterOrEqual", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "LRN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization",
    "MatMul", "Max", "MaxPool", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow",
    "QuantizeLinear", "RMSNormalization", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSumExp",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape",
    "Resize", "Round", "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Slice", "Softmax", "Softplus",
    "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh", "Tile",
    "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
})  # fmt: skip
MOST_NODES = 20_000
NUMBERS, NUMBERS_A_PIXEL = 2**26, 512  # kept at once for one image
FLOAT = 1  # onnx.TensorProto.FLOAT
WORK, WEIGHTS = 2 * 10**10, 10**4  # multiply-adds for one image, besides one for each weight and pixel


def refusal(model: Any, size: int, classes: int, shape: tuple[int, int, int], any_size: bool) -> str:
    """Why an onnx.ModelProto is not taken; "" for one that is.

    Args:
        size: of the file in bytes; classes: names that it has; shape: (C, H, W) of an image.
        any_size: whether it says that it takes images of any size.
    """
    graph = model.graph
    if model.functions or graph.sparse_initializer or model.training_info:
        return "it holds functions, sparse weights or a training"
    if len(graph.node) > MOST_NODES:
        return f"it has {len(graph.node):,} steps"
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            return f"it uses the operator {str(node.op_type)[:40]!r}"
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            return "it holds a graph inside a graph"
    for tensor in _tensors(graph):
        if tensor.data_location or tensor.external_data:
            return "its weights lie in another file"
        if any(side < 0 for side in tensor.dims) or math.prod(tensor.dims) > 2 * size:
            return "it says that it has more weights than it has"
    return _ends(graph, classes, shape, any_size) or _cost(model, shape)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _ends(graph: Any, classes: int, shape: tuple[int, int, int], any_size: bool) -> str:
    """Why the input is not a batch of images, or what comes out are no logits."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        return f"it has {len(inputs)} inputs and {len(graph.output)} outputs instead of one"
    sizes, answers = _sizes(inputs[0]), _sizes(graph.output[0])
    wanted: tuple[int | None, ...] = (None, shape[0], *((None, None) if any_size else shape[1:]))
    if _kind(inputs[0]) != FLOAT or sizes != wanted:
        return f"it does not take any number of float images of {shape[1]}×{shape[2]}×{shape[0]}"
    if _kind(graph.output[0]) != FLOAT or answers is None or len(answers) not in (2, 4) or answers[0] is not None:
        return "it does not give the logits of any number of images"
    if answers[1] != classes:
        return f"it gives {answers[1]} numbers for {classes} classes"
    return ""


def _kind(value: Any) -> int:
    return int(value.type.tensor_type.elem_type)


def _sizes(value: Any) -> tuple[int | None, ...] | None:
    """Sides of a tensor, None for an open one; None for the whole where nothing is said of them."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def _inferred(model: Any, shape: tuple[int, int, int]) -> Any:
    """The graph with the shapes that follow from one image's; what the file itself says of them counts for nothing.

    Raises whatever the checker of onnx raises.
    """
    import onnx

    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in weights:
            for dim, side in zip(value.type.tensor_type.shape.dim, (1, *shape), strict=True):
                dim.Clear()
                dim.dim_value = side
    for dim in graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()
    del graph.value_info[:]
    for tensor in graph.initializer:
        if len(tensor.raw_data) > 4096:  # of no use for shapes
            tensor.ClearField("raw_data")
    return onnx.shape_inference.infer_shapes(plain, strict_mode=True, data_prop=True).graph


def _cost(model: Any, shape: tuple[int, int, int]) -> str:
    """Why one image would take more memory or work than its network can need, or an amount that cannot be told."""
    try:
        graph = _inferred(model, shape)
    except Exception as error:  # the checker has its own classes
        return " ".join(str(error).split())[:160].rstrip(".")
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    known = {value.name: _sizes(value) for value in (*graph.value_info, *graph.output, *graph.input)}
    known |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    numbers: dict[str, int] = {"": 0}
    for name, sizes in known.items():
        if sizes is not None and None not in sizes:
            numbers[name] = math.prod(side or 0 for side in sizes)
    pixels = shape[1] * shape[2]
    most = NUMBERS + NUMBERS_A_PIXEL * pixels
    most_work = WORK + (sum(weights.values()) + WEIGHTS) * pixels
    last = {name: place for place, node in enumerate(graph.node) for name in node.input}
    fixed = {"", *weights}  # what depends on no image is computed once and kept
    kept = work = 0
    for place, node in enumerate(graph.node):
        for name in (*node.input, *node.output):
            if name not in numbers:
                return f"the size of what its {node.op_type} works on cannot be told before"
        if set(node.input) <= fixed:
            fixed.update(node.output)
        kept += sum(numbers[name] for name in node.output)
        work += _work(node, known, numbers)
        if kept > most:
            return f"it keeps more than {most:,} numbers for one image"
        if work > most_work:
            return f"it takes more than {most_work:,} multiply-adds for one image"
        ended = {name for name in node.input if last[name] == place} - fixed
        kept -= sum(numbers[name] for name in ended)
    return ""


def _work(node: Any, known: dict[str, Any], numbers: dict[str, int]) -> int:
    """Multiply-adds of a node, or an upper bound."""
    given = [known.get(name) or () for name in node.input]
    out = sum(numbers[name] for name in node.output)
    moved = out + sum(numbers[name] for name in node.input)
    attributes = {attribute.name: attribute for attribute in node.attribute}
    match node.op_type:
        case "Conv":
            return moved + out * math.prod(given[1][1:])
        case "ConvTranspose":
            return moved + numbers[node.input[0]] * math.prod(given[1][1:])
        case "MatMul":
            return moved + out * (given[0][-1] if given[0] else 1)
        case "Gemm":
            return moved + out * max(given[0])
        case "Einsum":
            return moved + math.prod(numbers[name] for name in node.input)
        case "AveragePool" | "MaxPool":
            return moved + out * math.prod(max(1, side) for side in attributes["kernel_shape"].ints)
        case "LRN":
            return moved + out * max(1, attributes["size"].i)
    return moved
