"""`cnnlab test` and `cnnlab compare`: what training printed, what the files say, and another set of images."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import cnnlab
from cnnlab.config import compose
from cnnlab.data.build import build_data
from cnnlab.data.sources.base import ArraySet
from cnnlab.errors import CnnlabError, DataError, RunError
from cnnlab.evaluation.evaluate import as_other_set, numbered_as
from cnnlab.evaluation.plots import plot_curves

if TYPE_CHECKING:
    from conftest import CommandLine


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def metrics(run: Path, name: str = "test.json") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / name).read_text(encoding="utf-8"))
    return loaded


def predictions(run: Path, name: str = "predictions.csv") -> list[dict[str, str]]:
    with open(run / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def best_row(run: Path) -> dict[str, Any]:
    epoch = metrics(run, "best/model.json")["epoch"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return next(row for row in rows if row["epoch"] == epoch)


def percentage(text: str) -> float:
    return float(re.findall(r"([\d.]+) %", text)[0]) / 100


# ---- the run's own images


def test_the_accuracy_from_disk_is_the_one_that_training_printed(command: CommandLine, run: Path) -> None:
    before = metrics(run)
    (run / "test.json").unlink()
    (run / "predictions.csv").unlink()
    result = command("test", run)
    assert result.code == 0, result.err
    assert metrics(run) == before
    line = next(line for line in result.out.splitlines() if "accuracy" in line)
    assert percentage(line) == pytest.approx(before["accuracy"], abs=5e-5)


def test_training_printed_the_metrics_of_its_files(finished_run: Path) -> None:
    lines = (finished_run.parent / "printed.txt").read_text(encoding="utf-8").splitlines()
    test = next(line for line in lines if line.startswith("test "))
    assert percentage(test) == pytest.approx(metrics(finished_run)["accuracy"], abs=5e-5)
    validation = next(line for line in lines if line.startswith("validation"))
    assert percentage(validation) == pytest.approx(best_row(finished_run)["val_accuracy"], abs=5e-5)
    assert any(str(finished_run) in line for line in lines[-2:])


def test_test_json_has_its_fixed_keys(finished_run: Path) -> None:
    known = metrics(finished_run)
    fixed = {
        "loss",
        "accuracy",
        "mean_class_accuracy",
        "top5_accuracy",
        "macro_f1",
        "ece",
        "n",
        "per_class",
        "confusion_matrix",
        "topk_accuracy",
        "most_confused",
        "intervals",
        "calibration",
        "hardest",
    }
    assert fixed <= set(known)
    assert "own_test" not in known
    assert known["n"] == 200
    assert np.sum(known["confusion_matrix"]) == 200


def test_the_temperature_is_that_of_the_validation_split(run: Path) -> None:
    tested, validated = metrics(run), cnnlab.evaluate(run, split="val")
    assert tested["calibration"]["n"] == validated["n"] == 200
    assert tested["calibration"]["temperature"] == validated["calibration"]["temperature"]
    assert validated["calibration"]["after"]["loss"] < validated["loss"]  # it was fitted on these
    assert tested["calibration"]["before"]["loss"] == pytest.approx(tested["loss"])
    assert tested["calibration"]["before"]["ece"] == pytest.approx(tested["ece"])


def test_without_a_validation_split_there_is_no_temperature(
    command: CommandLine, tmp_path: Path, tiny: Sequence[str]
) -> None:
    assert command("train", *tiny, "data.val_fraction=0", f"run.dir={tmp_path / 'run'}").code == 0
    calibration = metrics(tmp_path / "run")["calibration"]
    assert (calibration["temperature"], calibration["n"], calibration["after"]) == (None, 0, None)
    assert "no validation split" in command("test", tmp_path / "run").out


def test_the_hardest_images_are_those_of_the_predictions(finished_run: Path) -> None:
    lines = {line["picture"]: line for line in predictions(finished_run)}
    hardest = metrics(finished_run)["hardest"]
    worst = sorted(lines.values(), key=lambda line: float(line[line["true"]]))[:20]
    assert [one["picture"] for one in hardest["by_loss"]] == [line["picture"] for line in worst]
    for one in hardest["by_loss"] + hardest["by_margin"]:
        line = lines[one["picture"]]
        assert (one["true"], one["predicted"]) == (line["true"], line["predicted"])
        assert one["probability_true"] == pytest.approx(float(line[one["true"]]), abs=1e-5)
        assert one["probability_predicted"] == pytest.approx(float(line[one["predicted"]]), abs=1e-5)


def test_the_terminal_shows_each_figure_beside_its_interval(command: CommandLine, run: Path) -> None:
    known, lines = metrics(run), command("test", run).out.splitlines()
    for label, key in (("macro F1", "macro_f1"), ("loss", "loss"), ("ECE", "ece")):
        line = next(line for line in lines if line.strip().startswith(label))
        low, high = known["intervals"][key]
        assert f"{known[key]:.4f}  {low:.4f}–{high:.4f}" in line
    line = next(line for line in lines if "temperature" in line)
    calibration = known["calibration"]
    assert f"{calibration['temperature']:.4f}" in line
    assert f"ECE {calibration['after']['ece']:.4f}" in line


def test_predictions_are_those_of_test_json(finished_run: Path) -> None:
    known, lines = metrics(finished_run), predictions(finished_run)
    classes = [str(digit) for digit in range(10)]
    assert list(lines[0]) == ["picture", "true", "predicted", *classes]
    assert len({line["picture"] for line in lines}) == len(lines) == known["n"]
    assert sum(line["true"] == line["predicted"] for line in lines) / len(lines) == known["accuracy"]
    matrix = np.zeros((10, 10), int)
    for line in lines:
        matrix[int(line["true"]), int(line["predicted"])] += 1
        probabilities = {name: float(line[name]) for name in classes}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert probabilities[line["predicted"]] == max(probabilities.values())
    assert matrix.tolist() == known["confusion_matrix"]


def test_predictions_name_the_images_with_their_true_class(finished_run: Path) -> None:
    digits = load_digits()
    for line in predictions(finished_run):
        assert int(line["true"]) == digits.target[int(line["picture"])]


def test_the_validation_split_gives_the_accuracy_of_metrics_jsonl(command: CommandLine, run: Path) -> None:
    assert command("test", run, "--split", "val").code == 0
    known, row = metrics(run, "evaluation-val.json"), best_row(run)
    assert known["accuracy"] == row["val_accuracy"]
    assert known["loss"] == pytest.approx(row["val_loss"], rel=1e-5)
    assert known["split"] == "val"
    assert len(predictions(run, "predictions-val.csv")) == 200


def test_another_split_leaves_the_test_alone(run: Path) -> None:
    before = (run / "test.json").read_bytes(), (run / "predictions.csv").read_bytes()
    known = cnnlab.evaluate(run, split="train")
    assert known["split"] == "train"
    assert known == metrics(run, "evaluation-train.json")
    assert before == ((run / "test.json").read_bytes(), (run / "predictions.csv").read_bytes())


def test_python_gives_the_content_of_test_json(run: Path) -> None:
    assert cnnlab.evaluate(run) == cnnlab.evaluate(str(run), split="test") == metrics(run)


@pytest.mark.parametrize("split", ["tset", "", None])
def test_an_unknown_split_is_refused(split: Any, run: Path) -> None:
    with pytest.raises(CnnlabError, match="split"):
        cnnlab.evaluate(run, split=split)


# ---- another set of images


def write_digits(root: Path, numbers: Sequence[int]) -> None:
    """Images of the digits as PNG files, one folder per class."""
    digits = load_digits()
    for number in numbers:
        folder = root / str(digits.target[number])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(digits.images[number] * (255 / 16)).astype(np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos") / "here"
    write_digits(root, range(150))
    return root


@pytest.fixture(scope="module")
def folder_run(command: CommandLine, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("folder") / "run"
    words = ["data=folder", f"data.root={photos}", "model=mlp", "model.hidden=[32]", "augment=none", "logger=none"]
    words += ["trainer.batch_size=10", "trainer.epochs=8", "optimizer=adam", "optimizer.lr=0.01"]
    result = command("train", *words, f"run.dir={run}")
    assert result.code == 0, result.err
    return run


def test_the_same_images_elsewhere_are_the_runs_own(folder_run: Path, photos: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    moved = Path(shutil.copytree(photos, tmp_path / "moved"))
    (run / "test.json").unlink()
    assert cnnlab.evaluate(run, data_root=str(moved)) == metrics(folder_run)
    assert (run / "test.json").exists()


def test_another_set_with_the_same_classes_is_tested_as_a_whole(folder_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    before = (run / "test.json").read_bytes()
    write_digits(tmp_path / "other", range(200, 290))
    known = cnnlab.evaluate(run, data_root=str(tmp_path / "other"))
    assert known["n"] == 90
    assert known["accuracy"] > 0.5
    own = metrics(run)
    assert known["own_test"]["accuracy"] == own["accuracy"]
    assert known["own_test"]["difference"] == known["accuracy"] - own["accuracy"]
    low, high = known["own_test"]["interval"]
    assert low < known["own_test"]["difference"] < high
    assert known["calibration"]["temperature"] == own["calibration"]["temperature"]  # none of these images is in it
    assert before == (run / "test.json").read_bytes()
    assert metrics(run, "evaluation-test-other.json") == known
    names = {line["picture"] for line in predictions(run, "predictions-test-other.csv")}
    assert len(names) == 90


def test_a_run_that_has_not_ended_is_tested_with_a_word_about_it(
    folder_run: Path, command: CommandLine, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    assert command("test", run).err == ""
    (run / "report.html").unlink()
    assert command("test", run).err == ""  # it has trained all its epochs
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:1]))
    result = command("test", run)
    assert result.code == 0 and f"has {len(lines) - 1} epochs to go" in result.err
    (run / "metrics.jsonl").write_text("damaged")
    result = command("test", run)
    assert (result.code, result.err) == (0, "")


def test_keys_of_another_set_go_with_its_root(folder_run: Path, command: CommandLine, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    write_digits(tmp_path / "other", range(200, 290))
    (tmp_path / "other" / "0" / "broken.png").write_bytes(b"no image")
    refused = command("test", run, "--data-root", tmp_path / "other")
    assert refused.code == 2 and "data.max_corrupt" in refused.err
    done = command("test", run, "--data-root", tmp_path / "other", "data.max_corrupt=0.02")
    assert done.code == 0, done.err
    assert metrics(run, "evaluation-test-other.json")["n"] == 90
    assert "--data or --data-root" in command("test", run, "data.limit=10").err


def test_the_fall_of_the_accuracy_is_told_in_words(command: CommandLine, folder_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    write_digits(tmp_path / "other", range(200, 290))
    last = command("test", run, "--data-root", tmp_path / "other").out.splitlines()[-1]
    assert re.search(
        r"accuracy (falls|rises) by [\d.]+ points \(95 % interval .*\) from the run's own test split", last
    )
    assert f"{100 * metrics(run)['accuracy']:.2f} %" in last
    (run / "test.json").unlink()
    assert "own_test" not in cnnlab.evaluate(run, data_root=str(tmp_path / "other"))


def test_another_set_is_seen_through_the_preprocess_of_the_run(folder_run: Path, tmp_path: Path) -> None:
    """The accuracy is that of predicting the files one by one."""
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    write_digits(tmp_path / "other", range(300, 340))
    files = sorted((tmp_path / "other").rglob("*.png"))
    answers = cnnlab.Predictor.from_run(run).predict(files)
    right = sum(answer.label == file.parent.name for answer, file in zip(answers, files, strict=True))
    assert cnnlab.evaluate(run, data_root=str(tmp_path / "other"))["accuracy"] == right / 40


def test_one_image_a_class_is_enough_for_another_set(folder_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    write_digits(tmp_path / "other", range(10))
    assert cnnlab.evaluate(run, data_root=str(tmp_path / "other"))["n"] == 10


def test_an_official_test_split_of_another_set_is_kept(folder_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    write_digits(tmp_path / "other" / "train", range(100))
    write_digits(tmp_path / "other" / "test", range(300, 330))
    assert cnnlab.evaluate(run, data_root=str(tmp_path / "other"))["n"] == 30


def test_another_set_without_a_test_split_is_tested_as_a_whole(folder_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    write_digits(tmp_path / "other" / "train", range(100))
    write_digits(tmp_path / "other" / "val", range(300, 330))
    assert cnnlab.evaluate(run, data_root=str(tmp_path / "other"))["n"] == 130
    with pytest.raises(DataError, match="no train split of its own; test on all of it"):
        cnnlab.evaluate(run, split="train", data_root=str(tmp_path / "other"))


def test_another_set_may_be_smaller_than_what_the_run_was_split_by(command: CommandLine, tmp_path: Path) -> None:
    write_digits(tmp_path / "here", range(300))
    words = ["data=folder", f"data.root={tmp_path / 'here'}", "data.per_class_train=20", "model=mlp"]
    words += ["model.hidden=[]", "trainer.epochs=1", "augment=none", "logger=none", f"run.dir={tmp_path / 'run'}"]
    assert command("train", *words).code == 0
    write_digits(tmp_path / "other", range(300, 350))
    assert cnnlab.evaluate(tmp_path / "run", data_root=str(tmp_path / "other"))["n"] == 50


@pytest.mark.parametrize("part", ["test", "Val", ""])
def test_an_outside_folder_needs_nothing_to_train_on(part: str, folder_run: Path, run: Path, tmp_path: Path) -> None:
    """Only `test/`, or only class folders; for a run on a built-in set, too."""
    write_digits(tmp_path / "other" / part, range(300, 340))
    own = Path(shutil.copytree(folder_run, tmp_path / "own"))
    assert cnnlab.evaluate(own, data_root=str(tmp_path / "other"))["n"] == 40
    assert cnnlab.evaluate(run, data="folder", data_root=str(tmp_path / "other"))["n"] == 40


def test_an_outside_folder_may_have_some_of_the_classes(folder_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    write_digits(tmp_path / "other" / "test", range(300, 340))
    for number in set("0123456789") - set("37"):
        shutil.rmtree(tmp_path / "other" / "test" / number, ignore_errors=True)
    files = sorted((tmp_path / "other").rglob("*.png"))
    answers = cnnlab.Predictor.from_run(run).predict(files)
    right = sum(answer.label == file.parent.name for answer, file in zip(answers, files, strict=True))
    known = cnnlab.evaluate(run, data_root=str(tmp_path / "other"))
    assert (known["n"], known["accuracy"]) == (len(files), right / len(files))
    assert {line["true"] for line in predictions(run, "predictions-test-other.csv")} == {"3", "7"}


def test_labels_follow_the_order_of_the_models_classes() -> None:
    images = ArraySet(np.zeros((3, 2, 2), np.uint8), np.array([0, 1, 1]), ["ankle boot", "shirt"])
    other = numbered_as(images, ["shirt", "coat", "ankle boot"])
    assert (other.labels.tolist(), list(other.classes)) == ([2, 0, 0], ["shirt", "coat", "ankle boot"])
    assert images.labels.tolist() == [0, 1, 1]


def test_another_set_with_other_classes_is_refused_by_name(folder_run: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "other", range(100))
    (tmp_path / "other" / "3").rename(tmp_path / "other" / "three")
    with pytest.raises(DataError, match=r"'(3|three)'"):
        cnnlab.evaluate(folder_run, data_root=str(tmp_path / "other"))


def test_another_set_that_is_not_there_is_refused(command: CommandLine, folder_run: Path, tmp_path: Path) -> None:
    result = command("test", folder_run, "--data-root", tmp_path / "nowhere")
    assert result.code == 2
    assert len(result.error_lines) == 1


def test_images_that_changed_since_are_refused_with_the_fix(folder_run: Path, photos: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder_run, tmp_path / "run"))
    changed = Path(shutil.copytree(photos, tmp_path / "changed"))
    config = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(config.replace(str(photos), str(changed)), encoding="utf-8")
    assert cnnlab.evaluate(run) == metrics(folder_run)
    tested = predictions(folder_run)[0]["picture"]
    Image.frombytes("L", (8, 8), random.Random(0).randbytes(64)).save(changed / tested)
    with pytest.raises(RunError, match="--data-root"):
        cnnlab.evaluate(run)


# ---- compare


def test_runs_are_compared_in_a_table_and_an_image(
    command: CommandLine, run: Path, folder_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder_run, tmp_path / "other")
    result = command("compare", "run", "other", "run", "--out", "curves.png", cwd=tmp_path)
    assert result.code == 0, result.err
    assert sum(line.startswith("run ") for line in result.out.splitlines()) == 2  # the heading, and the run once
    for name in ("run", "other"):
        line = [line for line in result.out.splitlines() if line.startswith(f"{name} ")][-1]
        assert f"{100 * metrics(tmp_path / name)['accuracy']:.2f} %" in line
        assert f"{100 * best_row(tmp_path / name)['val_accuracy']:.2f} %" in line
        low, high = metrics(tmp_path / name)["accuracy_interval"]
        assert f"{100 * low:.2f}–{100 * high:.2f} %" in line  # nothing is cut, however narrow the terminal
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 500
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_a_folder_of_runs_stands_for_those_that_have_trained_an_epoch(
    command: CommandLine, run: Path, tmp_path: Path
) -> None:
    for name in ("a", "b", "unfinished"):
        shutil.copytree(run, tmp_path / "runs" / name)
    (tmp_path / "runs" / "unfinished" / "metrics.jsonl").unlink()
    (tmp_path / "runs" / "other").mkdir()
    result = command("compare", "runs", cwd=tmp_path)
    assert result.code == 0, result.err
    assert [line.split()[0] for line in result.out.splitlines() if line][:4] == ["run", "runs/a", "runs/b", "curves"]
    assert "unfinished" not in result.out
    for name in ("a", "b"):
        (tmp_path / "runs" / name / "metrics.jsonl").unlink()
    result = command("compare", "runs", cwd=tmp_path)
    assert result.code == 2
    assert "of the 3 runs in runs none has finished an epoch yet" in result.err
    assert "is not a run folder" in command("compare", "runs/other", cwd=tmp_path).err


def test_runs_without_validation_are_told_apart_in_the_image() -> None:
    row = {"train_loss": 1.0, "train_accuracy": 0.5, "val_loss": None, "val_accuracy": None}
    known = row | {"val_loss": 1.0, "val_accuracy": 0.4}
    histories = {"a": [row | {"epoch": i} for i in (1, 2)], "b": [known | {"epoch": i} for i in (1, 2)]}
    figure = plot_curves(histories)
    legend = figure.axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    styles = [(line.get_label(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert ("a", "--") in styles
    assert ("b", "-") in styles


def test_the_image_of_the_curves_is_also_saved_where_it_is_asked_for(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.4}]
    plot_curves({"a": rows})
    assert not list(tmp_path.iterdir())
    plot_curves({"a": rows}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("out", ["curves.xyz", "nowhere/deep/curves.png", "/proc/curves.png"])
def test_an_image_that_cannot_be_written_is_one_line(out: str, command: CommandLine, run: Path) -> None:
    result = command("compare", run, "--out", out)
    assert result.code == 2
    assert len(result.error_lines) == 1


def test_a_run_without_an_epoch_cannot_be_compared(command: CommandLine, run: Path, tmp_path: Path) -> None:
    (run / "metrics.jsonl").unlink()
    result = command("compare", run)
    assert result.code == 2
    assert "has not finished an epoch" in result.err


def test_a_run_without_a_test_is_compared_too(command: CommandLine, run: Path) -> None:
    (run / "test.json").unlink()
    result = command("compare", run)
    assert result.code == 0
    assert "–" in result.out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("best/model.json", "[]"),
        ("best/model.json", "{"),
        ("test.json", "[]"),
        ("test.json", '{"accuracy": 1}'),
        ("metrics.jsonl", "5\n"),
        ("metrics.jsonl", '{"epoch": 1}\n'),
        ("config.yaml", "seed: 0\n"),
        ("config.yaml", "model: {name: 5}\n"),
    ],
)
def test_a_damaged_run_is_one_line(name: str, content: str, command: CommandLine, run: Path) -> None:
    (run / name).write_text(content, encoding="utf-8")
    result = command("compare", run)
    assert "Traceback" not in result.err
    assert result.code in (0, 2)


def test_another_set_is_seen_whole_after_training_on_random_crops(tmp_path: Path) -> None:
    """Also the images that its own split would have trained on, and stored for crops alone."""
    random = np.random.default_rng(0)
    for root in ("own", "other"):
        for i in range(12):
            file = tmp_path / root / "ab"[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (40 + i, 44, 3), dtype=np.uint8)).save(file)
    words = ["data=folder", "augment=standard", "data.image_size=64"]
    own = build_data(compose([*words, f"data.root={tmp_path / 'own'}"]), torch.device("cpu"))
    config = compose([*words, f"data.root={tmp_path / 'other'}"])
    other = as_other_set(config, own.preprocess, own.classes, torch.device("cpu"))
    images = torch.cat([batch.images for batch in other.evaluation_loader("test").epoch()])
    assert len(images) == 12
    for image, name in zip(images, other.names("test"), strict=True):
        assert torch.equal(image, own.preprocess(tmp_path / "other" / name))


def test_an_unfinished_run_and_one_at_chance_are_marked(command: CommandLine, run: Path, tmp_path: Path) -> None:
    (run / "report.html").unlink()
    chance = tmp_path / "chance"
    shutil.copytree(run, chance)
    (chance / "report.html").write_text("done")
    tested = metrics(chance)
    tested["accuracy_interval"] = [0.05, 0.15]
    (chance / "test.json").write_text(json.dumps(tested))
    result = command("compare", run, chance)
    assert "unfinished, " in result.out
    assert "at chance" in result.out


def test_one_outlier_does_not_flatten_the_losses() -> None:
    row = {"train_accuracy": 0.5, "val_accuracy": 0.4, "train_loss": 1.0}
    calm = [row | {"epoch": i, "val_loss": 1.0 + i / 10} for i in (1, 2, 3)]
    assert plot_curves({"a": calm}).axes[0].get_yscale() == "linear"
    assert plot_curves({"a": [*calm, row | {"epoch": 4, "val_loss": 3841.0}]}).axes[0].get_yscale() == "log"
