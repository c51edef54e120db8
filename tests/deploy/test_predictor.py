"""A run that answers: the same image in every form gives the same answer."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import cnnlab
from cnnlab.cli import main
from cnnlab.data.decode import find_images
from cnnlab.deploy.answers import BATCH, answer_images, folder_name
from cnnlab.errors import CnnlabError, DataError, DeviceError, RunError

if TYPE_CHECKING:
    from conftest import CommandLine

CLASSES = [str(digit) for digit in range(10)]


def digit(number: int) -> np.ndarray:
    """(8, 8) uint8, the pixels that the run was trained on."""
    return np.rint(load_digits().images[number] * (255 / 16)).astype(np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        Image.fromarray(digit(number)).save(path)
    return paths


@pytest.fixture(scope="module")
def predictor(finished_run: Path) -> cnnlab.Predictor:
    return cnnlab.Predictor.from_run(finished_run)


# ---- from Python


def test_of_many_images_only_the_unreadable_one_has_no_answer(predictor: cnnlab.Predictor) -> None:
    images = [(f"{number}", digit(number)) for number in range(BATCH + 6)]
    images[3] = "3", np.zeros(4, np.uint8)
    expected = predictor.predict([image for name, image in images if name != "3"])
    answers = list(answer_images(predictor, iter(images)))
    assert [name for name, _ in answers] == [name for name, _ in images]
    assert isinstance(answers.pop(3)[1], DataError)
    assert [answer.label for _, answer in answers] == [answer.label for answer in expected]


def test_the_likeliest_classes_of_an_answer(predictor: cnnlab.Predictor) -> None:
    answer = predictor.predict(digit(0))[0]
    assert list(answer.top(3).probabilities.items()) == list(answer.probabilities.items())[:3]
    assert answer.top(3).label == answer.label


def test_every_form_of_an_image_gives_the_same_answer(predictor: cnnlab.Predictor, files: list[Path]) -> None:
    expected = predictor.predict(files)
    assert predictor.predict([str(path) for path in files]) == expected
    assert predictor.predict([path.read_bytes() for path in files]) == expected
    assert predictor.predict([Image.open(path) for path in files]) == expected
    assert predictor.predict([digit(number) for number in range(6)]) == expected
    assert predictor.predict([np.stack([digit(number)] * 3, -1) for number in range(6)]) == expected
    assert predictor.predict(path for path in files) == expected


def test_one_image_may_come_alone(predictor: cnnlab.Predictor, files: list[Path]) -> None:
    for alone in (files[0], str(files[0]), files[0].read_bytes(), Image.open(files[0]), digit(0)):
        assert predictor.predict(alone) == predictor.predict([files[0]])


def test_no_images_give_no_answers(predictor: cnnlab.Predictor) -> None:
    assert predictor.predict([]) == []


def test_the_size_of_the_batch_does_not_matter(predictor: cnnlab.Predictor, files: list[Path]) -> None:
    together, alone = predictor.predict(files * 3), predictor.predict(files * 3, batch_size=1)
    assert [answer.label for answer in together] == [answer.label for answer in alone]
    assert [answer.probability for answer in together] == pytest.approx([answer.probability for answer in alone])


def test_an_answer_is_a_distribution_with_the_likeliest_first(predictor: cnnlab.Predictor, files: list[Path]) -> None:
    for answer in predictor.predict(files):
        values = list(answer.probabilities.values())
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)
        assert set(answer.probabilities) == set(CLASSES)
        assert (answer.label, answer.probability) == next(iter(answer.probabilities.items()))


def test_answers_are_those_of_predictions_csv(predictor: cnnlab.Predictor, finished_run: Path) -> None:
    import csv

    with open(finished_run / "predictions.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))[:40]
    answers = predictor.predict([digit(int(line["picture"])) for line in lines])
    for line, answer in zip(lines, answers, strict=True):
        assert answer.label == line["predicted"]
        for name in CLASSES:
            assert answer.probabilities[name] == pytest.approx(float(line[name]), abs=2e-5)


def test_answers_are_those_of_the_model_and_the_preprocess_of_the_card(finished_run: Path, files: list[Path]) -> None:
    model, card = cnnlab.load_run(finished_run)
    pixels = torch.from_numpy(digit(0))[None, None].float() / 255
    mean, std = card["preprocess"]["mean"][0], card["preprocess"]["std"][0]
    with torch.no_grad():
        expected = model((pixels - mean) / std).softmax(1)[0]
    answer = cnnlab.Predictor.from_run(finished_run).predict(files[0])[0]
    assert [answer.probabilities[name] for name in card["classes"]] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_larger_image_is_brought_to_the_size_of_the_network(predictor: cnnlab.Predictor) -> None:
    large = Image.fromarray(digit(3)).resize((64, 64), Image.Resampling.NEAREST)
    small, again = predictor.predict([digit(3), large])
    assert again.probability == pytest.approx(small.probability, abs=0.05)


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"not an image",
        "nowhere.png",
        Path("nowhere.png"),
        np.zeros((8, 8)),
        np.zeros((8, 8), np.int64),
        np.zeros(64, np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((0, 8), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
    ],
    ids=lambda image: f"{type(image).__name__} {getattr(image, 'shape', image)}",
)
def test_what_is_not_an_image_is_refused(image: Any, predictor: cnnlab.Predictor) -> None:
    with pytest.raises(DataError, match="cannot be read as an image"):
        predictor.predict([image])


@pytest.mark.parametrize("thing", [None, 5, [3], [None], {"a": 1}])
def test_what_is_nothing_like_an_image_is_a_plain_error(thing: Any, predictor: cnnlab.Predictor) -> None:
    with pytest.raises((DataError, TypeError)):
        predictor.predict(thing)


def test_one_unreadable_image_is_named(predictor: cnnlab.Predictor, files: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad one.png"
    bad.write_bytes(files[0].read_bytes()[:40])
    with pytest.raises(DataError, match=r"bad one\.png"):
        predictor.predict([*files, bad])


def test_a_folder_is_not_an_image(predictor: cnnlab.Predictor, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        predictor.predict(tmp_path)


def test_a_run_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        cnnlab.Predictor.from_run(tmp_path / "nowhere")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_none_is_refused(device: str, finished_run: Path) -> None:
    with pytest.raises(CnnlabError) as caught:
        cnnlab.Predictor.from_run(finished_run, device)
    assert isinstance(caught.value, DeviceError)


# ---- which files


def test_folders_are_searched_for_images_and_sorted(files: list[Path], tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.PNG", "a/deep/3.jpeg", "notes.txt", "c.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[0], tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    found = list(find_images([str(tmp_path), str(files[0])]))
    expected = [tmp_path / name for name in ("a/1.PNG", "a/deep/3.jpeg", "b/2.png", "c.gif")]
    assert found == [*map(str, expected), str(files[0])]


def test_a_folder_without_images_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        list(find_images([str(tmp_path / "empty")]))
    with pytest.raises(DataError, match="no file or folder"):
        list(find_images([str(tmp_path / "nowhere")]))


# ---- from the command line


def test_predict_prints_a_line_an_image(
    command: CommandLine, predictor: cnnlab.Predictor, finished_run: Path, files: list[Path]
) -> None:
    result = command("predict", finished_run, *files, "--topk", 2)
    assert result.code == 0, result.err
    for path, line, answer in zip(files, result.out.splitlines(), predictor.predict(files), strict=True):
        first, second = list(answer.probabilities.items())[:2]
        shares = [f"{label} {100 * share:.1f} %" for label, share in (first, second)]
        assert line == f"{path}: {shares[0]}  {shares[1]}"


def test_predict_prints_json(
    command: CommandLine, predictor: cnnlab.Predictor, finished_run: Path, files: list[Path]
) -> None:
    result = command("predict", finished_run, files[0].parent, "--json", "--topk", 3)
    assert result.code == 0, result.err
    for path, line, answer in zip(files, result.out.splitlines(), predictor.predict(files), strict=True):
        facts = json.loads(line)
        assert facts["picture"] == str(path)
        assert (facts["label"], facts["probability"]) == (answer.label, pytest.approx(answer.probability))
        assert list(facts["probabilities"]) == list(answer.probabilities)[:3]


def test_predict_reads_standard_input(
    command: CommandLine, predictor: cnnlab.Predictor, finished_run: Path, files: list[Path]
) -> None:
    result = command("predict", finished_run, "-", "--json", stdin=files[1].read_bytes())
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert facts["picture"] == "-"
    assert facts["label"] == predictor.predict(files[1])[0].label


@pytest.mark.parametrize("sent", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_standard_input_that_is_not_an_image_is_one_line(sent: bytes, command: CommandLine, finished_run: Path) -> None:
    result = command("predict", finished_run, "-", stdin=sent)
    assert result.code == 2
    assert len(result.error_lines) == 1
    assert "cannot be read as an image" in result.err


def test_good_images_are_answered_beside_bad_ones(
    command: CommandLine, predictor: cnnlab.Predictor, finished_run: Path, files: list[Path], tmp_path: Path
) -> None:
    bad = [tmp_path / "one.png", tmp_path / "two.png"]
    for file in bad:
        file.write_bytes(b"no image")
    result = command("predict", finished_run, files[0], bad[0], files[1], bad[1], "--json")
    assert result.code == 2
    facts = [json.loads(line) for line in result.out.splitlines()]
    assert [one["picture"] for one in facts] == [str(files[0]), str(files[1])]
    assert [one["label"] for one in facts] == [answer.label for answer in predictor.predict(files[:2])]
    (line,) = result.error_lines
    assert "one.png" in line and "two.png" in line and "The other 2 are done." in line


def test_an_unreadable_image_is_one_line(
    command: CommandLine, finished_run: Path, files: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    result = command("predict", finished_run, files[0], bad)
    assert result.code == 2
    assert len(result.error_lines) == 1
    assert "bad.png" in result.err


def test_more_classes_than_there_are_can_be_asked_for(
    command: CommandLine, finished_run: Path, files: list[Path]
) -> None:
    result = command("predict", finished_run, files[0], "--topk", 99, "--json")
    assert result.code == 0, result.err
    assert sorted(json.loads(result.out)["probabilities"]) == CLASSES


@pytest.mark.parametrize("words", [["--topk", "0"], ["--topk", "-3"], ["--topk", "many"], ["--device", "tpu"]])
def test_wrong_options_are_one_line(
    words: list[str], command: CommandLine, finished_run: Path, files: list[Path]
) -> None:
    result = command("predict", finished_run, files[0], *words)
    assert result.code == 2
    assert len(result.error_lines) == 1


@pytest.mark.parametrize("name", ["my image.png", "Grüße 日本.png", "a=b.png", "'quoted'.png", "-dash.png", "😀.png"])
def test_odd_names_are_no_obstacle(
    name: str, command: CommandLine, finished_run: Path, files: list[Path], tmp_path: Path
) -> None:
    shutil.copy(files[0], tmp_path / name)
    result = command("predict", finished_run, tmp_path / name, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["picture"].endswith(name)


@pytest.mark.skipif(os.name == "nt", reason="Windows names are Unicode")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_name_of_another_encoding_is_shown_or_refused_in_one_line(
    form: list[str], finished_run: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"), "wb") as file:
        file.write(files[0].read_bytes())
    code = main(["predict", str(finished_run), str(tmp_path), *form])  # to a strict UTF-8 stream
    printed = capsys.readouterr()
    assert "caf" in (printed.err if code else printed.out)
    assert (code, len(printed.err.splitlines())) in ((0, 0), (2, 1))


def test_images_of_other_kinds_are_read(command: CommandLine, finished_run: Path, tmp_path: Path) -> None:
    image = Image.fromarray(digit(0))
    kinds = {"a.jpg": "L", "b.bmp": "RGB", "c.webp": "RGBA", "d.tif": "I;16", "e.gif": "P", "f.png": "1"}
    for name, mode in kinds.items():
        form = Image.fromarray(digit(0).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        form.save(tmp_path / name)
    stream = io.BytesIO()
    image.convert("CMYK").save(stream, "JPEG")
    (tmp_path / "g.jpeg").write_bytes(stream.getvalue())
    result = command("predict", finished_run, tmp_path)
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 7


def test_answers_go_into_a_csv_file(finished_run: Path, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    assert main(["predict", str(finished_run), *map(str, files), "--out", str(out), "--topk", "3"]) == 0
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    further = ["label_2", "probability_2", "label_3", "probability_3"]
    assert list(rows[0]) == ["path", "label", "probability", *further]
    answers = cnnlab.Predictor.from_run(finished_run).predict(files)
    for row, file_, answer in zip(rows, files, answers, strict=True):
        assert (row["path"], row["label"]) == (str(file_), answer.label)
        assert float(row["probability"]) == pytest.approx(answer.probability, rel=1e-4)
        assert row["label_3"] == list(answer.probabilities)[2]


def test_images_are_copied_into_a_folder_per_class_and_nothing_is_overwritten(
    finished_run: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    with Image.open(files[0]) as image:
        image.save(tmp_path / "in" / "a.png")
        image.transpose(Image.Transpose.ROTATE_90).transpose(Image.Transpose.ROTATE_270).save(tmp_path / "b.png")
        image.save(tmp_path / "in" / "deeper" / "a.png", compress_level=0)  # the same pixels in another file
    words = ["predict", str(finished_run), str(tmp_path / "in"), "--sort", str(tmp_path / "sorted")]
    label = cnnlab.Predictor.from_run(finished_run).predict(tmp_path / "in" / "a.png")[0].label
    for _ in range(2):  # the second time everything is there
        assert main(words) == 0
        assert sorted(path.name for path in (tmp_path / "sorted").rglob("*.png")) == ["a-2.png", "a.png"]
    assert (tmp_path / "sorted" / label / "a.png").read_bytes() == (tmp_path / "in" / "a.png").read_bytes()
    assert f"{Path('sorted') / label}  (2 images)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("label", "folder"),
    [("T-shirt/top", "T-shirt_top"), ("cat", "cat"), ("..", "_"), ("a:b. ", "a_b_"), (".git", "_git")],
)
def test_a_class_names_a_folder_on_every_system(label: str, folder: str) -> None:
    assert folder_name(label) == folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "answers"], "--out answers.csv"),
        (["--sort", "file"], "is not a folder"),
        (["-", "--sort", "sorted"], "standard input"),
        (["in", "--sort", "in/sorted"], "whose images are read"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_an_image_is_read(
    words: list[str],
    said: str,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("", encoding="utf-8")
    assert main(["predict", str(finished_run), "nothing.png", *words]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
