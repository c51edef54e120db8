"""A run that classifies pixels, from the command line: train, test, predict, and what its report shows."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

import cnnlab
from cnnlab.cli import main
from cnnlab.deploy.acceptance import accuracy
from cnnlab.deploy.export import export_run
from cnnlab.errors import ConfigError, DataError
from cnnlab.evaluation.segmentation import boundary_f1, per_class
from small_sets import write_pets

if TYPE_CHECKING:
    from conftest import CommandLine

KEYS = [
    "data.image_size=32",
    "augment=none",
    "model.width=8",
    "model.depth=2",
    "trainer.batch_size=4",
    "optimizer.lr=0.05",
]


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pets(tmp_path_factory.mktemp("pets"), 24)


@pytest.fixture(scope="module")
def run(command: CommandLine, pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmentation") / "run"
    words = ["data=oxford_pets", f"data.root={pets}", *KEYS, "trainer.epochs=12", "data.val_fraction=0.2"]
    result = command("train", *words, "logger=none", f"run.dir={folder}")
    assert result.code == 0, result.err
    return folder


def test_a_unet_learns_the_pixels(run: Path) -> None:
    metrics = json.loads((run / "test.json").read_text())
    assert metrics["task"] == "segmentation" and metrics["n"] == 4
    assert metrics["mean_iou"] > 0.6
    low, high = metrics["mean_iou_interval"]
    assert low <= metrics["mean_iou"] <= high
    assert [row["class"] for row in metrics["per_class"]] == ["background", "pet", "border"]
    matrix = np.array(metrics["confusion_matrix"])
    assert matrix.sum() == 4 * 32 * 32
    assert metrics["accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
    overlap = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert metrics["mean_iou"] == pytest.approx(overlap.mean())
    assert 0 < metrics["boundary_f1"] <= 1


def test_an_export_is_held_to_every_pixel(run: Path, tmp_path: Path) -> None:
    metrics = export_run(run, out=tmp_path / "export").results["accuracy"]
    tested = json.loads((run / "test.json").read_text())["accuracy"]
    assert metrics["model"] == pytest.approx(tested, abs=1e-3) and metrics["same_answers"] > 0.999

    truth = torch.zeros(2, 3, 4, dtype=torch.int64)
    right = torch.eye(2)[truth].permute(0, 3, 1, 2)
    spoilt = right.clone()
    spoilt[:, :, 1:] = spoilt[:, :, 1:].flip(1)  # all but the first row of each image
    found = accuracy(lambda images: right[: len(images)], lambda images: spoilt[: len(images)], right, truth)
    assert found == {"n": 2, "model": 1.0, "export": pytest.approx(1 / 3), "same_answers": pytest.approx(1 / 3)}


def test_views_of_a_model_that_classifies_pixels_are_refused(command: CommandLine, run: Path) -> None:
    result = command("test", run, "--views", "mirror")
    assert result.code == 2 and "views are for one label per image" in result.err


def test_the_best_epoch_is_that_of_the_highest_mean_iou(run: Path) -> None:
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = json.loads((run / "best" / "model.json").read_text())
    assert best["val_mean_iou"] == max(row["val_mean_iou"] for row in history)
    assert best["task"] == "segmentation" and best["classes"] == ["background", "pet", "border"]


def test_predictions_hold_a_row_an_image(run: Path) -> None:
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == [
        f"images/{'Bengal' if i % 2 else 'Beagle'}_{i}.jpg" for i in range(20, 24)
    ]
    assert all(
        0 <= float(row[key]) <= 1 for row in rows for key in ("pixel_accuracy", "mean_iou", "dice", "boundary_f1")
    )


def test_the_report_shows_truth_and_answer(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "Images, ground truth and predictions" in page and "Test mean IoU" in page
    assert page.count("<figcaption>truth</figcaption>") == 4


def test_testing_again_gives_the_same_metrics(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "test.json").read_text())
    assert cnnlab.evaluate(run) == before
    assert main(["test", str(run), "--split", "val"]) == 0
    assert "mean IoU" in capsys.readouterr().out


def test_predict_writes_masks_and_overlays(
    run: Path, pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pets / "oxford-iiit-pet" / "images" / "Beagle_20.jpg"
    assert main(["predict", str(run), str(image), "--out", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert sum(answer["shares"].values()) == pytest.approx(1, abs=1e-4)
    with Image.open(answer["mask"]) as mask, Image.open(answer["overlay"]) as overlay:
        assert mask.mode == "P" and mask.size == overlay.size == (50, 40)  # the whole image, squashed for the model
        classes = np.asarray(mask)
    trimap = np.asarray(Image.open(pets / "oxford-iiit-pet" / "annotations" / "trimaps" / "Beagle_20.png"))
    assert set(np.unique(classes)) <= {0, 1, 2}
    assert ((classes == 1) == (trimap == 1)).mean() > 0.85


def test_a_mask_is_as_large_as_the_image_and_says_what_was_not_seen(run: Path) -> None:
    from cnnlab.deploy.segmenter import UNSEEN, Segmenter

    segmenter = Segmenter(run)
    segmenter.preprocess = dataclasses.replace(
        segmenter.preprocess, layout=dataclasses.replace(segmenter.preprocess.layout, fit="crop")
    )
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 100, 3), np.uint8))
    mask = segmenter.segment(wide)
    assert mask.shape == (40, 100)
    assert (mask[:, :30] == UNSEEN).all() and (mask[:, 70:] == UNSEEN).all()
    assert mask[:, 30:70].max() <= 2
    alone = segmenter.segment(wide.crop((30, 0, 70, 40)))
    assert (mask[:, 30:70] == alone).mean() > 0.97  # resizing looks a pixel beyond the box


def test_a_damaged_image_does_not_stop_the_others(
    run: Path, pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    good = pets / "oxford-iiit-pet" / "images" / "Beagle_20.jpg"
    assert main(["predict", str(run), str(tmp_path / "bad.jpg"), str(good), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "Beagle_20" in said.out and "bad.jpg" in said.err


def test_the_wrong_kind_of_model_is_refused(pets: Path, tmp_path: Path, finished_run: Path) -> None:
    from cnnlab.config import compose
    from cnnlab.deploy.segmenter import Segmenter
    from cnnlab.experiment import run_experiment

    words = ["data=oxford_pets", f"data.root={pets}", "data.image_size=32", f"run.dir={tmp_path / 'run'}"]
    with pytest.raises(
        ConfigError, match="a class for every pixel, and the model answers once per image; use model=unet"
    ):
        run_experiment(compose([*words, "model=resnet"]))
    with pytest.raises(ConfigError, match="classifies every pixel, and the set has one label per image"):
        run_experiment(compose(["model=unet", f"run.dir={tmp_path / 'run'}"]))
    with pytest.raises(DataError, match="answers once per image"):
        Segmenter(finished_run)
    assert not (tmp_path / "run").exists()


def test_a_scene_shows_the_image_the_truth_the_answer_and_where_they_differ(run: Path) -> None:
    from cnnlab.evaluation.evaluate import data_of_run, evaluate_split
    from cnnlab.explain.overlay import class_colours, paint_classes
    from cnnlab.report.gather import gather
    from cnnlab.runs.folder import open_folder

    model, card = cnnlab.load_run(run)
    data, _ = data_of_run(open_folder(run), card, torch.device("cpu"))
    outputs = evaluate_split(model, data, "test")
    _, insight = gather(model, data, outputs)
    scenes, colours = insight.scenes, insight.colours
    assert colours[0] == "rgb(0, 0, 0)" and len(colours) == 3
    batch = next(data.evaluation_loader("test").epoch())
    answers = model(batch.images).argmax(1)
    shown = data.preprocess.denormalise(batch.images).numpy()
    for scene in scenes:
        place = outputs.names.index(scene.name)
        truth, answer = batch.targets[place].numpy(), answers[place].numpy()
        assert np.array_equal(scene.image, shown[place])
        assert np.array_equal(scene.truth, paint_classes(shown[place], truth, class_colours(3)))
        assert np.array_equal(scene.answer, paint_classes(shown[place], answer, class_colours(3)))
        assert np.array_equal((scene.error == 255).all(2), truth != answer)
    assert any((scene.truth != scene.answer).any() for scene in scenes)


# ---- metrics by hand


def test_boundaries_match_within_the_tolerance() -> None:
    masks = torch.zeros(1, 20, 20, dtype=torch.long)
    masks[0, 5:15, 5:15] = 1
    assert boundary_f1(masks, masks, 2).item() == 1
    assert boundary_f1(masks.roll(1, 2), masks, 2, tolerance=1).item() == 1
    assert boundary_f1(masks.roll(3, 2), masks, 2, tolerance=1).item() < 0.6
    assert boundary_f1(torch.zeros_like(masks), masks, 2).item() == 0
    alone = torch.zeros_like(masks)
    assert boundary_f1(alone, alone, 2).isnan().all()  # one class everywhere has no boundary


def test_metrics_of_a_class_by_hand() -> None:
    rows = per_class(torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert rows[0] == {"class": "a", "n": 8, "precision": 6 / 7, "recall": 6 / 8, "f1": 12 / 15, "iou": 6 / 9}
    assert rows[2] == {"class": "c", "n": 0, "precision": None, "recall": None, "f1": None, "iou": None}
