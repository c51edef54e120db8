"""A model is traced while other threads use it, and others."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, fx, nn

import cnnlab
from cnnlab.explain.head import head_layers
from cnnlab.explain.hooks import record_outputs, replace_output
from cnnlab.models.folding import fold_batch_norm

IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return cnnlab.create_model("resnet", depth=8, width=4, num_classes=3, in_channels=1).eval()


@contextmanager
def held_trace(model: nn.Module, trace: Callable[[nn.Module], object]) -> Iterator[None]:
    """Within, another thread is in the middle of tracing `model`."""
    inside, go = threading.Event(), threading.Event()
    forward_head = model.forward_head

    def held(features: Tensor | fx.Proxy) -> object:
        if isinstance(features, fx.Proxy):
            inside.set()
            assert go.wait(30)
        return forward_head(features)

    model.forward_head = held  # type: ignore[assignment]
    with ThreadPoolExecutor(1) as pool:
        tracing = pool.submit(trace, model)
        try:
            assert inside.wait(30)
            yield
        finally:
            go.set()
            tracing.result(30)
            del model.forward_head


def fold(model: nn.Module) -> nn.Module:
    folded = fold_batch_norm(model, IMAGES)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    return folded


@pytest.mark.parametrize("trace", [head_layers, fold])
@pytest.mark.parametrize("same", [True, False])
@torch.inference_mode()
def test_a_model_answers_while_one_is_traced(
    same: bool, trace: Callable[[nn.Module], object], model: nn.Module
) -> None:
    asked = model if same else copy.deepcopy(model)
    expected = asked(IMAGES)
    with held_trace(model, trace):
        torch.testing.assert_close(asked(IMAGES), expected, rtol=0, atol=0)
        assert isinstance(nn.Linear(2, 2)(torch.zeros(1, 2)), Tensor)  # one that is made meanwhile


def test_traces_in_two_threads_leave_the_modules_of_torch_as_they_were(model: nn.Module) -> None:
    before = nn.Module.__call__, nn.Module.__getattr__
    other = copy.deepcopy(model)
    with ThreadPoolExecutor(1) as pool:
        with held_trace(model, head_layers):
            second = pool.submit(head_layers, other)
            with pytest.raises(TimeoutError):
                second.result(0.2)  # it waits for the first one
        kinds = [type(layer) for layer in second.result(30)]
    assert (nn.Module.__call__, nn.Module.__getattr__) == before
    assert kinds == [type(layer) for layer in head_layers(model)]


@torch.inference_mode()
def test_hooks_see_the_passes_of_their_own_thread_alone(model: nn.Module) -> None:
    layer, expected = model.feature_info.module, model(IMAGES)  # type: ignore[union-attr]
    with ThreadPoolExecutor(1) as pool:

        def ask() -> Tensor:
            with torch.inference_mode():
                return model(IMAGES)

        with replace_output(model, layer) as outputs, record_outputs(model, [layer]) as recorded:
            assert torch.equal(pool.submit(ask).result(30), expected)
            assert outputs == []
            assert recorded == {}
            with torch.inference_mode(False), torch.enable_grad():
                model(IMAGES.clone())
            assert len(outputs) == len(recorded) == 1
