"""Break things while cnnlab works, at moments drawn at random, and go on: what was said to be saved must be there.

    uv run --group dev python benchmarks/faults.py [ROW=COUNT ...]     default: every row, COUNTS of them

Rows: training, together (two processes), store, study, export, asked (to stop), power, clock, hung, memory, tracker,
deaf, nan, reader. A run that was broken and resumed must have the same best weights, byte for byte, and the same
metrics.jsonl but for times, as an unbroken one.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"training": 80, "together": 20, "store": 40, "study": 20, "export": 40}  # 200 kills
COUNTS |= {
    "asked": 20,
    "power": 60,
    "clock": 3,
    "hung": 3,
    "memory": 3,
    "tracker": 3,
    "deaf": 3,
    "nan": 20,
    "reader": 6,
}
TIMES = ("seconds", "images_per_second")
SETTINGS = [
    "model=resnet",
    "model.depth=8",
    "model.width=4",
    "trainer.batch_size=32",
    "trainer.threads=1",
    "logger=none",
]
SETTINGS += ["trainer.checkpoint_minutes=0.005", "augment=strong", "trainer.epochs=6"]


class Bench:
    """A folder for all of it: images, a cache, unbroken runs to compare with."""

    images = 150  # of each class

    def __init__(self, work: Path) -> None:
        self.work, self.chance = work, random.Random(0)
        self.environment = os.environ | {"CNNLAB_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1"}
        numbers = np.random.Generator(np.random.PCG64(0))
        for label in ("left", "right"):
            (work / "images" / label).mkdir(parents=True)
            for i in range(self.images):
                pixels = numbers.integers(0, 120, (150, 200, 3), dtype=np.uint8)
                pixels[:, slice(0, 100) if label == "left" else slice(100, 200)] += 100
                Image.fromarray(pixels).save(work / "images" / label / f"{i:04}.jpg")
        self.data = ["data=folder", f"data.root={work / 'images'}", "data.image_size=32"]
        self.unbroken: dict[str, tuple[Path, float]] = {}

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cnnlab", *words],
            cwd=self.work,
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, **more: str) -> tuple[int, str]:
        """Exit code and what was said on standard error."""
        process = self.start(*words, **more)
        _, said = process.communicate(timeout=300)
        return process.returncode, said

    def reference(self, name: str, *words: str) -> tuple[Path, float]:
        """An unbroken run and its seconds; made once, after one that fills the caches."""
        if name not in self.unbroken:
            for place in (self.work / f"{name} first", self.work / name):
                began = time.monotonic()
                code, said = self.run("train", *words, f"run.dir={place}")
                if code:
                    raise RuntimeError(said)
                self.unbroken[name] = (place, time.monotonic() - began)
            if not same(self.work / f"{name} first", self.work / name):
                raise RuntimeError("two unbroken runs differ")
        return self.unbroken[name]

    def kill(self, moment: float | tuple[Path, str], *words: str) -> bool:
        """SIGKILL to a command and all that it started, after seconds or as soon as a file is there. Whether it came
        before the command's own end."""
        process = self.start(*words)
        began = time.monotonic()
        while process.poll() is None:
            passed = time.monotonic() - began
            if passed > 60 or (passed >= moment if isinstance(moment, float) else any(moment[0].glob(moment[1]))):
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.001)
        process.communicate()
        return process.returncode == -signal.SIGKILL


def same(run: Path, reference: Path) -> bool:
    def rows(folder: Path) -> list[dict[str, float]]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]

    weights = [(folder / "best" / "model.safetensors").read_bytes() for folder in (run, reference)]
    return weights[0] == weights[1] and rows(run) == rows(reference)


def complain(row: str, number: int, words: str) -> bool:
    print(f"{row} {number}: {words[-2000:]}", file=sys.stderr, flush=True)
    return False


# ---- the rows: each gives how many held


def killed_and_resumed(bench: Bench, count: int, row: str, *words: str) -> int:
    reference, whole = bench.reference(row, *words)
    held = 0
    for number in range(count):
        run = bench.work / f"{row}-{number}"
        at: float | tuple[Path, str] = bench.chance.uniform(0.05, 0.95) * whole
        if number % 8 == 0:  # while a checkpoint is written
            at = (run / "last", ".state.pt.*.tmp")
        elif number % 8 == 1:  # while the best weights are
            at = (run / "best", ".model.safetensors.*.tmp")
        kills = 0
        while (not (run / "report.html").exists()) and kills < 1 + number % 3:
            begun = (run / "config.yaml").exists()
            bench.kill(at, *(["resume", str(run)] if begun else ["train", *words, f"run.dir={run}"]))
            kills, at = kills + 1, bench.chance.uniform(0.05, 0.95) * whole
        begun = (run / "config.yaml").exists()
        code, said = bench.run(*(["resume", str(run)] if begun else ["train", *words, f"run.dir={run}"]))
        good = code == 0 and same(run, reference) and not list(run.rglob("*.tmp"))
        held += good or complain(row, number, said)
        shutil.rmtree(run)
    return held


def training(bench: Bench, count: int) -> int:
    return killed_and_resumed(bench, count, "training", *bench.data, *SETTINGS)


def together(bench: Bench, count: int) -> int:
    return killed_and_resumed(bench, count, "together", *bench.data, *SETTINGS, "trainer.devices=2")


def asked(bench: Bench, count: int) -> int:
    """SIGTERM, as from a machine that is taken away: it ends within ten seconds, and loses no step."""
    words = [*bench.data, *SETTINGS, "trainer.checkpoint_minutes=60", "trainer.epochs=40"]
    reference, whole = bench.reference("asked", *words)
    held = 0
    for number in range(count):
        run = bench.work / f"asked-{number}"
        process = bench.start("train", *words, f"run.dir={run}")
        time.sleep(bench.chance.uniform(0.05, 0.95) * whole)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, said = process.communicate(timeout=300)
        took = time.monotonic() - began
        if not (run / "report.html").exists():
            begun = (run / "config.yaml").exists()
            _, more = bench.run(*(["resume", str(run)] if begun else ["train", *words, f"run.dir={run}"]))
            said += more
        good = took < 10 and "Traceback" not in said and same(run, reference)
        held += good or complain("asked", number, f"{took:.1f} s {said}")
        shutil.rmtree(run)
    return held


def store(bench: Bench, count: int) -> int:
    """The next command builds a whole store, with the same pixels, and leaves no remains."""
    words = ["train", *bench.data, *SETTINGS, "trainer.epochs=1"]
    reference, _ = bench.reference("store", *words[1:])
    pixels = sorted(file.read_bytes() for file in (bench.work / "cache" / "store").glob("*/pixels.u8"))
    began = time.monotonic()
    bench.run("data", *bench.data, CNNLAB_CACHE=str(bench.work / "cold"))
    whole = time.monotonic() - began
    shutil.rmtree(bench.work / "cold", ignore_errors=True)
    held = 0
    for number in range(count):
        shutil.rmtree(bench.work / "cache")
        run = bench.work / f"store-{number}"
        at: float | tuple[Path, str] = bench.chance.uniform(0.5, 1.2) * whole
        if number % 2 == 0:
            at = (bench.work / "cache" / "store", "*.building/pixels.u8")
        bench.kill(at, *words, f"run.dir={run}")
        shutil.rmtree(run, ignore_errors=True)
        code, said = bench.run(*words, f"run.dir={run}")
        now = sorted(file.read_bytes() for file in (bench.work / "cache" / "store").glob("*/pixels.u8"))
        left = list((bench.work / "cache" / "store").glob("*.building*"))
        good = code == 0 and now == pixels and not left and same(run, reference)
        held += good or complain("store", number, f"{said} {left}")
        shutil.rmtree(run, ignore_errors=True)
    return held


def study(bench: Bench, count: int) -> int:
    """Killed and started again until it is done, it has the table of one that was not."""
    words = [
        "study",
        "data=digits",
        "data.limit=100",
        "model.depth=8,14",
        "--seeds",
        "2",
        *SETTINGS,
        "trainer.epochs=2",
    ]

    def table(place: Path) -> list[str]:
        lines = (place / "results.csv").read_text().splitlines()
        names = lines[0].split(",")
        kept = [
            i for i, name in enumerate(names) if "second" not in name and "dir" not in name and "folder" not in name
        ]
        return [",".join(line.split(",")[i] for i in kept) for line in lines]

    began = time.monotonic()
    code, said = bench.run(*words, f"study.dir={bench.work / 'whole study'}", "study.jobs=2")
    whole = time.monotonic() - began
    if code:
        raise RuntimeError(said)
    held = kills = number = 0
    while kills < count:
        place = bench.work / f"study-{number}"
        for _ in range(3):
            kills += bench.kill(bench.chance.uniform(0.1, 0.7) * whole, *words, f"study.dir={place}", "study.jobs=2")
        code, said = bench.run(*words, f"study.dir={place}", "study.jobs=2")
        good = code == 0 and table(place) == table(bench.work / "whole study")
        held += good or complain("study", number, said)
        shutil.rmtree(place, ignore_errors=True)
        number += 1
    return count if held == number else held


def export(bench: Bench, count: int) -> int:
    """The file is not there, or whole; the next export is accepted."""
    run, _ = bench.reference("training", *bench.data, *SETTINGS)
    out = bench.work / "exported"
    began = time.monotonic()
    code, said = bench.run("export", str(run), "--out", str(out))
    whole = time.monotonic() - began
    if code:
        raise RuntimeError(said)
    image = str(next((bench.work / "images" / "left").iterdir()))
    held = 0
    for number in range(count):
        shutil.rmtree(out, ignore_errors=True)
        at = bench.chance.uniform(0.4, 1.0) * whole
        bench.kill((out, ".*.tmp") if number % 2 else at, "export", str(run), "--out", str(out))
        good = True
        if (out / "model.onnx").exists():
            code, said = bench.run("predict", str(out), image)
            good = code == 0
        if number % 4 == 0:
            code, said = bench.run("export", str(run), "--out", str(out))
            good = good and code == 0 and not list(out.glob("*.tmp"))
        held += good or complain("export", number, said)
    return held


def power(bench: Bench, count: int) -> int:
    """A file of a stopped run whose tail was never written: the run ends as an unbroken one, or one line names it."""
    words = [*bench.data, *SETTINGS]
    reference, _ = bench.reference("training", *words)
    stopped = bench.work / "stopped"
    # By a file, not by the clock: a time that was measured while others kept the machine busy would come after the end.
    if not bench.kill((stopped, "metrics.jsonl"), "train", *words, f"run.dir={stopped}"):
        return 0
    files = sorted(path.relative_to(stopped) for path in stopped.rglob("*") if path.is_file() and path.stat().st_size)
    held = 0
    for number in range(count):
        run = bench.work / f"power-{number}"
        shutil.copytree(stopped, run)
        file = run / files[number % len(files)]
        content = file.read_bytes()
        cut = bench.chance.randrange(len(content))
        file.write_bytes(content[:cut] + (b"\0" * (len(content) - cut) if number % 2 else b""))
        code, said = bench.run("resume", str(run))
        lines = said.strip().splitlines()
        good = same(run, reference) if code == 0 else code == 2 and len(lines) == 1 and file.name in lines[0]
        held += good or complain("power", number, f"{file.name}: {code} {said}")
        shutil.rmtree(run)
    return held


def clock(bench: Bench, count: int) -> int:
    """The clock jumps back by a day, an hour, ten years while it trains: the run is the same."""
    words = [*bench.data, *SETTINGS]
    reference, _ = bench.reference("training", *words)
    held = 0
    for number in range(count):
        run, patch = bench.work / f"clock-{number}", bench.work / f"patch-{number}"
        patch.mkdir()
        jump = (86_400, 3_600, 315_360_000)[number % 3]
        (patch / "sitecustomize.py").write_text(
            "import time\nreal = time.time\nbegan = real()\n"
            f"time.time = lambda: real() - {jump} * (real() - began > 3)\n"
        )
        path = os.pathsep.join(filter(None, [str(patch), os.environ.get("PYTHONPATH", "")]))
        code, said = bench.run("train", *words, f"run.dir={run}", PYTHONPATH=path)
        held += (code == 0 and same(run, reference)) or complain("clock", number, said)
    return held


def children(process: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def hung(bench: Bench, count: int) -> int:
    """One of two processes stands still for five seconds: the others wait, and the run is the same."""
    words = [*bench.data, *SETTINGS, "trainer.devices=2"]
    reference, _ = bench.reference("together", *words)
    held = 0
    for number in range(count):
        run = bench.work / f"hung-{number}"
        process = bench.start("train", *words, f"run.dir={run}")
        while not (run / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        workers = children(process.pid)
        worker = workers[number % len(workers)] if workers else process.pid
        os.kill(worker, signal.SIGSTOP)
        time.sleep(5)
        os.kill(worker, signal.SIGCONT)
        _, said = process.communicate(timeout=300)
        held += (process.returncode == 0 and same(run, reference)) or complain("hung", number, said)
    return held


def memory(bench: Bench, count: int) -> int:
    """A batch that does not fit into the address space: one line, and if it names a batch that fits, that one does.

    What PyTorch has left behind may lie so that nothing can be tried out any more; then none is named."""
    limited = (
        "import resource, sys\nfrom cnnlab.cli import main\nimport torch, cnnlab.experiment, cnnlab.report.page\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]) * 2**20,) * 2)\nsys.exit(main(sys.argv[2:]))\n"
    )
    held = 0
    for number in range(count):
        room = (1800, 1600, 1400)[number % 3]  # MB; with much less PyTorch itself ends with a segmentation fault
        run = bench.work / f"memory-{number}"
        words = [
            "train",
            "data=digits",
            "model=resnet",
            "model.depth=20",
            "model.width=32",
            "data.image_size=32",
            "trainer.batch_size=1000",
        ]
        words += ["trainer.threads=1", "trainer.epochs=1", "data.limit=1000", "logger=none"]

        def limited_run(*more: str, room: int = room, words: list[str] = words) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", limited, str(room), *words, *more]
            return subprocess.run(command, env=bench.environment, capture_output=True, text=True, check=False)

        first = limited_run(f"run.dir={run}")
        found = re.search(r"(trainer\.batch_size=\d+) (trainer\.accumulate=\d+)", first.stderr)
        lines = first.stderr.strip().splitlines()
        good = first.returncode == 2 and len(lines) == 1 and "not enough memory to train" in lines[0]
        second = limited_run(f"run.dir={run}-2", *found.groups()) if found else None
        good = good and (second is None or second.returncode == 0)
        held += good or complain("memory", number, first.stderr + (second.stderr if second else ""))
    return held


def tracker(bench: Bench, count: int) -> int:
    """The folder of TensorBoard's files becomes a file, goes, or is full: training goes on, and says so once."""
    words = [word for word in [*bench.data, *SETTINGS] if word != "logger=none"] + ["trainer.epochs=12"]
    held = 0
    for number in range(count):
        run = bench.work / f"tracker-{number}"
        process = bench.start("train", *words, f"run.dir={run}")
        while not (run / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        (run / "tensorboard").rename(bench.work / f"gone-{number}")  # at once: it is written to meanwhile
        shutil.rmtree(bench.work / f"gone-{number}", ignore_errors=True)
        if number % 3 == 0:
            (run / "tensorboard").write_text("")
        _, said = process.communicate(timeout=300)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        good = process.returncode == 0 and len(lines) == 12 and len(said.strip().splitlines()) <= 1
        held += good or complain("tracker", number, said)
    return held


def deaf(bench: Bench, count: int) -> int:
    """TensorBoard's writer never comes back: after a while it is left behind, and the run is the same."""
    words = [word for word in [*bench.data, *SETTINGS] if word != "logger=none"]
    reference, _ = bench.reference("training", *bench.data, *SETTINGS)
    stuck = (
        "import sys, time\nfrom cnnlab.cli import main\n"
        "from cnnlab.tracking.tensorboard import TensorBoardTracker as T\n"
        "T.patience, T.log = 3.0, lambda *_: time.sleep(10**6)\nsys.exit(main(sys.argv[1:]))\n"
    )
    held = 0
    for number in range(count):
        run = bench.work / f"deaf-{number}"
        command = [sys.executable, "-c", stuck, "train", *words, f"run.dir={run}"]
        done = subprocess.run(
            command, cwd=bench.work, env=bench.environment, capture_output=True, text=True, check=False
        )
        good = done.returncode == 0 and same(run, reference) and "no answer in 3 s" in done.stderr
        held += good or complain("deaf", number, f"{done.returncode} {done.stderr}")
    return held


def nan(bench: Bench, count: int) -> int:
    """A layer gives NaN once, at a random moment: nothing of it is saved, and a resume ends as if it had not been."""
    words = [*bench.data, *SETTINGS]
    reference, _ = bench.reference("training", *words)
    held = 0
    for number in range(count):
        run = bench.work / f"nan-{number}"
        passing = (
            "import sys\nfrom torch import nn\nfrom cnnlab.cli import main\n"
            f"whole, left = nn.BatchNorm2d.forward, [{bench.chance.randint(1, 5 * bench.images // 3)}]\n"
            "def forward(self, x):\n"
            "    left[0] -= self.training\n"
            "    return whole(self, x) * (float('nan') if self.training and left[0] == 0 else 1)\n"
            "nn.BatchNorm2d.forward = forward\nsys.exit(main(sys.argv[1:]))\n"
        )
        command = [sys.executable, "-c", passing, "train", *words, f"run.dir={run}"]
        done = subprocess.run(command, cwd=bench.work, env=bench.environment, capture_output=True, text=True)
        code, said = bench.run("resume", str(run))
        good = done.returncode == 2 and "is not finite at step" in done.stderr and code == 0 and same(run, reference)
        held += good or complain("nan", number, f"{done.returncode} {done.stderr} {said}")
        shutil.rmtree(run, ignore_errors=True)
    return held


def reader(bench: Bench, count: int) -> int:
    """Who reads the command's lines goes after a few of them, as `head` does: training goes on to its end."""
    words = [*bench.data, *SETTINGS]
    reference, _ = bench.reference("training", *words)
    held = 0
    for number in range(count):
        run = bench.work / f"reader-{number}"
        process = bench.start("train", *words, f"run.dir={run}")
        assert process.stdout is not None and process.stderr is not None
        for _ in range(number):
            process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        good = process.wait(timeout=300) == 0 and not said and same(run, reference)
        held += good or complain("reader", number, f"{process.returncode} {said}")
        shutil.rmtree(run)
    return held


ROWS: dict[str, tuple[str, str, Callable[[Bench, int], int]]] = {
    "training": ("SIGKILL while it trains, up to three times", "resumed, it ends bit for bit as unbroken", training),
    "together": ("SIGKILL of two processes that train together", "the same", together),
    "asked": ("SIGTERM while it trains", "ends within 10 s; resumed, bit for bit as unbroken", asked),
    "store": ("SIGKILL while images are decoded", "the next command has a whole store of the same pixels", store),
    "study": ("SIGKILL of a study of four runs", "started again, it ends with the same table", study),
    "export": ("SIGKILL of an export", "no file or a whole one; the next export works", export),
    "power": ("a file of a stopped run loses its tail", "ends bit for bit as unbroken, or one line names it", power),
    "clock": ("the clock jumps back", "the run is the same", clock),
    "hung": ("one of two processes stands still for 5 s", "the run is the same", hung),
    "memory": ("a batch does not fit into memory", "one line; a batch that it names does fit", memory),
    "tracker": ("TensorBoard's folder vanishes", "training goes on", tracker),
    "deaf": ("TensorBoard's writer never answers", "dropped after a timeout; the run is the same", deaf),
    "nan": ("a layer gives NaN once", "one line; resumed, it ends bit for bit as unbroken", nan),
    "reader": ("the reader of the output goes", "training goes on; the run is the same", reader),
}


def main() -> int:
    counts = {name: int(count) for name, _, count in (word.partition("=") for word in sys.argv[1:])} or COUNTS
    failed = False
    print("| fault | trials | expected | passed | seconds |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="cnnlab-faults-") as folder:
        bench = Bench(Path(folder))
        for name, count in counts.items():
            fault, promise, attack = ROWS[name]
            began = time.monotonic()
            held = attack(bench, count)
            failed = failed or held != count
            print(f"| {fault} | {count} | {promise} | {held} | {time.monotonic() - began:.0f} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
