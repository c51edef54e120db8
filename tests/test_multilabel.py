"""A run whose images may have several classes or none: train, test, predict, export, the demo, and own Datasets."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

import cnnlab
from cnnlab.cli import main
from cnnlab.config import TrainerConfig
from cnnlab.data.canvases import digit_canvases
from cnnlab.data.sources import multi_digits
from cnnlab.deploy.app import create_app
from cnnlab.deploy.export import export_run
from cnnlab.deploy.service import Service
from cnnlab.errors import ConfigError, DataError, RunError
from cnnlab.tasks import Metric
from cnnlab.tasks.multilabel import MultiLabel
from cnnlab.training.selection import is_kept

SQUARES = '''
import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}

class Squares:
    """Grey images with a red, a green and a blue square, each or not; one in eight has none."""

    classes = list(COLOURS)

    def __init__(self, count=240, first=0):
        self.count, self.first = count, first

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        random = np.random.default_rng(self.first + index)
        has = random.random(3) < 0.5
        pixels = random.integers(108, 149, (16, 16, 3)).astype(np.uint8)
        for k in random.permutation(3):
            if has[k]:
                y, x = random.integers(0, 12, 2)
                pixels[y : y + 4, x : x + 4] = COLOURS[self.classes[k]]
        return Image.fromarray(pixels), has.astype(np.uint8)

class OtherSquares(Squares):
    def __init__(self):
        super().__init__(60, 1000)
'''
KEYS = ["model=vgg", "model.width=8", "optimizer=sgd", "optimizer.lr=0.1", "augment=none", "trainer.epochs=12"]
KEYS += ["trainer.batch_size=16", "trainer.precision=fp32", "trainer.threads=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the Dataset's module, which can be imported."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "squares.py").write_text(SQUARES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    folder = place / "run"
    assert main(["train", "data=squares:Squares", *KEYS, f"run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def squares(place: Path) -> Any:
    import squares  # type: ignore[import-not-found]

    return squares


@pytest.fixture(scope="module")
def files(squares: Any, place: Path) -> list[str]:
    """One of each kind: 8 images with none, one, two or three of the colours."""
    found: dict[tuple[int, ...], str] = {}
    data = squares.Squares(200, 5000)
    (place / "files").mkdir()
    for index in range(200):
        image, has = data[index]
        key = tuple(has.tolist())
        if key not in found:
            found[key] = str(place / "files" / f"{''.join(map(str, key))}.png")
            image.save(found[key])
    assert len(found) == 8
    return list(found.values())


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_learns_and_says_how_well(run: Path) -> None:
    metrics = json.loads((run / "test.json").read_text())
    assert metrics["task"] == "multilabel" and metrics["n"] == 48
    assert metrics["mean_ap"] > 0.95 and metrics["accuracy"] > 0.85
    for key in ("mean_ap", "accuracy"):
        low, high = metrics[f"{key}_interval"]
        assert low <= metrics[key] <= high
    assert len(metrics["thresholds"]["values"]) == 3 and metrics["thresholds"]["n"] == 24
    card = json.loads((run / "best/model.json").read_text())
    assert card["task"] == "multilabel" and card["classes"] == ["red", "green", "blue"]
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [is_kept(row, history[:i], Metric("mean_ap"), 24) for i, row in enumerate(history)]
    assert card["epoch"] == 1 + max(i for i, one in enumerate(kept) if one)
    assert card["val_mean_ap"] == history[card["epoch"] - 1]["val_mean_ap"]


def test_predictions_csv_says_what_is_true_and_what_was_predicted(run: Path, squares: Any) -> None:
    rows, data = rows_of(run / "predictions.csv"), squares.Squares()
    metrics = json.loads((run / "test.json").read_text())
    for row in rows:
        has = data[int(row["picture"])][1]
        assert row["true"].split(";") == ([n for n, one in zip(data.classes, has, strict=True) if one] or [""])
        wanted = [
            name
            for name, least in zip(data.classes, metrics["thresholds"]["values"], strict=True)
            if float(row[name]) >= least
        ]
        assert row["predicted"].split(";") == (wanted or [""])
    right = sum(row["true"] == row["predicted"] for row in rows)
    assert right / len(rows) == metrics["accuracy"]


def test_the_split_keeps_the_share_of_every_class(run: Path, squares: Any) -> None:
    members, data = json.loads((run / "split.json").read_text())["members"], squares.Squares()
    shares = {part: np.mean([data[int(i)][1] for i in members[part]], axis=0) for part in ("train", "val", "test")}
    for part in ("val", "test"):
        assert np.abs(shares[part] - shares["train"]).max() < 0.15


def test_predict_gives_each_image_its_classes(
    run: Path, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = cnnlab.Predictor.from_run(run).predict(files)
    right = [
        set(answer.labels)
        == {name for name, one in zip(("red", "green", "blue"), Path(file).stem, strict=True) if one == "1"}
        for file, answer in zip(files, answers, strict=True)
    ]
    assert sum(right) >= 7
    for answer in answers:
        assert set(answer.probabilities) == {"red", "green", "blue"}
        assert all(0 <= p <= 1 for p in answer.probabilities.values())
    assert max(sum(answer.probabilities.values()) for answer in answers) > 1.5  # each class has one of its own
    assert main(["predict", str(run), *files, "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(one["labels"]) for one in printed] == [answer.labels for answer in answers]
    csv_file, folder = tmp_path / "answers.csv", tmp_path / "sorted"
    assert main(["predict", str(run), *files, "--out", str(csv_file), "--sort", str(folder)]) == 0
    assert [row["labels"] for row in rows_of(csv_file)] == [";".join(answer.labels) for answer in answers]
    for file, answer in zip(files, answers, strict=True):
        where = {path.parent.name for path in folder.glob(f"*/{Path(file).name}")}
        assert where == set(answer.labels or ("none",))


def test_an_export_answers_as_the_run_does(run: Path, files: list[str], tmp_path: Path) -> None:
    export = export_run(run, out=tmp_path / "export", trust_code=True)
    found = export.results["accuracy"]
    assert found["same_answers"] == 1.0 and found["model"] > 0.9
    ours, theirs = cnnlab.Predictor.from_run(run), cnnlab.Predictor.from_export(export.file)
    assert ours.rule == theirs.rule
    for one, other in zip(ours.predict(files), theirs.predict(files), strict=True):
        assert one.labels == other.labels and one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


def test_the_demo_answers_with_all_classes(run: Path, files: list[str]) -> None:
    expected = cnnlab.Predictor.from_run(run).predict(files)
    with TestClient(create_app(Service.from_run(run)), base_url="http://127.0.0.1") as client:
        card = client.get("/model").json()
        assert card["thresholds"] == json.loads((run / "test.json").read_text())["thresholds"]["values"]
        for file, answer in zip(files, expected, strict=True):
            body = client.post(
                "/predict", content=Path(file).read_bytes(), headers={"Content-Type": "image/png"}
            ).json()
            assert tuple(body["labels"]) == answer.labels
        body = client.post(
            "/explain?target=blue", content=Path(files[0]).read_bytes(), headers={"Content-Type": "image/png"}
        ).json()
        assert body["target"] == "blue"


def test_maps_show_where_a_class_is(run: Path, squares: Any) -> None:
    model, card = cnnlab.load_run(run)
    prepare = cnnlab.Predictor.from_run(run).preprocess
    hits = 0
    for number, name in enumerate(card["classes"]):
        pixels = np.full((16, 16, 3), 128, np.uint8)
        pixels[2:6, 2:6] = squares.COLOURS[name]
        other = squares.COLOURS[card["classes"][(number + 1) % 3]]
        pixels[10:14, 10:14] = other
        heat = cnnlab.explain.gradcam(model, prepare(Image.fromarray(pixels))[None], target=number)[0]
        hits += bool(heat[:8, :8].mean() > heat[8:, 8:].mean())
    assert hits >= 2


def test_the_report_shows_classes_thresholds_and_what_was_answered(run: Path) -> None:
    page = (run / "report.html").read_text()
    for words in ("Test mean average precision", "Exact matches", "average precision</th>", "threshold</th>"):
        assert words in page
    assert "Ranking the images at random" in page
    assert 'class="given">predicted' in page
    assert "Confusion matrix</h2>" not in page


def test_test_prints_and_repeats_the_metrics(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "test.json").read_text())
    assert main(["test", str(run), "--trust-code"]) == 0
    printed = capsys.readouterr().out
    assert "mean AP" in printed and "fitted on 24 validation images" in printed
    assert json.loads((run / "test.json").read_text()) == before


def test_another_set_is_tested_with_the_thresholds_of_the_run(run: Path) -> None:
    other = cnnlab.evaluate(run, data="squares:OtherSquares", trust_code=True)
    own = json.loads((run / "test.json").read_text())
    assert other["n"] == 60 and other["mean_ap"] > 0.9
    assert other["thresholds"] == own["thresholds"]
    assert other["own_test"]["accuracy"] == own["accuracy"]


def test_thresholds_of_a_stranger_are_looked_at(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    metrics = json.loads((copy / "test.json").read_text())
    for values in ([0.5, 0.5], [0.5, 0.5, 7], [0.5, 0.5, float("nan")]):
        metrics["thresholds"]["values"] = values
        (copy / "test.json").write_text(json.dumps(metrics))
        with pytest.raises(RunError, match="its thresholds are not a number from 0 to 1 for each class"):
            cnnlab.Predictor.from_run(copy)
    (copy / "test.json").unlink()
    assert cnnlab.Predictor.from_run(copy).rule.thresholds == (0.5, 0.5, 0.5)


def test_a_run_goes_on_bit_for_bit(place: Path, run: Path) -> None:
    from cnnlab.experiment import resume_experiment
    from cnnlab.tracking.base import EpochEnded

    class Stop:
        def log(self, event: object) -> None:
            if isinstance(event, EpochEnded) and event.row["epoch"] == 2:
                raise KeyboardInterrupt

        def close(self) -> None:
            pass

    config = cnnlab.config.compose(["data=squares:Squares", *KEYS, "augment.mixup=0.4", f"run.dir={place / 'part'}"])
    whole = cnnlab.config.compose(["data=squares:Squares", *KEYS, "augment.mixup=0.4", f"run.dir={place / 'whole'}"])
    from cnnlab.experiment import run_experiment

    with pytest.raises(BaseException):  # noqa: B017  # stopped
        run_experiment(config, [Stop()])
    resume_experiment(place / "part", trust_code=True)
    run_experiment(whole)
    ours, theirs = ((place / name / "best/model.safetensors").read_bytes() for name in ("part", "whole"))
    assert ours == theirs


@pytest.mark.parametrize("kind", ["dataset", "transform", "loaders"])
def test_fit_takes_labels_of_several_classes(kind: str, squares: Any, tmp_path: Path) -> None:
    def tensor(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    class Tensors(squares.Squares):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            image, has = super().__getitem__(index)
            return tensor(image), torch.from_numpy(has).float()

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    how: dict[str, Any] = {}
    if kind == "loaders":
        data: Any = DataLoader(Tensors(128), batch_size=16)
        how = {"val": DataLoader(Tensors(48, 300), batch_size=16), "test": DataLoader(Tensors(48, 400), batch_size=16)}
    else:
        data = squares.Squares(200)
        how = {"transform": tensor} if kind == "transform" else {}
    done = cnnlab.fit(net, data, epochs=3, overrides=["optimizer.lr=0.05"], dir=tmp_path / "run", progress=False, **how)
    assert done.test is not None and done.test["task"] == "multilabel"
    assert done.history[-1]["train_loss"] < done.history[0]["train_loss"]
    assert [row["class"] for row in done.test["per_class"]] == ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([np.array([0, 1, 2]), np.array([0, 1, 0])], "a 0 or 1 for each class"),
        ([np.array([0, 1, 1]), np.array([0, 1])], "has a list of 2, and the first a list of 3"),
        ([np.array([0, 1, 1]), 1], "has a class number, and the first a list of 3"),
    ],
)
def test_labels_that_are_neither_are_refused(labels: list[Any], reason: str) -> None:
    class Odd:
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
            return Image.new("RGB", (8, 8), (index, 0, 0)), labels[min(index // 20, 1)]

    with pytest.raises(DataError, match=reason):
        cnnlab.load_data(Odd())  # type: ignore[arg-type]


def test_what_this_task_does_not_have_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="views are for one label per image"):
        cnnlab.evaluate(run, views="mirror", trust_code=True)
    assert main(["train", "data=squares:Squares", *KEYS, "task=classification", "run.dir=nowhere"]) == 2
    assert "here an image may have several" in capsys.readouterr().err
    assert main(["train", "task=multilabel", "data.limit=60", "model=mlp", "run.dir=nowhere"]) == 2
    assert "here each has one label" in capsys.readouterr().err
    assert not Path("nowhere").exists()


def test_multi_digits_shares_no_digit_between_train_and_test(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[set[bytes]] = []

    def watched(digits: np.ndarray, labels: np.ndarray, count: int, **how: Any) -> list[Any]:
        used.append({digit.tobytes() for digit in digits})
        return digit_canvases(digits, labels, 10, **how)

    monkeypatch.setattr(multi_digits, "digit_canvases", watched)
    multi_digits.draw_canvases.__wrapped__()
    train, test = used
    assert len(train) > 1200 and len(test) > 400 and not train & test


def test_multi_digits_has_one_to_four_of_ten_digits() -> None:
    data = cnnlab.load_data("multi_digits", limit=300, augment="none")
    assert data.multi_label and data.num_classes == 10 and data.image_size == (32, 32)
    images, targets = next(iter(data.train))
    assert targets.dtype == torch.float32 and targets.shape == (len(images), 10)
    assert set(targets.sum(1).tolist()) <= {1.0, 2.0, 3.0, 4.0}


def test_the_page_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "multilabel.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Image.new("L", (32, 32)).save("page.png")
    short = ["data.limit=120", "trainer.epochs=1", "model.width=4", "trainer.threads=1"]
    lines = [line for line in page.splitlines() if line.startswith("cnnlab ")]
    assert len(lines) == 5
    for line in lines:
        words = re.sub(r" {6,}.*", "", line).split()[1:]
        assert main([*words, *(short if words[0] == "train" else [])]) == 0, capsys.readouterr().err
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(block, {})
    metrics = json.loads(Path("runs/squares/test.json").read_text())
    for key in re.findall(r"^\| (.*?) \|", page, flags=re.MULTILINE)[2:]:
        assert all(name in metrics for name in re.findall(r"`(\w+)`", key))


def test_labels_of_another_kind_in_another_split_are_refused() -> None:
    images = torch.rand(32, 3, 8, 8)
    rows = torch.randint(0, 2, (32, 3)).float()
    train = DataLoader(list(zip(images, rows, strict=True)), batch_size=8)  # type: ignore[arg-type]
    val = DataLoader(list(zip(images, rows.argmax(1), strict=True)), batch_size=8)  # type: ignore[arg-type]
    data = cnnlab.load_data(train, val=val)
    with pytest.raises(DataError, match="class numbers here and rows of 0 and 1 in the first batch"):
        list(data.val)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["adapt.method=dann", "adapt.data=multi_digits", "model=vgg"], "adapt.method is for one label per image"),
        (["trainer.balanced_sampling=true"], "use trainer.class_weights=balanced"),
        (["trainer.loss=mse"], "use cross_entropy or focal"),
        (["trainer.class_weights=[1,2,3]"], "3 numbers for 10 classes"),
    ],
)
def test_settings_for_one_label_are_refused_in_one_line(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data=multi_digits", "data.limit=100", "trainer.epochs=1", *words, f"run.dir={tmp_path / 'run'}"]
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert reason in error[-1] and len(error) == 1
    assert not (tmp_path / "run").exists()


def test_weights_of_rare_classes_are_their_odds(place: Path) -> None:
    folder = place / "balanced"
    assert main(["train", "data=squares:Squares", *KEYS, "trainer.class_weights=balanced", f"run.dir={folder}"]) == 0
    assert json.loads((folder / "test.json").read_text())["mean_ap"] > 0.9


def test_a_set_of_another_kind_is_refused(run: Path, finished_run: Path) -> None:
    with pytest.raises(DataError, match="trained for classification, and the targets of this set are for multilabel"):
        cnnlab.evaluate(finished_run, data="multi_digits", limit=50)
    digits = cnnlab.load_data("digits", limit=60, augment="none")
    with pytest.raises(DataError):
        cnnlab.evaluate(run, data=digits)


def test_validation_images_without_any_class_stop_no_training(squares: Any, tmp_path: Path) -> None:
    class Empty(squares.Squares):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: int) -> tuple[Image.Image, np.ndarray]:
            return Image.new("RGB", (16, 16), (index, index, index)), np.zeros(3, np.uint8)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    for count in (5, 40, 120):
        done = cnnlab.fit(
            net, squares.Squares(64), val=Empty(count), test=False, epochs=2, dir=tmp_path / str(count), progress=False
        )
        assert [row["val_mean_ap"] for row in done.history] == [None, None]


def test_a_loss_of_ones_own_with_tensors_is_asked_where_they_are() -> None:
    own = nn.BCEWithLogitsLoss(pos_weight=torch.ones(2, dtype=torch.float64))
    task = MultiLabel(TrainerConfig(), 2, None, own)
    metrics = task.metrics()
    metrics.update(torch.zeros(4, 2), torch.ones(4, 2))
    assert metrics.logits[0].device == torch.zeros(1).device
    assert metrics.compute()["loss"] == pytest.approx(np.log(2))


def test_the_report_of_an_untested_run_shows_what_chose_the_epoch(squares: Any, tmp_path: Path) -> None:
    net = cnnlab.create_model("vgg", width=4, in_channels=3, num_classes=3)
    data = cnnlab.load_data(squares.Squares(120), test_fraction=0)
    run = cnnlab.fit(net, data, epochs=1, dir=tmp_path / "run", progress=False)
    assert run.test is None
    assert "Validation mean average precision" in (tmp_path / "run" / "report.html").read_text()


def test_two_processes_measure_as_one_does(tmp_path: Path) -> None:
    """An odd number of validation images, so that their parts differ in length."""
    words = ["data=multi_digits", "data.limit=61", "trainer.epochs=1", "model.width=4", "trainer.precision=fp32"]
    words += [
        "trainer.threads=1",
        "trainer.ema=null",
        "augment=none",
        "optimizer=sgd",
        "optimizer.lr=0.05",
        "logger=none",
    ]
    rows = []
    for count in (1, 2):
        assert main(["train", *words, f"trainer.devices={count}", f"run.dir={tmp_path / str(count)}"]) == 0
        rows.append(json.loads((tmp_path / str(count) / "metrics.jsonl").read_text()))
    for key in ("train_loss", "val_loss", "val_accuracy", "val_mean_ap"):
        assert rows[1][key] == pytest.approx(rows[0][key], rel=1e-2)
