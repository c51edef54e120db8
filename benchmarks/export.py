"""ResNet-20 as PyTorch runs it, as ONNX, and in 8 bits: time and size, in turn in one process.

    CNNLAB_DATA=ROOT uv run --group dev python benchmarks/export.py

Weights as drawn: they cost what trained ones do. Images: those of CIFAR-10 where they are, else noise.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from cnnlab.data.load import load_data
from cnnlab.deploy.acceptance import parity
from cnnlab.deploy.convert import to_onnx
from cnnlab.deploy.export import CALIBRATION, exported_form, some_images
from cnnlab.deploy.exported import OnnxModel
from cnnlab.deploy.quantize import to_int8
from cnnlab.models.registry import create_model
from cnnlab.runs.environment import describe, processor_name

ROUNDS = {1: 300, 128: 15}


def example_images() -> Tensor:
    root = Path(os.environ.get("CNNLAB_DATA", "")) / "cifar10-jpeg"
    if root.is_dir():
        data = load_data("folder", root=str(root), image_size=32, limit=2000)
        return some_images(data, "test", CALIBRATION)[0]
    return torch.randn(CALIBRATION, 3, 32, 32)


@torch.inference_mode()
def main() -> None:
    facts = describe()
    print(f"{processor_name(facts['machine'])}, {facts['machine']['cores']} cores, {torch.get_num_threads()} threads,")
    print(f"torch {facts['versions']['torch']}, medians (quartiles) of {ROUNDS} calls in turn.\n")
    torch.manual_seed(0)
    images = example_images()
    model = create_model("resnet", depth=20, num_classes=10).train()
    with torch.no_grad():
        for _ in range(3):
            model(images)  # batch norm gets statistics
    model.eval()
    layout = {"height": 32, "width": 32, "mode": "RGB", "fit": "crop"}
    preprocess = {"layout": layout, "mean": [0.5] * 3, "std": [0.25] * 3}
    said = {"classes": [str(number) for number in range(10)], "preprocess": preprocess}
    with torch.inference_mode(False):
        images = images.clone()
        content = to_onnx(exported_form(model, images, False), images[:2].clone(), said)
        small = to_int8(content, images, said)
    nets = {"PyTorch eager": model, "ONNX": OnnxModel(content), "ONNX int8": OnnxModel(small)}
    sizes = {"PyTorch eager": len(save(model.state_dict())), "ONNX": len(content), "ONNX int8": len(small)}
    print("| | size, kB | largest logit difference |" + "".join(f" batch {n}, ms | eager / it |" for n in ROUNDS))
    print("|---|---|---|" + "---|---|" * len(ROUNDS))
    spent: dict[tuple[str, int], list[float]] = {(name, count): [] for name in nets for count in ROUNDS}
    for count, rounds in ROUNDS.items():
        batch = images[:count].contiguous()
        for turn in range(rounds + 3):
            for name, net in nets.items():
                began = time.perf_counter()
                net(batch)
                if turn >= 3:
                    spent[name, count].append(1000 * (time.perf_counter() - began))
    for name, net in nets.items():
        found = parity(model, net, images)
        row = f"| {name} | {sizes[name] / 1000:.0f} | {max(found['difference'].values()):.2g} |"
        for count in ROUNDS:
            low, middle, high = statistics.quantiles(spent[name, count], n=4)
            ratio = statistics.median(
                a / b for a, b in zip(spent["PyTorch eager", count], spent[name, count], strict=True)
            )
            row += f" {middle:.2f} ({low:.2f}–{high:.2f}) | {ratio:.1f} |"
        print(row)


if __name__ == "__main__":
    main()
