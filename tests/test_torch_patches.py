"""Each patch of torch is still needed by the torch at hand. A failure here is good news: delete the patch it names."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.fx.experimental.proxy_tensor
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import cnnlab
from cnnlab import torch_patches
from cnnlab.models.base import GlobalMaxPool
from cnnlab.torch_patches import (
    CHECKED_WITH,
    CONVOLUTION,
    BatchNormCounts,
    MetaMode,
    begin_momentum,
    replace_convolution,
    restore_convolutions,
)
from cnnlab.training.convolution import fix_convolutions

IMPORTS_COMPILER = {
    "without_compiler": "torch.ones(2, device='meta') + 1",
    "MetaMode": """
from torch.utils._python_dispatch import TorchDispatchMode
class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))
with Mode(): torch.ones(1) + 1
""",
    "build_optimizers_without_compiler": "torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), 0.1).zero_grad()",
}


def test_torch_is_no_newer_than_the_one_that_the_patches_were_checked_with() -> None:
    major, minor = map(int, torch.__version__.split(".")[:2])
    assert (major, minor) <= CHECKED_WITH, "run this file and benchmarks/convolutions.py, then raise CHECKED_WITH"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each is tried in a process that has torch and not its compiler")
def test_torch_still_imports_its_compiler_where_nothing_is_compiled() -> None:
    code = f"""
import os, sys, torch
for name, statement in {IMPORTS_COMPILER!r}.items():
    child = os.fork()
    if child == 0:
        exec(statement)
        os._exit("torch._dynamo" not in sys.modules)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        print(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], "these are no longer needed"


def test_a_step_of_torch_is_still_wrapped() -> None:
    """That its fused forms still copy filters, tests/training/test_training_optim.py says."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    assert hasattr(type(optimizer).step, "__wrapped__"), "bare_step is no longer needed"


def test_the_names_that_are_not_public_are_there_and_no_others() -> None:
    assert hasattr(nn.Conv2d, CONVOLUTION) and hasattr(MetaMode, "_should_skip_dynamo")
    assert not hasattr(torch.Tensor, "shares_memory"), "shares_memory has a public name"


def test_batch_norm_counts_together_what_each_layer_would_count() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=None), nn.BatchNorm2d(2))
    model[2].eval()
    counts = BatchNormCounts(model)
    for _ in range(3):
        with counts:
            model(torch.randn(4, 2, 3, 3))
            assert not isinstance(model[0].num_batches_tracked, Tensor), "batch norm no longer counts by kernels"
    assert [norm.num_batches_tracked.item() for norm in model] == [3, 3, 0]  # type: ignore[operator]
    with pytest.raises(ValueError), counts:
        model(torch.randn(4, 2))
    assert model.state_dict()["0.num_batches_tracked"] == 3


def test_a_convolution_is_replaced_and_restored() -> None:
    layer = nn.Conv2d(1, 1, 3)
    x = torch.randn(1, 1, 4, 4)
    expected = layer(x)

    def zero(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x.new_zeros(1)

    replace_convolution(layer, zero)
    assert layer(x) == 0
    restore_convolutions(layer)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_after_fit_the_model_of_the_user_is_no_longer_patched(tmp_path: Path, fails: bool) -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3, padding=1)
            self.strided = nn.Conv2d(8, 8, 1, stride=2)
            self.head = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.strided(self.conv(x)).amax((2, 3)))  # type: ignore[no-any-return]

    digits = load_digits()
    images = torch.tensor(digits.images[:100, None] / 16, dtype=torch.float32)
    model = Strided()
    before = {name: set(vars(layer)) for name, layer in model.named_modules()}
    fix_convolutions(model)
    assert CONVOLUTION in vars(model.strided)  # else this test would see nothing
    restore_convolutions(model)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if fails and CONVOLUTION in vars(model.strided):
            raise ZeroDivisionError
        return nn.functional.cross_entropy(logits, labels)

    settings = {"loss": loss, "batch_size": 20, "epochs": 2, "progress": False, "test": False}
    try:
        cnnlab.fit(model, TensorDataset(images, torch.tensor(digits.target[:100])), dir=tmp_path / "run", **settings)
    except ZeroDivisionError:
        assert fails
    else:
        assert not fails
    del model._cnnlab_spec  # how a run folder names it
    assert {name: set(vars(layer)) for name, layer in model.named_modules()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_on_older_versions_pooling_is_exported_as_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """2.11 has no ONNX form of adaptive max pooling; the exports of deploy/test_export.py are of the torch at hand."""
    monkeypatch.setattr(torch_patches, "VERSION", (2, 11))
    x = torch.rand(2, 3, 4, 5)
    program = torch.fx.experimental.proxy_tensor.make_fx(GlobalMaxPool())
    with torch_patches.exportable():
        traced = program(x)
    assert "adaptive" not in traced.code and "amax" in traced.code
    assert torch.equal(traced(x), GlobalMaxPool()(x))


@pytest.mark.parametrize("begun", [False, True])
def test_fused_sgd_needs_a_momentum_to_begin_with_where_the_first_step_overflows(
    begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When this fails for `begun` False, torch no longer needs `begin_momentum`."""
    monkeypatch.setattr(torch, "empty_like", lambda x, **more: torch.full_like(x, math.nan, **more))
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
    if begun:
        begin_momentum(optimizer)
    scaler = torch.GradScaler("cpu")
    for factor in (math.inf, 1.0):
        scaler.scale((weight * factor).sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert bool(weight.isfinite().all()) is begun
    if begun:
        assert torch.equal(weight.detach(), torch.full((3,), 0.9))


def test_batch_norms_with_a_forward_of_their_own_count_as_they_like() -> None:
    class FirstOnly(nn.BatchNorm1d):
        firsts = 0

        def forward(self, x: Tensor) -> Tensor:
            self.firsts += int(self.num_batches_tracked == 0)
            self.num_batches_tracked += 1
            return x

    model = nn.Sequential(FirstOnly(2), nn.BatchNorm1d(2))
    for _ in range(3):
        with BatchNormCounts(model):
            model(torch.randn(4, 2))
    assert model[0].firsts == 1
    assert [int(norm.num_batches_tracked) for norm in model] == [3, 3]
