"""1×1 convolutions with a stride, which can kill the process, and those of many filters over small maps."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.config import compose
from cnnlab.data.build import build_data
from cnnlab.models.folding import fold_batch_norm
from cnnlab.models.vgg import vgg11
from cnnlab.runs.folder import RunFolder
from cnnlab.training.build import build_model
from cnnlab.training.convolution import SmallMapConvolution, fix_convolutions
from cnnlab.training.precision import has_fast_bf16
from cnnlab.training.trainer import Trainer

BF16 = torch.bfloat16
fast_bf16 = pytest.mark.skipif(not has_fast_bf16(torch.device("cpu")), reason="needs a processor that multiplies bf16")


def is_fixed(layer: nn.Module) -> bool:
    return "_conv_forward" in vars(layer)


@pytest.mark.parametrize("size", [(7, 8), (8, 8), (1, 3)])
@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
def test_it_computes_what_the_convolution_does(size: tuple[int, int], stride: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 1, stride)
    fixed = copy.deepcopy(plain)
    fix_convolutions(fixed)
    assert is_fixed(fixed) and type(fixed) is nn.Conv2d
    assert fixed.state_dict().keys() == plain.state_dict().keys()
    results = []
    for layer in (plain, fixed):
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
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(16, 6, 1, 2),
        nn.Conv2d(4, 6, 1, 2, padding=1),
        nn.Conv2d(4, 4, 1, 2, groups=2),
        nn.Conv2d(512, 512, 3, groups=2),
        nn.Conv2d(256, 256, 7, padding=3),
        nn.Conv2d(256, 512, 3, dilation=2),
        nn.Conv2d(256, 512, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(256, 512, 3, padding="same"),
        nn.ConvTranspose2d(256, 512, 3),
    ]
    model = nn.Sequential(*layers)
    fix_convolutions(model)
    assert not any(is_fixed(layer) for layer in model)


def test_a_narrow_residual_net_trains_on_odd_batches_with_two_threads(tmp_path: Path) -> None:
    """Without the fix this process dies in its first steps."""
    words = ["train", "model=resnet", "model.depth=8", "model.width=8", "model.shortcut=B", "data.image_size=28"]
    words += ["trainer.batch_size=25", "trainer.epochs=2", "data.limit=800", "trainer.threads=2", "run.dir=run"]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "cnnlab", *words, "logger=none"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])


@pytest.mark.parametrize(("size", "kernel", "stride"), [((1, 1), 3, 2), ((5, 1), (1, 3), (1, 2)), ((3, 2), 5, 3)])
@pytest.mark.parametrize("groups", [1, 2, 32])
def test_taps_that_see_only_zeros_get_no_gradient(size: tuple[int, int], kernel: Any, stride: Any, groups: int) -> None:
    """torch leaves there what was in memory."""
    torch.manual_seed(0)
    pad = (kernel // 2, kernel // 2) if isinstance(kernel, int) else (0, 1)
    plain = nn.Conv2d(32, 32, kernel, stride, pad, groups=groups, bias=False)
    fixed = copy.deepcopy(plain)
    fix_convolutions(fixed)
    assert is_fixed(fixed)
    x = channels_last(3, 32, *size).to(BF16)
    for _ in range(5):
        spoilt = [torch.full_like(plain.weight, torch.nan, dtype=BF16) for _ in range(20)]
        del spoilt
        with torch.autocast("cpu", BF16):
            y = fixed(x)
        fixed.zero_grad()
        y.sum().backward()
        plain.zero_grad()
        plain(x.float()).sum().backward()
        assert fixed.weight.grad is not None and plain.weight.grad is not None
        assert (plain.weight.grad == 0).any()
        assert error(fixed.weight.grad, plain.weight.grad.double()) < 0.01
        assert (fixed.weight.grad[plain.weight.grad == 0] == 0).all()


def channels_last(*shape: int) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


def error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm().clamp(min=1e-9)).item()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((4, 4), (3, 3), (1, 1), (1, 1)),
        ((4, 5), (3, 3), (1, 1), (0, 1)),
        ((8, 8), (3, 3), (2, 2), (1, 1)),
        ((7, 9), (3, 3), (2, 3), (1, 1)),
        ((5, 4), (5, 3), (1, 1), (2, 1)),
        ((2, 2), (2, 2), (2, 2), (0, 0)),
        ((1, 1), (3, 3), (1, 1), (1, 1)),  # the upper and the lower taps see zeros only
        ((2, 2), (3, 3), (1, 1), (2, 2)),
        ((2, 3), (2, 2), (1, 1), (2, 2)),  # some positions see zeros only
        ((6, 1), (1, 3), (1, 2), (0, 1)),
    ],
)
def test_small_maps_are_convolved_as_exactly_as_torch_does(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    x = channels_last(3, 24, *size).to(BF16)
    weight = (channels_last(40, 24, *kernel) / 8).to(BF16).float()
    plain = F.conv2d(x.double(), weight.double(), None, stride, padding)
    gradient = channels_last(*plain.shape).to(BF16)
    results = []
    for kind in ("exact", "torch", "ours"):
        wide = kind == "exact"
        a, b = (t.clone().to(torch.float64 if wide else t.dtype).requires_grad_() for t in (x, weight))
        if kind == "ours":
            y: Tensor = SmallMapConvolution.apply(a, b, stride, padding)  # type: ignore[no-untyped-call]
        else:
            around = (padding[1], padding[1], padding[0], padding[0])
            y = F.conv2d(F.pad(a, around), b if wide else b.to(BF16), None, stride)
        y.backward(gradient.to(y.dtype))
        assert a.grad is not None and b.grad is not None
        results.append((y.detach(), a.grad, b.grad))
    exact, torchs, ours = results
    for reference, theirs, mine in zip(exact, torchs, ours, strict=True):
        assert mine.shape == reference.shape
        assert error(mine, reference) < max(1.2 * error(theirs, reference), 1e-6) < 0.01
    assert ours[0].dtype == ours[1].dtype == BF16 and ours[2].dtype == torch.float32
    assert ours[0].is_contiguous(memory_format=torch.channels_last)


def test_the_gradient_of_the_filters_lies_in_memory_as_they_do() -> None:
    """Else it is copied when it is accumulated."""
    weight = channels_last(64, 32, 3, 3).requires_grad_()
    y: Tensor = SmallMapConvolution.apply(channels_last(2, 32, 4, 4).to(BF16), weight, (1, 1), (1, 1))  # type: ignore[no-untyped-call]
    y.sum().backward()
    assert weight.grad is not None and weight.grad.stride() == weight.stride()


@fast_bf16
@pytest.mark.parametrize(
    ("size", "channels", "autocast", "takes"),
    [
        (4, 512, True, True),
        (4, 512, False, False),  # float32: torch's own is faster
        (7, 512, True, False),
        (2, 256, True, True),
        (4, 256, True, False),
        (2, 64, True, False),
    ],
)
def test_matrix_products_are_taken_where_they_are_faster(size: int, channels: int, autocast: bool, takes: bool) -> None:
    layer = nn.Conv2d(channels, channels, 3, padding=1)
    plain = copy.deepcopy(layer)
    fix_convolutions(layer)
    x = channels_last(2, channels, size, size)
    with (
        mock.patch.object(SmallMapConvolution, "apply", side_effect=SmallMapConvolution.apply) as taken,
        torch.autocast("cpu", BF16, enabled=autocast),
    ):
        y = layer(x)
    assert taken.called == takes
    with torch.autocast("cpu", BF16, enabled=autocast):
        reference = plain(x)
    assert y.dtype == reference.dtype and error(y, reference.double()) < 0.01
    assert layer(x[0]).shape == reference[0].shape  # an image without a batch
    assert layer(x[:0]).shape == (0, *reference.shape[1:])


@fast_bf16
@pytest.mark.parametrize("batch", [1, 3])
def test_what_follows_may_change_the_map_in_place(batch: int) -> None:
    layer = nn.Conv2d(256, 256, 3, padding=1, bias=False)
    fix_convolutions(layer)
    x = channels_last(batch, 256, 1, 2).requires_grad_()
    with torch.autocast("cpu", BF16):
        y = layer(x)
        y += x
        y.relu_().sum().backward()
    assert y.min() >= 0 and layer.weight.grad is not None


@fast_bf16
@pytest.mark.parametrize("shape", [(2, 200, 3, 2), (2, 256, 2, 2), (2, 256, 3, 1, 1)])
def test_maps_that_do_not_fit_are_refused_as_by_torch(shape: tuple[int, ...]) -> None:
    plain = nn.Conv2d(256, 256, 3, padding=(0, 1), bias=False)
    fixed = copy.deepcopy(plain)
    fix_convolutions(fixed)
    refusals = []
    for layer in (plain, fixed):
        with torch.autocast("cpu", BF16), pytest.raises(RuntimeError) as refused:
            layer(torch.randn(shape))
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]


@fast_bf16
def test_a_fixed_net_is_copied_saved_folded_and_answers_as_before() -> None:
    torch.manual_seed(0)
    plain = vgg11(num_classes=5, image_size=32).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fixed = copy.deepcopy(plain)
    fix_convolutions(fixed)
    assert sum(is_fixed(layer) for layer in fixed.modules()) == 7
    assert fixed.state_dict().keys() == plain.state_dict().keys()
    x = channels_last(4, 3, 32, 32)
    for layer in fixed.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    again = copy.deepcopy(fixed)
    with torch.no_grad():
        for parameter in fixed.parameters():
            parameter.zero_()  # the copy has weights of its own
    through_a_file = pickle.loads(pickle.dumps(again))
    with torch.autocast("cpu", BF16), torch.no_grad():
        answers = [net.eval()(x).float() for net in (plain, again, through_a_file)]
    assert error(answers[1], answers[0].double()) < 0.02 and torch.equal(answers[1], answers[2])
    with torch.no_grad():
        folded = fold_batch_norm(again, x)
        assert torch.allclose(folded(x), plain(x), atol=1e-4)


@fast_bf16
def test_training_in_bfloat16_takes_them(tmp_path: Path) -> None:
    words = ["data=digits", "data.image_size=32", "model=vgg11", "trainer.batch_size=16", "trainer.precision=bf16"]
    config = compose([*words, "data.limit=64"])
    data = build_data(config, torch.device("cpu"))
    trainer = Trainer(build_model(config, data), data, config, RunFolder(tmp_path))
    taken: list[Any] = []

    def count(*given: Any) -> Tensor:
        taken.append(given)
        return real(*given)  # type: ignore[no-any-return]

    real: Any = SmallMapConvolution.apply
    with mock.patch.object(SmallMapConvolution, "apply", count):
        next(trainer.train_epoch())
    assert len(taken) == 4
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
