"""cnnlab explain and cnnlab localize, as a user calls them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import cnnlab
from cnnlab.cli import main

if TYPE_CHECKING:
    from conftest import CommandLine


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "more/a.png")):
        Image.fromarray(np.rint(load_digits().images[number] * (255 / 16)).astype(np.uint8)).save(folder / name)
    return folder


def test_explain_draws_a_map_for_every_image(
    finished_run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "maps"
    assert main(["explain", str(finished_run), str(images), "--out", str(out), "--method", "gradcam"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    answers = cnnlab.Predictor.from_run(finished_run).predict(sorted(images.rglob("*.png")))
    for line, answer in zip(lines, answers, strict=True):
        assert f": {answer.label} {100 * answer.probability:.1f} %" in line
    names = sorted(path.name for path in out.iterdir())
    assert names == ["a-2-gradcam.png", "a-gradcam.png", "b-gradcam.png"]  # two images called a
    for path in out.iterdir():
        with Image.open(path) as image:
            assert image.width > image.height > 200


def test_the_folder_of_the_run_is_where_the_maps_go_by_default(
    finished_run: Path, images: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert main(["explain", str(run), str(images / "a.png"), "--target", "3"]) == 0
    (made,) = (run / "explain").iterdir()
    assert made.suffix == ".png"


def test_the_good_images_are_done_and_the_bad_one_is_named(
    finished_run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "b.png").write_bytes(b"no image")
    for command in ("explain", "localize"):
        out = tmp_path / command
        assert main([command, str(finished_run), str(images), "--out", str(out)]) == 2
        said = capsys.readouterr()
        assert len(said.out.splitlines()) == 2
        assert said.err.count("\n") == 1 and "b.png" in said.err and "the other 2 are done" in said.err
        assert len(list(out.glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--target", "eleven"], "has no class 'eleven'"),
        (["--target", "11"], "has no class '11'"),
        (["--layer", "stage9"], "no layer 'stage9'"),
        (["--layer", "head"], "gives no map"),
        (["--method", "lime"], "invalid choice"),
    ],
)
def test_a_wrong_wish_is_one_line_before_anything_is_drawn(
    finished_run: Path, images: Path, tmp_path: Path, command: CommandLine, words: list[str], reason: str
) -> None:
    result = command("explain", str(finished_run), str(images), "--out", str(tmp_path / "out"), *words)
    assert result.code == 2
    assert len(result.error_lines) == 1 and reason in result.err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_an_mlp_says_that_it_has_no_map(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cnnlab.fit(
        cnnlab.create_model("mlp", image_size=8, in_channels=1),
        cnnlab.load_data("digits", limit=60),
        epochs=1,
        dir=tmp_path / "run",
    )
    for command in ("explain", "localize"):
        assert main([command, str(run.dir), str(images / "a.png")]) == 2
        assert "MLP has no spatial features; use a convolutional model" in capsys.readouterr().err


def test_localize_writes_boxes_as_json_and_as_an_image(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canvas = np.zeros((40, 60), np.uint8)
    canvas[5:21, 30:46] = np.rint(load_digits().images[0] * (255 / 16)).astype(np.uint8).repeat(2, 0).repeat(2, 1)
    Image.fromarray(canvas).save(tmp_path / "page.png")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "blank.png")
    words = ["localize", str(finished_run), str(tmp_path / "page.png"), str(tmp_path / "blank.png")]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    page, blank = map(json.loads, capsys.readouterr().out.splitlines())
    assert blank["objects"] == []
    written = json.loads((tmp_path / "out" / "page.json").read_text())
    assert written["size"] == [60, 40]
    assert written["objects"] == page["objects"]
    for found in page["objects"]:
        left, top, right, bottom = found["box"]
        assert 0 <= left < right <= 60 and 0 <= top < bottom <= 40
        assert found["label"] in map(str, range(10)) and 0 < found["probability"] <= 1
    assert (tmp_path / "out" / "page.png").exists() and (tmp_path / "out" / "blank.png").exists()


def test_a_canvas_below_the_stride_is_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((1, 30), np.uint8)).save(tmp_path / "line.png")
    assert main(["localize", str(finished_run), str(tmp_path / "line.png"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "1×30 pixels is smaller than" in said and said.count("\n") == 1


def test_an_output_folder_that_cannot_be_made_says_so(
    finished_run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["explain", str(finished_run), str(images), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "give another one with --out" in capsys.readouterr().err


def test_a_small_image_among_others_is_named_and_the_others_done(
    finished_run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((1, 30), np.uint8)).save(images / "line.png")
    assert main(["localize", str(finished_run), str(images), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "line.png (an image of 1×30 pixels is smaller" in said.err and "the other 3 are done" in said.err
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_maps_of_several_classes_lie_side_by_side(
    finished_run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target in ("1", "7"):
        words = ["explain", str(finished_run), str(images / "a.png"), "--method", "gradcam", "--target", target]
        assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-gradcam-1.png", "a-gradcam-7.png"]
    for line, target in zip(capsys.readouterr().out.splitlines(), ("1", "7"), strict=True):
        assert f" {target} " in line.split(":", 1)[1]


@pytest.mark.parametrize("step", ["explain", "localize"])
def test_images_that_are_not_there_leave_no_folder(step: str, finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (tmp_path / "damaged.png").write_bytes(b"no image")
    before = sorted(run.iterdir())
    assert main([step, str(run), str(tmp_path / "nowhere.png")]) == 2
    assert main([step, str(run), str(tmp_path / "damaged.png")]) == 2
    assert sorted(run.iterdir()) == before
    assert main([step, str(run), str(tmp_path / "nowhere.png"), "--out", str(tmp_path / "maps")]) == 2
    assert not (tmp_path / "maps").exists()
