"""A graph computed by PyTorch: what the page is compared with, and whether 16 bits a weight are enough for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.device import exact_float32
from cnnlab.errors import ModelError
from cnnlab.look.graph import UNARY, Graph

CLOSE = 5e-4  # of a layer's largest value, and of a probability: half of what the page may be off


def node_values(graph: Graph, image: Tensor) -> list[Tensor]:
    """(1, C, H, W) → what each node gives, from the tensors as the graph keeps them."""
    tensors = [t.half().float() if number in graph.half else t for number, t in enumerate(graph.tensors)]
    values: list[Tensor] = []
    with torch.no_grad(), exact_float32():
        for node in graph.nodes:
            named = {name: tensors[number] for name, number in node.tensors.items()}
            inputs = [values[place] for place in node.inputs]
            value = image if node.op == "input" else _compute(node.op, inputs, named, node.attributes, node.shape)
            assert list(value.shape) == node.shape, node
            values.append(value)
    return values


def check_graph(graph: Graph, model: nn.Module, images: Tensor) -> None:
    """Raise ModelError unless the graph answers as the model does on (B, C, H, W) images."""
    for image in images:
        found = node_values(graph, image[None])[graph.output]
        with torch.no_grad(), exact_float32():
            expected = model(image[None])
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()) + 1e-6):
            raise ModelError(
                f"{type(model).__name__} computes something that the page does not see: its answers differ there. Avoid"
                " changing a part of a tensor in place in its forward."
            )


def choose_precision(graph: Graph, images: Tensor) -> None:
    """Keep kernels in 16 bits where every layer and answer stays within CLOSE on these (B, C, H, W) images."""
    graph.half = set()
    whole = [node_values(graph, image[None]) for image in images]
    graph.half = {number for number, tensor in enumerate(graph.tensors) if tensor.dim() > 1 and tensor.numel() > 64}
    if not all(_close(graph, a, node_values(graph, image[None])) for image, a in zip(images, whole, strict=True)):
        graph.half = set()


def _close(graph: Graph, expected: list[Tensor], found: list[Tensor]) -> bool:
    if any((a - b).abs().max() > CLOSE * a.abs().max() for a, b in zip(expected, found, strict=True)):
        return False
    logits = [values[graph.output] for values in (expected, found)]
    softmax, sigmoid = [z.softmax(1) for z in logits], [z.sigmoid() for z in logits]
    return all(bool((a - b).abs().max() <= CLOSE) for a, b in (softmax, sigmoid))


def _compute(op: str, x: list[Tensor], t: dict[str, Tensor], a: dict[str, Any], shape: list[int]) -> Tensor:
    """One node: its inputs, tensors, attributes and the shape of its result."""
    if op == "gelu":
        return F.gelu(x[0], approximate=a["approximate"])
    if op in UNARY:
        function = getattr(F, op, None) or getattr(torch, op)
        return function(x[0], *(a[name] for name in UNARY[op]))
    match op:
        case "constant":
            return t["value"]
        case "add" | "sub":
            sign = a.get("alpha", 1.0) * (1 if op == "add" else -1)
            return x[0] + sign * (a["scalar"] if "scalar" in a else x[1])
        case "mul" | "div" | "maximum" | "minimum" | "pow":
            return getattr(torch, op)(x[0], torch.tensor(a["scalar"]) if "scalar" in a else x[1])
        case "conv2d":
            (top, left), (bottom, right) = a["padding"], a["after"]
            padded = F.pad(x[0], (left, right, top, bottom))
            return F.conv2d(padded, t["weight"], t.get("bias"), a["stride"], 0, a["dilation"], a["groups"])
        case "conv_transpose2d":
            more = a["output_padding"], a["groups"], a["dilation"]
            return F.conv_transpose2d(x[0], t["weight"], t.get("bias"), a["stride"], a["padding"], *more)
        case "linear":
            return F.linear(x[0], t["weight"], t.get("bias"))
        case "matmul":
            return x[0] @ x[1]
        case "batch_norm":
            return x[0] * _per_channel(t["scale"], x[0]) + _per_channel(t["shift"], x[0])
        case "group_norm":
            return F.group_norm(x[0], a["groups"], t.get("weight"), t.get("bias"), a["eps"])
        case "layer_norm":
            return F.layer_norm(x[0], x[0].shape[-a["dims"] :], t.get("weight"), t.get("bias"), a["eps"])
        case "prelu":
            return F.prelu(x[0], t["weight"])
        case "max_pool2d":
            return _max_pool(x[0], a, shape)
        case "avg_pool2d":
            ceil = _is_ceil(x[0], a, shape)
            return F.avg_pool2d(x[0], a["kernel"], a["stride"], a["padding"], ceil, a["count_padding"])
        case "adaptive_avg_pool2d" | "adaptive_max_pool2d":
            return getattr(F, op)(x[0], shape[2:])
        case "mean" | "sum" | "amax":
            return getattr(torch, op)(x[0], a["dims"]).reshape(shape)
        case "softmax" | "log_softmax":
            return getattr(torch, op)(x[0], a["dim"])
        case "cat":
            return torch.cat(x, a["dim"])
        case "reshape":
            return x[0].reshape(shape)
        case "permute":
            return x[0].permute(a["order"])
        case "slice":
            return x[0].index_select(a["dim"], torch.arange(a["start"], a["end"], a["step"]))
        case "pad":
            return F.pad(x[0], a["pad"], value=a["value"])
        case "pixel_shuffle":
            return F.pixel_shuffle(x[0], a["factor"])
        case "upsample_nearest2d":
            return F.interpolate(x[0], **_size(a, shape), mode="nearest")
        case "upsample_bilinear2d":
            return F.interpolate(x[0], **_size(a, shape), mode="bilinear", align_corners=a["align_corners"])
    raise AssertionError(op)


def _size(a: dict[str, Any], shape: list[int]) -> dict[str, Any]:
    if a["factors"][0] is None:
        return {"size": shape[2:]}
    return {"scale_factor": a["factors"], "recompute_scale_factor": False}


def _per_channel(numbers: Tensor, x: Tensor) -> Tensor:
    return numbers.reshape(1, -1, *[1] * (x.dim() - 2))


def _is_ceil(x: Tensor, a: dict[str, Any], shape: list[int]) -> bool:
    sides = zip(x.shape[2:], a["kernel"], a["stride"], a["padding"], a.get("dilation", [1, 1]), strict=True)
    return [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in sides] != shape[2:]


def _max_pool(x: Tensor, a: dict[str, Any], shape: list[int]) -> Tensor:
    return F.max_pool2d(x, a["kernel"], a["stride"], a["padding"], a["dilation"], _is_ceil(x, a, shape))
