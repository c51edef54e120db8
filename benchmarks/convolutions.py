"""Many filters over small maps in bfloat16: matrix products beside torch's own convolution, alone and in whole nets.

    uv run python benchmarks/convolutions.py

A layer or net trains on one batch of random images, forward and backward, with torch's convolution and with
cnnlab.training.convolution in turn; medians of `ROUNDS`.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.models.registry import create_model
from cnnlab.runs.environment import describe
from cnnlab.training.convolution import SmallMapConvolution, fix_convolutions
from cnnlab.training.precision import keep_freed_memory

ROUNDS, BATCH = 15, 64
LAYERS = [(512, size) for size in (1, 2, 3, 4, 5, 6, 7)] + [(256, size) for size in (1, 2, 3, 4)] + [(128, 1), (128, 2)]
NETS = [("vgg16", 32), ("resnet18", 32), ("resnet18", 128), ("resnet50", 64), ("unet", 32), ("convnet", 128)]


def main() -> None:
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n")
    keep_freed_memory()
    torch.manual_seed(0)
    print("| filters, map | torch, ms | matrix products, ms | share of the time, range |\n|---|---|---|---|")
    for channels, size in LAYERS:
        compare(f"{channels} → {channels}, {size}×{size}", *layer(channels, size))
    print("\n| net, image | torch, ms | fixed, ms | share of the time, range |\n|---|---|---|---|")
    for name, size in NETS:
        compare(f"{name}, {size}", *net(name, size))


def compare(what: str, torchs: Callable[[], None], ours: Callable[[], None]) -> None:
    times: list[list[float]] = []
    for _ in range(ROUNDS + 1):
        times.append([])
        for run in (torchs, ours):
            began = time.perf_counter()
            run()
            times[-1].append(1e3 * (time.perf_counter() - began))
    one, other = (statistics.median(column) for column in zip(*times[1:], strict=True))
    shares = sorted(b / a for a, b in times[1:])
    print(
        f"| {what} | {one:.1f} | {other:.1f} | {statistics.median(shares):.2f} ({shares[0]:.2f}–{shares[-1]:.2f}) |",
        flush=True,
    )


def layer(channels: int, size: int) -> tuple[Callable[[], None], Callable[[], None]]:
    x = channels_last(BATCH, channels, size, size).to(torch.bfloat16).requires_grad_()
    weight = channels_last(channels, channels, 3, 3).requires_grad_()
    gradient = channels_last(BATCH, channels, size, size).to(torch.bfloat16)

    def torchs() -> None:
        F.conv2d(x, weight.to(torch.bfloat16), padding=1).backward(gradient)
        x.grad = weight.grad = None

    def ours() -> None:
        SmallMapConvolution.apply(x, weight, (1, 1), (1, 1)).backward(gradient)  # type: ignore[no-untyped-call]
        x.grad = weight.grad = None

    return torchs, ours


def net(name: str, size: int) -> tuple[Callable[[], None], Callable[[], None]]:
    sizes = {} if name == "unet" else {"image_size": size}
    model = create_model(name, num_classes=10, **sizes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fixed = copy.deepcopy(model)
    fix_convolutions(fixed)
    x = channels_last(BATCH, 3, size, size)

    def training(module: nn.Module) -> Callable[[], None]:
        def run() -> None:
            with torch.autocast("cpu", torch.bfloat16):
                answer = module(x)
            answer.float().square().mean().backward()
            module.zero_grad()

        return run

    return training(model), training(fixed)


def channels_last(*shape: int) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
