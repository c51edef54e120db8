"""ResNet-18 on a folder of photographs at 128 pixels, batch 64, data and all: images per second beside its rivals.

    CNNLAB_DATA=ROOT uv run python benchmarks/photographs.py

The rivals (photograph_rivals.py) are fastai's Learner with its usual transforms, in an environment that uv makes for it
(or the Python that FASTAI_PYTHON names), and a careful script with bfloat16 and channels last. Each trains in a process
of its own; they are timed in turn, and while one runs the others wait.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from cnnlab.config import compose
from cnnlab.data.build import build_data
from cnnlab.models.cost import multiply_adds
from cnnlab.runs.environment import describe
from cnnlab.runs.folder import RunFolder
from cnnlab.training.build import build_model
from cnnlab.training.precision import prepare_process
from cnnlab.training.trainer import Trainer
from training import train_steps

ROUNDS, STEPS, WARM = 10, 12, 4
SETTINGS = ["model=resnet18", "data.image_size=128", "trainer.batch_size=64", "trainer.epochs=1000", "augment=standard"]
SAME_STEP = ["optimizer=sgd", "optimizer.lr=0.05", "trainer.ema=null"]  # as the careful script has it


class Rival:
    def __init__(self, python: list[str], name: str, root: str) -> None:
        words = [*python, str(Path(__file__).with_name("photograph_rivals.py")), name, root]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def train(self, steps: int) -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def fastai_python() -> list[str]:
    if os.environ.get("FASTAI_PYTHON"):
        return [os.environ["FASTAI_PYTHON"]]
    return ["uv", "run", "--no-project", "--quiet", "--with", "fastai", "python"]


def peak(kind: torch.dtype, side: int = 4096) -> float:
    """Multiply-adds a second of one large matrix product, the best of five."""
    import time

    a, b = torch.randn(side, side).to(kind), torch.randn(side, side).to(kind)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return side**3 / min(times[1:])


def main() -> None:
    data_root = os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root")
    root = str(Path(data_root) / "caltech101" / "101_ObjectCategories")
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n", flush=True)
    rivals = {
        "fastai Learner": Rival(fastai_python(), "fastai", root),
        "script: bf16, channels_last, DataLoader": Rival([sys.executable], "tuned", root),
    }
    config = compose(["data=folder", f"data.root={root}", *SETTINGS, *SAME_STEP])
    prepare_process(config.trainer)
    data = build_data(config, torch.device("cpu"))
    trainer = Trainer(build_model(config, data), data, config, RunFolder(Path(tempfile.mkdtemp())))
    work = multiply_adds(trainer.model, (3, 128, 128))
    for rival in rivals.values():
        rival.train(WARM)
    train_steps(trainer, WARM)
    rates: dict[str, list[float]] = {**{name: [] for name in rivals}, "cnnlab": []}
    for _ in range(ROUNDS):
        for name, rival in rivals.items():
            rates[name].append(rival.train(STEPS))
        rates["cnnlab"].append(train_steps(trainer, STEPS))
    print("| loop | images/s, median (range) | cnnlab's ratio to it, paired median |\n|---|---|---|")
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rates["cnnlab"], values, strict=True))
        print(f"| {name} | {statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f}) | {ratio:.2f} |")
    reached = 3 * work * statistics.median(rates["cnnlab"])  # forward once, backward twice
    top = peak(torch.bfloat16)
    print(
        f"\n{work / 1e6:,.0f} million multiply-adds per image forward; training reaches {reached / 1e9:,.0f} of the"
        f" {top / 1e9:,.0f} billion multiply-adds a second of a bf16 matrix product ({100 * reached / top:.0f} %;"
        f" fp32 {peak(torch.float32) / 1e9:,.0f})"
    )
    for rival in rivals.values():
        rival.process.kill()


if __name__ == "__main__":
    main()
