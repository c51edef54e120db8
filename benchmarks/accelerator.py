"""What a GPU gains: steps, loader, optimizer and speedrun in a few minutes, as tables and as one JSON file.

    uv run python benchmarks/accelerator.py [--device cuda] [--minutes 6] [--only PART,PART] [--data FILE] [--out FILE]

training      ResNet-20 on 32-pixel images, data and all: eager, compiled, and what trainer.compile=auto makes of it,
              beside a tuned loop for the same network and batch (`Stock`)
speedrun      recipe=speedrun on CIFAR-10's JPEGs, three seeds: seconds and accuracy; --data is the file that
              pack_cifar.py makes, or a folder {train,test}/CLASS
photographs   ResNet-18 at 128 and 224 px through the loader, beside the same loop on images that already lie on the
              device, which no loader can beat
optimizer     kernels that a step launches, of them the optimizer's, and the optimizer's time

Every part is a process of its own, with a share of the minutes; what a part has no time for is skipped and says so.
Loops are warmed up, then timed in turn, each time from a synchronisation to the next; a row has median, range and n.
`--device cpu` runs all of it in small sizes: the code can be tested without a GPU, its numbers say nothing.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import pack_cifar
from cnnlab.config import Config, compose
from cnnlab.data.build import build_data
from cnnlab.data.sources.base import ArraySet
from cnnlab.models.resnet import ResNet
from cnnlab.runs.environment import describe
from cnnlab.runs.folder import RunFolder
from cnnlab.training.build import build_model
from cnnlab.training.precision import prepare_process
from cnnlab.training.trainer import Trainer

SHARES = {"training": 0.4, "speedrun": 0.25, "photographs": 0.2, "optimizer": 0.15}  # of the time, in this order
MARGIN = 3.0  # seconds in which a part writes down what it has
LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")  # calls that give a GPU work
LONG = ["logger=none", "trainer.epochs=100000"]  # no epoch is the last


@dataclass(frozen=True)
class Sizes:
    """How much is computed: on a GPU, or in a test of the code on a processor."""

    batches: tuple[int, ...] = (128, 1024)
    images: int = 50_000
    depth: int = 20
    rounds: int = 7
    seconds: float = 1.0  # of one round
    every: int = 1  # which of CIFAR's images are unpacked
    photographs: int = 4096
    sides: tuple[int, ...] = (128, 224)
    photograph_batch: int = 256
    small: tuple[str, ...] = ()  # more words of trainings, so that they are smaller
    speednet: tuple[str, ...] = ()
    speedrun: tuple[str, ...] = ()


TINY = Sizes(
    batches=(32,),
    images=512,
    depth=8,
    rounds=3,
    seconds=0.2,
    every=100,
    photographs=48,
    sides=(32, 64),
    photograph_batch=16,
    small=("model.width=4",),
    speednet=("model.widths=[8,8,8]",),
    speedrun=("data.limit=300", "trainer.epochs=1"),
)


@dataclass
class Part:
    """A part while it runs: its rows so far, written to `out` after each, and its time."""

    device: torch.device
    sizes: Sizes
    until: float  # time.monotonic()
    out: Path
    data: Path | None
    seeds: int
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, **row: Any) -> None:
        """Write a row, in the place of an earlier one of this name."""
        self.rows[name] = {"name": name, **row}
        self.out.write_text(json.dumps(list(self.rows.values())))

    def has_time(self, name: str) -> bool:
        """Whether there is some left; else a row says that `name` was skipped."""
        if time.monotonic() < self.until:
            return True
        self.add(name, skipped="out of time")
        return False

    def synchronise(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()


# ---- timing


def time_in_turn(part: Part, loops: dict[str, tuple[Callable[[], Any], int]], ceiling: str = "") -> None:
    """A row for each loop, given as one step and its images: images per second over rounds in turn.

    A loop whose warm-up fails, as where there is no compiler, gets a row that says so. Rows are there from the first
    round on. With `ceiling`, the name of a loop, each says what share of that loop's rate it reaches.
    """
    ready: dict[str, int] = {}  # steps of a round
    rates: dict[str, list[float]] = {}

    def time_once(name: str) -> None:
        step, images = loops[name]
        part.synchronise()
        began = time.perf_counter()
        for _ in range(ready[name]):
            step()
        part.synchronise()
        rates.setdefault(name, []).append(ready[name] * images / (time.perf_counter() - began))
        share = (
            {"share": statistics.median(rates[name]) / statistics.median(rates[ceiling])} if ceiling in rates else {}
        )
        part.add(name, unit="images/s", **spread(rates[name]), **share)

    for name, (step, _) in loops.items():
        if not part.has_time(name):
            continue
        try:
            ready[name] = steps_of_a_round(part, step)
            time_once(name)
        except Exception as error:  # a benchmark goes on with the next loop
            ready.pop(name, None)
            part.add(name, failed=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    rates.clear()  # the first round was not in turn
    for _ in range(part.sizes.rounds):
        for name in ready:
            if time.monotonic() < part.until:
                time_once(name)


def steps_of_a_round(part: Part, step: Callable[[], Any]) -> int:
    """Warm a loop up, and find out how many of its steps fill a round."""
    for _ in range(12 if part.device.type != "cpu" else 2):  # whole first epochs and sizes are compiled here
        step()
    part.synchronise()
    count, began = 0, time.perf_counter()
    while count < 3 or (time.perf_counter() - began < part.sizes.seconds / 4):
        step()
        count += 1
        part.synchronise()
    return max(1, round(count * part.sizes.seconds / (time.perf_counter() - began)))


def spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


# ---- what is trained


def synthetic(images: int, side: int = 32) -> ArraySet:
    """Noise in the shape of CIFAR-10: what is timed does not depend on what is seen."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    return ArraySet(pixels, np.arange(images) % 10, [f"class{i}" for i in range(10)], None)


def new_trainer(part: Part, config: Config, images: ArraySet | None = None) -> Trainer:
    prepare_process(config.trainer)
    data = build_data(config, part.device, images=images)
    return Trainer(build_model(config, data), data, config, RunFolder(Path(tempfile.mkdtemp())))


def stepper(trainer: Trainer) -> Callable[[], Any]:
    """A function that trains one step, for ever."""

    def steps() -> Iterator[Any]:
        while True:
            yield from trainer.train_epoch()
            trainer.state.epoch, trainer.state.batch = trainer.state.epoch + 1, 0

    return steps().__next__


def cifar_words(*more: str) -> Config:
    fixed = ["data=any", "data.name=own", "data.val_fraction=0.02", "data.test_fraction=0.02", *LONG]
    return compose([*fixed, *more])


class Stock:
    """The loop of a careful user: the set on the device, whole batches moved and mirrored there, bfloat16, channels
    last, one fused SGD step, and torch.compile in the given mode ("" leaves it out)."""

    def __init__(self, device: torch.device, images: ArraySet, model: nn.Module, batch: int, mode: str) -> None:
        assert images.array is not None
        self.device, self.batch = device, batch
        self.pixels = F.pad(torch.from_numpy(images.array).permute(0, 3, 1, 2), (4, 4, 4, 4)).to(device)
        self.labels = torch.from_numpy(images.labels).to(device)
        self.network = self.model = model.to(device).to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
        )
        self.order, self.place = torch.arange(len(self.labels), device=device), len(self.labels)
        self.make: Callable[..., Tensor] = moved
        if mode:
            self.network = torch.compile(model, dynamic=False, mode=None if mode == "default" else mode)  # type: ignore[assignment]
            self.make = torch.compile(moved, dynamic=False)

    def step(self) -> None:
        if self.place + self.batch > len(self.order):
            self.order, self.place = torch.randperm(len(self.order), device=self.device), 0
        rows = self.order[self.place : self.place + self.batch]
        self.place += self.batch
        images = self.make(self.pixels, rows).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = F.cross_entropy(self.network(images), self.labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def moved(pixels: Tensor, rows: Tensor) -> Tensor:
    """(N, 3, 40, 40) uint8 → (B, 3, 32, 32) float, moved by up to four pixels, mirrored half of the time."""
    count, side = len(rows), pixels.shape[2] - 8
    top, left = torch.randint(0, 9, (2, count, 1), device=rows.device)
    across = torch.arange(side, device=rows.device)
    x = torch.where(torch.rand(count, 1, device=rows.device) < 0.5, side - 1 - across, across) + left
    y = across + top
    taken = pixels[rows[:, None, None], :, y[:, :, None], x[:, None, :]]  # (B, 32, 32, 3)
    return ((taken.float() - 120) / 64).permute(0, 3, 1, 2)


# ---- the parts


def training(part: Part) -> None:
    images = synthetic(part.sizes.images)
    depth = part.sizes.depth
    for batch in part.sizes.batches:
        if not part.has_time(f"batch {batch}"):
            return
        same = ["model=resnet", f"model.depth={depth}", "optimizer=sgd", "optimizer.lr=0.05", "trainer.ema=null"]
        same += ["augment=standard", "augment.padding=0.125", f"trainer.batch_size={batch}"]
        loops: dict[str, tuple[Callable[[], Any], int]] = {}
        settings = ("false", "auto", "true"), ("eager", "auto", "compiled"), ("", "reduce-overhead", "default")
        for setting, name, mode in zip(*settings, strict=True):
            trainer = new_trainer(part, cifar_words(*same, f"trainer.compile={setting}"), images)
            loops[f"batch {batch}: cnnlab, {name} ({trainer.describe()})"] = stepper(trainer), batch
            stock = Stock(part.device, images, ResNet(depth=depth), batch, mode)
            loops[f"batch {batch}: tuned loop{', compiled, ' + mode if mode else ''}"] = stock.step, batch
        time_in_turn(part, loops)
        loops.clear()
        free(part)


def speedrun(part: Part) -> None:
    if part.data is None:
        part.add("speedrun", skipped="no --data")
        return
    with tempfile.TemporaryDirectory() as folder:
        root = part.data
        if root.is_file():
            began = time.perf_counter()
            pack_cifar.unpack(root, Path(folder) / "cifar", part.sizes.every)
            root = Path(folder) / "cifar"
            part.add("unpacking", unit="s", **spread([time.perf_counter() - began]))
        device = "cpu" if part.device.type == "cpu" else "auto"
        found: dict[str, list[float]] = {}
        for seed in range(part.seeds):
            if not part.has_time(f"seed {seed}"):
                break
            run = Path(folder) / f"run{seed}"
            words = ["data=folder", f"data.root={root}", "recipe=speedrun", "data.val_fraction=0", f"seed={seed}"]
            words += ["logger=none", f"trainer.device={device}", f"run.dir={run}"]
            words += [*part.sizes.speednet, *part.sizes.speedrun]
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "cnnlab", "train", *words], check=True, stdout=subprocess.DEVNULL)
            test = json.loads((run / "test.json").read_text())
            epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            values = {
                "training, s": sum(epoch["seconds"] for epoch in epochs),
                "first epoch, s": epochs[0]["seconds"],  # what begins once: compilation, choice of algorithms
                "whole command, s": time.perf_counter() - began,
                "test accuracy, %": 100 * test["accuracy"],
                "with views, %": 100 * (test.get("views") or test)["accuracy"],
            }
            for name, value in values.items():
                found.setdefault(name, []).append(value)
                part.add(name.split(", ")[0], unit=name.split(", ")[1], **spread(found[name]))


def photographs(part: Part) -> None:
    sizes = part.sizes
    with tempfile.TemporaryDirectory() as folder:
        root = write_photographs(Path(folder), sizes.photographs)
        for side in sizes.sides:
            if not part.has_time(f"{side} px"):
                return
            words = ["data=folder", f"data.root={root}", "model=resnet18", f"data.image_size={side}", *LONG]
            words += ["augment=standard", "augment.crop=resized", f"trainer.batch_size={sizes.photograph_batch}"]
            words += ["augment.start_size=1", "augment.end_size=1", "data.val_fraction=0.05", "data.test_fraction=0.05"]
            words += ["optimizer=sgd", "optimizer.lr=0.05", "trainer.ema=null", "trainer.compile=false", *sizes.small]
            loops: dict[str, tuple[Callable[[], Any], int]] = {}
            for name, storage in (("images on the device", "auto"), ("resident", "auto"), ("read from disk", "mmap")):
                trainer = new_trainer(part, compose([*words, f"data.storage={storage}"]))
                if name == "images on the device":
                    keep_batches(trainer)
                loops[f"{side} px, {name}"] = stepper(trainer), trainer.data.train.batch_size
            time_in_turn(part, loops, ceiling=f"{side} px, images on the device")
            loops.clear()
            free(part)


def keep_batches(trainer: Trainer, count: int = 4) -> None:
    """Let a trainer's loader give the same few batches for ever, as they lie on the device."""
    loader: Any = trainer.data.train
    kept = list(itertools.islice(loader.epoch(0), count))
    loader.epoch = lambda *_, **__: itertools.cycle(kept)


def write_photographs(root: Path, count: int) -> Path:
    """`count` JPEGs of 256×320 pixels in two classes: coarse noise, enlarged, so that they compress as photographs."""

    def write(number: int) -> None:
        coarse = np.random.default_rng(number).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        path = root / f"class{number % 2}" / f"{number}.jpg"
        Image.fromarray(coarse).resize((320, 256), Image.Resampling.BICUBIC).save(path, quality=90)

    for label in range(2):
        (root / f"class{label}").mkdir(parents=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(count)))
    return root


def optimizer(part: Part) -> None:
    images = synthetic(min(8192, part.sizes.images))
    resnet = ["model=resnet", f"model.depth={part.sizes.depth}", f"trainer.batch_size={part.sizes.batches[0]}"]
    speednet = ["recipe=speedrun", "data.name=own", "augment.start_size=1", *part.sizes.speednet]
    speednet += [f"trainer.batch_size={min(1000, 8 * part.sizes.batches[0])}"]
    settings = {"speedrun": speednet, "ResNet-20, Muon": [*resnet, "optimizer=muon", "augment=standard"]}
    settings |= {
        f"ResNet-20, {name}": [*resnet, f"optimizer={name.lower()}", "trainer.ema=null"] for name in ("SGD", "AdamW")
    }
    what = "launches" if part.device.type != "cpu" else "operations"
    for name, words in settings.items():
        if not part.has_time(name):
            continue
        trainer = new_trainer(part, cifar_words(*words, "trainer.compile=false"), images)
        step = stepper(trainer)
        for _ in range(4):
            step()
        part.add(f"{name}: a step", unit=what, **spread([launches(part, step)]))
        for p in trainer.model.parameters():
            if p.requires_grad:
                p.grad = torch.randn_like(p) * 1e-3
        trainer.optimizer_step()
        part.add(f"{name}: of the optimizer", unit=what, **spread([launches(part, trainer.optimizer_step)]))
        times = []
        for _ in range(part.sizes.rounds * 3):
            part.synchronise()
            began = time.perf_counter()
            trainer.optimizer_step()
            part.synchronise()
            times.append(1000 * (time.perf_counter() - began))
        part.add(f"{name}: the optimizer", unit="ms", **spread(times))
        free(part)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what torch computes, views apart."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def launches(part: Part, work: Callable[[], Any]) -> float:
    """Kernels, copies and graphs that `work` gives a GPU; on a processor the operations that it computes."""
    if part.device.type != "cuda":
        with Operations() as operations:
            work()
        return float(operations.count)
    from torch.profiler import ProfilerActivity, profile

    part.synchronise()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        work()
        part.synchronise()
    return float(sum(event.count for event in seen.key_averages() if event.key.startswith(LAUNCHES)))


def free(part: Part) -> None:
    """Give back what a part no longer needs."""
    gc.collect()
    torch._dynamo.reset()
    if part.device.type != "cpu":
        torch.accelerator.empty_cache()


PARTS: dict[str, Callable[[Part], None]] = {
    "training": training,
    "speedrun": speedrun,
    "photographs": photographs,
    "optimizer": optimizer,
}


# ---- all of them


def run_part(name: str, words: list[str], limit: float, file: Path) -> dict[str, Any]:
    """Run one part in a process of its own and take what it has written, also where it had to be ended."""
    began = time.monotonic()
    command = [sys.executable, __file__, *words, "--part", name, "--minutes", str((limit - MARGIN) / 60)]
    process = subprocess.Popen(
        [*command, "--out", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    ended = ""
    try:
        _, said = process.communicate(timeout=limit)
        if process.returncode:
            ended = f"it ended with {process.returncode}: {said.decode(errors='replace')[-1500:]}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # what it has started too: compilers, a training
        process.communicate()
        ended = "out of time, what was not measured by then is missing"
    rows = json.loads(file.read_text()) if file.exists() else []
    return {"seconds": round(time.monotonic() - began, 1), "rows": rows, **({"ended": ended} if ended else {})}


def table(found: dict[str, Any]) -> str:
    lines = ["| what | median (range), n | |", "|---|---|---|"]
    for row in found["rows"]:
        if "median" not in row:
            lines.append(f"| {row['name']} | {row.get('skipped') or row.get('failed')} | |")
            continue
        values = (row[key] for key in ("median", "low", "high"))
        median, low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)
        more = f"{100 * row['share']:.0f} % of the ceiling" if "share" in row else ""
        lines.append(f"| {row['name']} | {median} {row['unit']} ({low}–{high}), n = {row['n']} | {more} |")
    return "\n".join([*lines, *([f"\n{found['ended']}"] if "ended" in found else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=6, help="for all parts together (default: 6)")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma-separated (default: all)")
    parser.add_argument("--data", type=Path, help="CIFAR-10's JPEGs: what pack_cifar.py made, or a folder")
    parser.add_argument("--seeds", type=int, default=3, help="of the speedrun (default: 3)")
    parser.add_argument("--out", type=Path, help="JSON file for everything that is measured")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA GPU here; use --device cpu to test the code.")
    if given.part:
        sizes = TINY if device.type == "cpu" else Sizes()
        part = Part(device, sizes, time.monotonic() + 60 * given.minutes, given.out, given.data, given.seeds)
        PARTS[given.part](part)
        return
    names = given.only.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        sys.exit(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}")
    machine = describe()
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else machine["machine"]["processor"],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        **{key: machine[key] for key in ("started", "python", "versions", "machine", "git")},
        "parts": {},
    }
    print(f"{result['device']}\n{machine['machine']}\n{machine['versions']}, CUDA {result['cuda']}\n", flush=True)
    words = [
        "--device",
        given.device,
        "--seeds",
        str(given.seeds),
        *(["--data", str(given.data)] if given.data else []),
    ]
    until = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as folder:
        for place, name in enumerate(names):
            shares = [SHARES[later] for later in names[place:]]
            limit = (until - time.monotonic()) * shares[0] / sum(shares)
            found = run_part(name, words, limit, Path(folder) / f"{name}.json")
            result["parts"][name] = found
            print(f"## {name}, {found['seconds']:.0f} s\n\n{table(found)}\n", flush=True)
            if given.out:
                given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{time.monotonic() - until + 60 * given.minutes:.0f} s in all")


if __name__ == "__main__":
    main()
