"""What a layer gives in the middle of a network. A hook lives as long as its `with` block, also where that fails, and
sees the passes of the thread that set it: others may use the model meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cnnlab.deterministic import deterministic_forms
from cnnlab.device import exact_float32
from cnnlab.errors import ModelError, nearest


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The module of that dotted name. Raises ModelError with the nearest name."""
    modules = dict(model.named_modules())
    if not name or name not in modules:
        stages = [stage for stage in getattr(model, "stages", ()) if stage]
        known = f" Its stages are {', '.join(stages)}; any module's dotted name will do." if stages else ""
        near = nearest(name, [key for key in modules if key])
        raise ModelError(
            f"{type(model).__name__} has no layer {name!r}.{near if near.startswith(' Did') else ''}{known}"
        )
    return modules[name]


def _of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    owner = threading.get_ident()
    return lambda *given: hook(*given) if threading.get_ident() == owner else None


@contextmanager
def replace_output(model: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Within, each pass puts the map of layer `name` into the list, as a leaf from which the rest is computed.

    So a gradient with respect to it costs only what follows the layer, and needs no parameter that learns.
    """
    outputs: list[Tensor] = []

    def exchange(module: nn.Module, given: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise ModelError(f"layer {name!r} gives no map (B, F, h, w); choose a convolutional layer.")
        leaf = output.detach().requires_grad_()
        outputs.append(leaf)
        return leaf.clone()  # what follows may change it in place

    handle = find_layer(model, name).register_forward_hook(_of_this_thread(exchange))
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def record_outputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within, each pass puts what the layers `names` give into the dictionary, in the order they are reached."""
    outputs: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[[nn.Module, object, object], None]:
        def record(module: nn.Module, given: object, output: object) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.detach().clone()

        return record

    handles: list[RemovableHandle] = []
    try:
        hooks = ((find_layer(model, name), _of_this_thread(recorder(name))) for name in names)
        handles.extend(layer.register_forward_hook(hook) for layer, hook in hooks)
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within, dropout and batch norm behave as in a test, and float32 is exact; afterwards all is as before."""
    learning = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with exact_float32(), deterministic_forms():
            yield
    finally:
        for module in learning:
            module.training = True
