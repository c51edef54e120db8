"""The plain command on a grid of sets, beside fastai's Learner from scratch in the same time.

    CNNLAB_DATA=ROOT uv run --group dev python benchmarks/defaults.py [--seeds N] [--rival] [NAME|FOLDER ...]

`cnnlab train data=folder data.root=SET`, with no other option, on sets from 30 to 3,000 images of 2 to 101 classes, or
on those of these names, or on any folder with a folder per class. A third of the images is the test split of both. The
rival (--rival) has the same images, an XResNet of about the size of the network that cnnlab chose, fastai's usual
transforms and one cycle, and as many epochs as fit into the seconds that cnnlab took.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TEST_SHARE = 1 / 3


@dataclass(frozen=True)
class Grid:
    """Sets that are drawn from one source: so many classes, so many images of each."""

    source: str
    classes: int
    images: int

    @property
    def name(self) -> str:
        return f"{self.source}-{self.classes}x{self.images}"


SETS = [  # 24
    *(Grid("caltech", classes, images) for classes, images in [(2, 15), (2, 40), (3, 30), (6, 40), (10, 30), (20, 30)]),
    *(Grid("caltech", classes, images) for classes, images in [(5, 80), (40, 30), (101, 30)]),
    *(
        Grid("cifar", classes, images)
        for classes, images in [(2, 15), (2, 50), (5, 30), (10, 30), (10, 100), (10, 300)]
    ),
    *(Grid("mnist", classes, images) for classes, images in [(2, 15), (3, 40), (10, 10), (10, 30), (10, 100)]),
    *(Grid("digits", classes, images) for classes, images in [(2, 15), (5, 30), (10, 30), (10, 100)]),
]


def class_folders(source: str, place: Path) -> dict[str, list[Path]]:
    """Class → image files of a source. Sets that are arrays are written out as PNG once."""
    if "CNNLAB_DATA" not in os.environ:
        sys.exit(
            "the grid is drawn from Caltech-101, CIFAR-10 and MNIST; set CNNLAB_DATA to their root, or name folders"
        )
    root = Path(os.environ["CNNLAB_DATA"])
    if source in ("caltech", "cifar"):
        below = root / ("caltech101/101_ObjectCategories" if source == "caltech" else "cifar10-jpeg/train")
        folders = [folder for folder in sorted(below.iterdir()) if folder.name != "BACKGROUND_Google"]
    else:
        from PIL import Image

        import cnnlab

        below = place / source
        if not below.exists():
            data = cnnlab.load_data(source, root=str(root))
            for number in range(min(len(data.images), 20_000)):
                image, label = data.images[number]
                folder = below / f"digit {label}"  # named by words: the set must be recognized by its images
                folder.mkdir(parents=True, exist_ok=True)
                assert isinstance(image, Image.Image)
                image.save(folder / f"{number}.png")
        folders = sorted(below.iterdir())
    return {folder.name: sorted(folder.iterdir()) for folder in folders}


def lay_out(files: dict[str, list[Path]], place: Path, classes: int | None, images: int | None, seed: int) -> Path:
    """place/train/CLASS and place/test/CLASS of links; classes and images are drawn by the seed."""
    draw = np.random.Generator(np.random.PCG64(seed))
    enough = [name for name, found in files.items() if images is None or len(found) >= images]
    names = enough if classes is None else [enough[i] for i in draw.choice(len(enough), classes, replace=False)]
    for name in names:
        found = files[name]
        chosen = draw.permutation(len(found))[: images or len(found)]
        tested = max(1, round(TEST_SHARE * len(chosen)))
        for position, number in enumerate(chosen):
            folder = place / ("test" if position < tested else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / found[number].name).symlink_to(found[number].resolve())
    return place


def run_cnnlab(root: Path, seed: int) -> dict[str, float]:
    """Test accuracy in percent, seconds of the whole command, parameters and side of the images."""
    with tempfile.TemporaryDirectory() as place:
        words = ["data=folder", f"data.root={root}", f"seed={seed}", f"run.dir={place}/run"]
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "cnnlab", "train", *words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        test = json.loads(Path(place, "run", "test.json").read_text())
        card = json.loads(Path(place, "run", "best", "model.json").read_text())
        size = sum(path.stat().st_size for path in Path(place, "run", "best").glob("*.safetensors"))
        return {
            "accuracy": 100 * test["accuracy"],
            "seconds": time.perf_counter() - began,
            "parameters": size / 4,
            "side": card["preprocess"]["layout"]["height"],
            "majority": 100 * max(row["n"] for row in test["per_class"]) / test["n"],
        }


def run_fastai(root: Path, seed: int, found: dict[str, float]) -> float:
    """The rival's test accuracy in percent, from a process of its own, which has no cnnlab."""
    from photographs import fastai_python

    command = [*fastai_python(), __file__, "--as-fastai", str(root), str(seed)]
    command += [str(int(found["side"])), str(found["parameters"]), str(found["seconds"])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.strip().splitlines()[-1])


def as_fastai(root: str, seed: str, side: str, parameters: str, seconds: str) -> None:
    """In fastai's environment: train for `seconds`, print the test accuracy in percent."""
    from fastai.vision.all import (
        CrossEntropyLossFlat,
        ImageDataLoaders,
        Learner,
        ResBlock,
        Resize,
        XResNet,
        aug_transforms,
        get_image_files,
        set_seed,
        tensor,
    )

    began = time.perf_counter()
    set_seed(int(seed))
    files = list(get_image_files(Path(root) / "train"))
    size = min(64, max(2, len(files) // 5))
    loaders = ImageDataLoaders.from_folder(
        Path(root) / "train", valid_pct=0.2, seed=int(seed), item_tfms=Resize(max(32, int(side))), bs=size,
        batch_tfms=aug_transforms(), num_workers=0,
    )  # fmt: skip

    def new_learner() -> Any:
        model = XResNet(ResBlock, 1, [2, 2, 2, 2], n_out=loaders.c, widen=widen)
        return Learner(loaders, model, loss_func=CrossEntropyLossFlat())

    widen = 1.0
    while widen > 0.13 and _count(new_learner().model) > 1.5 * float(parameters):
        widen /= 2
    learner, probe = new_learner(), new_learner()
    with learner.no_bar(), learner.no_logging(), probe.no_bar(), probe.no_logging():
        started = time.perf_counter()
        probe.fit_one_cycle(1)
        epoch = time.perf_counter() - started
        learner.fit_one_cycle(max(1, round((float(seconds) - (started - began)) / epoch)))
        tests = list(get_image_files(Path(root) / "test"))
        answers, _ = learner.get_preds(dl=loaders.test_dl(tests))
    truth = tensor([loaders.vocab.o2i[path.parent.name] for path in tests])
    print(100 * (answers.argmax(1) == truth).float().mean().item())


def _count(model: object) -> int:
    return sum(parameter.numel() for parameter in model.parameters())  # type: ignore[attr-defined]


def chosen_sets(names: list[str], place: Path) -> Iterator[tuple[str, Callable[[Path, int], Path]]]:
    """(name, function that lays out a set for a seed)."""
    for name in names or [one.name for one in SETS]:
        grid = next((one for one in SETS if one.name == name), None)
        if grid is not None:
            files = class_folders(grid.source, place)
            yield name, lambda at, seed, f=files, g=grid: lay_out(f, at, g.classes, g.images, seed)  # type: ignore[misc]
        else:
            folders = [folder for folder in sorted(Path(name).iterdir()) if folder.is_dir()]
            files = {folder.name: sorted(folder.iterdir()) for folder in folders}
            yield Path(name).name, lambda at, seed, f=files: lay_out(f, at, None, None, seed)  # type: ignore[misc]


def main() -> int:
    if sys.argv[1:2] == ["--as-fastai"]:
        as_fastai(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="draws of each set (default: 3)")
    parser.add_argument("--rival", action="store_true", help="fastai beside it")
    parser.add_argument("sets", nargs="*", metavar="NAME|FOLDER", help=", ".join(one.name for one in SETS))
    options = parser.parse_args()
    print("| set | most common class | cnnlab | seconds | fastai |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for name, lay in chosen_sets(options.sets, Path(place)):
            ours, theirs = [], []
            for seed in range(options.seeds):
                root = lay(Path(place, "sets", name, str(seed)), seed)
                ours.append(run_cnnlab(root, seed))
                if options.rival:
                    theirs.append(run_fastai(root, seed, ours[-1]))
            cells = [spread([one["accuracy"] for one in ours])]
            cells += [f"{statistics.mean(one['seconds'] for one in ours):.0f}", spread(theirs) if theirs else "–"]
            majority = statistics.mean(one["majority"] for one in ours)
            print(f"| {name} | {majority:.1f} | {' | '.join(cells)} |", flush=True)
    return 0


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


if __name__ == "__main__":
    sys.exit(main())
