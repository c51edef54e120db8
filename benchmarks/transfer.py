"""Few labelled digits: from scratch against weights from MNIST, frozen and unfrozen; accuracy on all other digits.

    CNNLAB_DATA=ROOT uv run python benchmarks/transfer.py [FOLDER]

One network is trained on MNIST by its recipe. scikit-learn's digits, enlarged to 28 pixels, are then learned from 1 and
from 10 labelled images per class, with five seeds that also choose the images; the others, about 1,700, are the test.
All arms have the same 200 steps, augmentation and optimizer.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from cnnlab.config import compose
from cnnlab.experiment import run_experiment
from cnnlab.runs.environment import describe

SEEDS = range(5)
STEPS = 200
NET = ["model=vgg", "model.width=16", "logger=none"]


def main() -> None:
    root = os.environ.get("CNNLAB_DATA") or sys.exit("set CNNLAB_DATA to the data root")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    machine = describe()
    print(f"{machine['machine']}\n{machine['versions']}\n")
    source = folder / "mnist"
    run = run_experiment(compose(["data=mnist", f"data.root={root}", *NET, f"run.dir={source}"]))
    assert run.test
    print(f"source: MNIST, test accuracy {100 * run.test['accuracy']:.2f} %\n")
    arms = {
        "from scratch": [],
        "from MNIST, backbone frozen": [f"init.from={source}", "init.freeze=backbone"],
        "from MNIST, all of it learns": [f"init.from={source}"],
    }
    print(f"| labelled digits | {' | '.join(arms)} |\n|---|{'---|' * len(arms)}")
    for each in (1, 10):
        cells = []
        for arm, words in arms.items():
            values = []
            for seed in SEEDS:
                data = [f"data.per_class_train={each}", "data.val_fraction=0", "data.image_size=28"]
                batch = min(10 * each, 50)
                loop = [f"trainer.batch_size={batch}", f"trainer.epochs={STEPS * batch // (10 * each)}"]
                where = f"run.dir={folder / f'{each}-{arm.replace(chr(32), chr(45))}-{seed}'}"
                setting = ["data=digits", *data, *NET, *loop, "optimizer.lr=0.05", f"seed={seed}", where]
                result = run_experiment(compose([*setting, *words])).test
                assert result
                values.append(100 * result["accuracy"])
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        print(f"| {10 * each} | {' | '.join(cells)} |", flush=True)
    print(f"\nmean ± standard deviation of the test accuracy in percent, n = {len(SEEDS)} seeds")


if __name__ == "__main__":
    main()
