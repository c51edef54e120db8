"""1×1 convolutions with a stride, which can kill the process."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cnnlab.training.pointwise import StridedPointwise, mend_pointwise


@pytest.mark.parametrize("size", [(7, 8), (8, 8), (1, 3)])
@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
def test_it_computes_what_the_convolution_does(size: tuple[int, int], stride: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 1, stride)
    mended = copy.deepcopy(plain)
    mend_pointwise(mended)
    assert type(mended) is StridedPointwise and isinstance(mended, nn.Conv2d)
    assert mended.state_dict().keys() == plain.state_dict().keys()
    results = []
    for layer in (plain, mended):
        x = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        assert x.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
        results.append((y, x.grad, layer.weight.grad, layer.bias.grad))
    for one, two in zip(*results, strict=True):
        assert one.shape == two.shape and torch.allclose(one, two, atol=1e-5)


def test_other_layers_stay_what_they_are() -> None:
    layers = [
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(4, 6, 3, 2),
        nn.Conv2d(16, 6, 1, 2),
        nn.Conv2d(4, 6, 1, 2, padding=1),
        nn.Conv2d(4, 4, 1, 2, groups=2),
    ]
    model = nn.Sequential(*layers)
    mend_pointwise(model)
    assert all(type(layer) is nn.Conv2d for layer in model)


def test_a_narrow_residual_net_trains_on_odd_batches_with_two_threads(tmp_path: Path) -> None:
    """Without the mend this process dies in its first steps."""
    words = ["train", "model=resnet", "model.depth=8", "model.width=8", "model.shortcut=B", "data.image_size=28"]
    words += ["trainer.batch_size=25", "trainer.epochs=2", "data.limit=800", "trainer.threads=2", "run.dir=run"]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "cnnlab", *words, "logger=none"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
