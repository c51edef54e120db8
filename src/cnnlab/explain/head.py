"""What a classifier does after its last feature map, as a plain chain of layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from cnnlab.errors import ModelError
from cnnlab.geometry import pool_output_size
from cnnlab.models.base import Classifier, GlobalAveragePool, GlobalMaxPool
from cnnlab.models.symbolic import ThreadTracer

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Hardswish)
FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    F.relu: lambda *a, **k: nn.ReLU(),
    torch.relu: lambda *a, **k: nn.ReLU(),
    F.gelu: lambda *a, **k: nn.GELU(*a, **k),
    F.silu: lambda *a, **k: nn.SiLU(),
    torch.tanh: lambda *a, **k: nn.Tanh(),
    torch.sigmoid: lambda *a, **k: nn.Sigmoid(),
    F.dropout: lambda *a, **k: nn.Dropout(),
    F.adaptive_avg_pool2d: lambda size: nn.AdaptiveAvgPool2d(size),
    F.adaptive_max_pool2d: lambda size: nn.AdaptiveMaxPool2d(size),
}


class _Head(nn.Module):
    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        return self.model.forward_head(features)


class _Tracer(ThreadTracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        known = isinstance(module, GlobalAveragePool | GlobalMaxPool | nn.LayerNorm)  # also torchvision's LayerNorm2d
        return known or super().is_leaf_module(module, name)


class _PlaceNorm(nn.Module):
    """A LayerNorm over the channels of each place: (B, F, h, w) → (B, F, h, w)."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.shape, self.weight, self.bias, self.eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


def head_layers(model: nn.Module) -> list[nn.Module]:
    """The layers between the last feature map and the logits, in order, without those that do nothing in a test.

    Functions come as the modules that do the same: `x.mean((2, 3))` as GlobalAveragePool, `x.flatten(1)` as Flatten.
    The layers with weights are the model's own, not copies.

    Raises:
        ModelError: no features, or a head that is no chain of layers.
    """
    if not isinstance(model, Classifier):
        raise ModelError(
            f"{type(model).__name__} is no cnnlab.Classifier: its features and its head cannot be separated."
        )
    _ = model.feature_info  # says it for a model without a feature map
    kind = type(model).__name__
    try:
        graph = _Tracer().trace(_Head(model))
    except ModelError:
        raise
    except Exception as error:  # a head of the user's own can do what cannot be traced
        raise ModelError(f"the head of {kind} cannot be followed ({str(error).splitlines()[0]}).") from None
    layers: list[nn.Module] = []
    before = None
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            before = node if node.op == "placeholder" else before
            continue
        if not node.args or node.args[0] is not before or len(node.all_input_nodes) != 1:
            raise ModelError(f"the head of {kind} is no chain of layers: {node.name} takes more than the layer before.")
        layer = _as_layer(model, node)
        if layer is None:
            raise ModelError(f"the head of {kind} has a step that is not known here: {node.name}.")
        if not isinstance(layer, nn.Identity | nn.Dropout | nn.Dropout2d):
            layers.append(layer)
        before = node
    return layers


def _as_layer(model: nn.Module, node: fx.Node) -> nn.Module | None:
    rest, named = node.args[1:], node.kwargs
    if node.op == "call_module":
        return model.get_submodule(str(node.target).removeprefix("model."))
    if (node.op, node.target) == ("call_method", "mean") or node.target is torch.mean:
        dims = named.get("dim", rest[0] if rest else None)
        flat = {d % 4 for d in dims} == {2, 3} if isinstance(dims, tuple | list) else False
        kept = named.get("keepdim", rest[1] if len(rest) > 1 else False)
        return (nn.AdaptiveAvgPool2d(1) if kept else GlobalAveragePool()) if flat else None
    if (node.op, node.target) == ("call_method", "flatten") or node.target is torch.flatten:
        return nn.Flatten() if (rest or tuple(named.values())) in ((1,), (1, -1), (1, 3)) else None
    if node.op == "call_function" and node.target in FUNCTIONS:
        try:
            return FUNCTIONS[node.target](*rest, **{k: v for k, v in named.items() if k != "inplace"})
        except TypeError:
            return None
    return None


def averages_everywhere(layers: list[nn.Module]) -> bool:
    """Whether the head is a global average and one linear layer: the case of Zhou et al. 2016."""
    kept = [layer for layer in layers if not isinstance(layer, nn.Flatten)]
    if len(kept) != 2 or not isinstance(kept[1], nn.Linear):
        return False
    pool = kept[0]
    whole = isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size in (1, (1, 1))
    return isinstance(pool, GlobalAveragePool) or whole


def as_convolutions(layers: list[nn.Module], height: int, width: int) -> nn.Sequential:
    """The same head as convolutions over a map of any size (Long et al. 2015, section 3.1; Sermanet et al. 2013).

    Where the head answers once for a map of height × width, the convolutions answer at every place where such a map
    begins: a global pooling becomes a pooling over height × width at stride 1, the first linear layer after a
    flattening a convolution of the size of the flattened map, further ones 1×1 convolutions. An adaptive average
    pooling is linear and goes into the convolution after it.

    Args:
        layers: from `head_layers`; height, width: of the feature map of an image of the size the model was made for.

    Raises:
        ModelError: a layer for which there is no such form.
    """
    done: list[nn.Module] = []
    shrink: tuple[int, int] | None = None  # an adaptive pooling that waits for its linear layer
    for layer in layers:
        if isinstance(layer, GlobalAveragePool) or (_pools_all(layer, nn.AdaptiveAvgPool2d)):
            done.append(nn.AvgPool2d((height, width), stride=1))
            height = width = 1
        elif isinstance(layer, GlobalMaxPool) or _pools_all(layer, nn.AdaptiveMaxPool2d):
            done.append(nn.MaxPool2d((height, width), stride=1))
            height = width = 1
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            rows, columns = _pair(layer.output_size)
            wanted = (rows or height, columns or width)
            shrink = wanted if wanted != (height, width) else None
        elif isinstance(layer, nn.Flatten):
            continue  # the next linear layer sees the map as it is
        elif isinstance(layer, nn.Linear):
            done.append(_convolution(layer, height, width, shrink))
            height, width, shrink = 1, 1, None
        elif shrink is not None:
            raise ModelError(f"a {type(layer).__name__} after an average pooling has no fully-convolutional form.")
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            height, width = (_pooled(layer, side, axis) for axis, side in enumerate((height, width)))
            done.append(copy.deepcopy(layer))
        elif isinstance(layer, nn.BatchNorm1d) and height == width == 1:
            state = layer.state_dict()
            place = next((value.device for value in state.values()), None)
            norm = nn.BatchNorm2d(layer.num_features, layer.eps, affine=layer.affine, device=place)
            norm.load_state_dict(state)
            done.append(norm.eval())
        elif isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == height == width == 1:
            done.append(_PlaceNorm(layer))
        elif isinstance(layer, ACTIVATIONS) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
            done.append(copy.deepcopy(layer))
        else:
            raise ModelError(f"a {type(layer).__name__} in the head has no fully-convolutional form.")
    return nn.Sequential(*done)


def _pools_all(layer: nn.Module, kind: type[nn.Module]) -> bool:
    return isinstance(layer, kind) and layer.output_size in (1, (1, 1))


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)  # type: ignore[return-value]


def _pooled(layer: nn.MaxPool2d | nn.AvgPool2d, side: int, axis: int) -> int:
    kernel, stride, padding = (int(_pair(v)[axis]) for v in (layer.kernel_size, layer.stride, layer.padding))
    return pool_output_size(side, kernel, stride, padding, ceil_mode=layer.ceil_mode)


@torch.no_grad()
def _convolution(layer: nn.Linear, height: int, width: int, shrink: tuple[int, int] | None) -> nn.Conv2d:
    rows, columns = shrink or (height, width)
    channels, rest = divmod(layer.in_features, rows * columns)
    if rest:
        raise ModelError(f"a layer of {layer.in_features} inputs does not fit a map of {rows}×{columns} places.")
    weight = layer.weight.view(-1, channels, rows, columns)
    if (rows, columns) != (height, width):
        down, across = (_averages(n, size).to(weight) for n, size in ((rows, height), (columns, width)))
        weight = torch.einsum("ufij,iy,jx->ufyx", weight, down, across)
    made = nn.Conv2d(channels, layer.out_features, (height, width), bias=layer.bias is not None, device=weight.device)
    made.weight.copy_(weight)
    if made.bias is not None:
        made.bias.copy_(layer.bias)
    return made


def _averages(outputs: int, inputs: int) -> Tensor:
    """(outputs, inputs): what each output of an adaptive average pooling takes of each input."""
    return F.adaptive_avg_pool1d(torch.eye(inputs)[None], outputs)[0].T.contiguous()
