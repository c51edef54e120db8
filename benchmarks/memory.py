"""Images that do not fit in memory: images per second and peak memory beside the same run with all images resident.

    CNNLAB_DATA=ROOT uv run python benchmarks/memory.py

Photographs at 192 pixels make stores of 3.4 GB. Each row is a whole `cnnlab train` of two epochs; the second counts.
The rows with a limit run in a memory control group (Linux, root), which bounds the page cache too: what does not fit
has to be read again from the disk in every epoch.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cnnlab.runs.environment import describe

ROUNDS = 2
LIMIT = 1_500_000_000
GROUP = Path("/sys/fs/cgroup/memory/cnnlab-memory")  # version 1 of control groups
SETTINGS = ["model=convnet", "model.width=16", "data.image_size=192", "trainer.batch_size=64", "trainer.epochs=2"]
SETTINGS += ["augment=standard", "data.val_fraction=0", "data.test_fraction=0.02", "logger=none", "optimizer=sgd"]


def train(root: Path, work: Path, storage: str, limited: bool) -> tuple[float, float]:
    """(images a second of the second epoch, most bytes charged to the group or resident)."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "cnnlab", "train", "data=folder", f"data.root={root}", f"run.dir={folder}/run"]
        words += [*SETTINGS, f"data.storage={storage}"]
        if limited:
            Path("/proc/sys/vm/drop_caches").write_text("3")  # else the pages are charged to whoever read them first
            (GROUP / "memory.max_usage_in_bytes").write_text("0")
            words = ["sh", "-c", f'echo $$ > {GROUP}/cgroup.procs; exec "$@"', "sh", *words]
        environment = os.environ | {"CNNLAB_CACHE": str(work)}
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, status
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
        peak = usage.ru_maxrss * 1024.0
        if limited:
            peak = float((GROUP / "memory.max_usage_in_bytes").read_text())
        return rows[-1]["images_per_second"], peak


def main() -> None:
    data = Path(os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root"))
    root = data / "caltech101" / "101_ObjectCategories"
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n", flush=True)
    GROUP.mkdir(exist_ok=True)
    (GROUP / "memory.limit_in_bytes").write_text(str(LIMIT))
    arms = {
        "all resident": ("memory", False),
        "memory-mapped": ("mmap", False),
        f"memory-mapped, {LIMIT / 1e9:.1f} GB for all": ("mmap", True),
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    peaks: dict[str, float] = dict.fromkeys(arms, 0.0)
    try:
        with tempfile.TemporaryDirectory(prefix="cnnlab-memory-", dir=os.environ.get("TMPDIR")) as work:
            for _ in range(ROUNDS):
                for name, (storage, limited) in arms.items():
                    rate, peak = train(root, Path(work), storage, limited)
                    rates[name].append(rate)
                    peaks[name] = max(peaks[name], peak)
            held = sum(512 * file.stat().st_blocks for file in Path(work).rglob("pixels.u8"))
    finally:
        GROUP.rmdir()
    print(f"images on disk: {held / 1e9:.2f} GB, n = {ROUNDS}\n")
    print("| images | images/s, median (range) | of the resident rate | peak memory |\n|---|---|---|---|")
    for name, values in rates.items():
        share = statistics.median(a / b for a, b in zip(values, rates["all resident"], strict=True))
        print(
            f"| {name} | {statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f}) | {100 * share:.0f} %"
            f" | {peaks[name] / 1e6:,.0f} MB |"
        )


if __name__ == "__main__":
    main()
