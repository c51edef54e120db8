"""`cnnlab look`: the file that a run becomes, from the command line and in a notebook, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cnnlab
from cnnlab.cli import main
from cnnlab.data.preprocess import Preprocess
from cnnlab.look import page
from cnnlab.look.scripts import bundle, read


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VGG on 60 digits; do not write into it beside look.html."""
    folder = tmp_path_factory.mktemp("look") / "run"
    words = ["model=vgg", "model.width=4", "data.limit=60", "trainer.epochs=1", "trainer.threads=1", "logger=none"]
    assert main(["train", *words, f"run.dir={folder}"]) == 0
    return folder


def card_of(file: Path) -> dict[str, object]:
    found = re.search(r'<script id="card" type="application/json">(.*?)</script>', file.read_text(encoding="utf-8"))
    assert found is not None
    return json.loads(found[1])


def test_a_run_becomes_one_file_that_asks_for_no_other(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", str(run)]) == 0
    file = run / "look.html"
    assert capsys.readouterr().out.strip().endswith(str(file))
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(?!data:)[\w/.]""", re.sub(r"<script.*?</script>", "", text, flags=re.S))
    assert "import {" not in text
    assert text.count("</script>") == 4
    card = card_of(file)
    assert len(card["images"]) == 8  # type: ignore[arg-type]
    assert len({image["label"] for image in card["images"]}) > 4  # type: ignore[attr-defined]
    assert file.stat().st_size < 400_000


def test_images_of_ones_own_go_through_the_runs_preprocess(run: Path, tmp_path: Path) -> None:
    pixels = np.arange(400, dtype=np.uint8).reshape(20, 20)
    Image.fromarray(pixels).save(tmp_path / "a <b>.png")
    assert main(["look", str(run), str(tmp_path), "--out", str(tmp_path / "new" / "page.html")]) == 0
    card = card_of(tmp_path / "new" / "page.html")
    (image,) = card["images"]  # type: ignore[misc]
    assert image["name"] == "a <b>.png"
    model, facts = cnnlab.load_run(run)
    expected = model(Preprocess.from_dict(facts["preprocess"])(tmp_path / "a <b>.png")[None])
    (logits,) = card["networks"][0]["logits"]  # type: ignore[index]
    assert torch.allclose(torch.tensor(logits), expected.flatten(), atol=1e-5)


def test_beside_a_run_stands_its_network_as_it_was_before_the_training(run: Path, tmp_path: Path) -> None:
    """The seed draws the weights again: those of a run of no more than one step so small that it changes nothing."""
    words = ["model=vgg", "model.width=4", "data.limit=60", "trainer.epochs=1", "trainer.threads=1", "logger=none"]
    assert (
        main(["train", *words, "optimizer.lr=1e-30", "optimizer.weight_decay=0", f"run.dir={tmp_path / 'still'}"]) == 0
    )
    still, _ = cnnlab.load_run(tmp_path / "still")
    written = page.write_look(run, out=tmp_path / "two.html", beside="untrained")
    first, second = card_of(written)["networks"]  # type: ignore[misc]
    assert (first["title"], second["title"]) == ("run", "run, untrained")
    assert first["logits"] != second["logits"]
    (convolution,) = [module for module in still.modules() if getattr(module, "in_channels", None) == 1]
    _, card = cnnlab.load_run(run)
    state = torch.random.get_rng_state()
    drawn, _ = page._beside(page.RunFolder(run), card, page.UNTRAINED, False)[1:]
    assert torch.equal(state, torch.random.get_rng_state())
    (again,) = [module for module in drawn.modules() if getattr(module, "in_channels", None) == 1]
    assert torch.equal(convolution.weight, again.weight)


def test_two_runs_in_one_page_read_the_same_images_and_know_the_same_classes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "other")
    file = tmp_path / "page.html"
    assert main(["look", str(run), "--beside", str(tmp_path / "other"), "--out", str(file)]) == 0
    first, second = card_of(file)["networks"]  # type: ignore[misc]
    assert (first["title"], second["title"]) == ("run", "other")
    assert first["logits"] == second["logits"]
    words = ["model=mlp", "data.limit=60", "trainer.epochs=1", "trainer.threads=1", "logger=none"]
    assert main(["train", *words, "data.image_size=12", f"run.dir={tmp_path / 'large'}"]) == 0
    few = ["data.limit=60", "model=mlp", "trainer.epochs=1", "trainer.threads=1", "logger=none"]
    pictures = tmp_path / "pictures"
    for label in "ab":
        (pictures / label).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), number).save(pictures / label / f"{number}.png")
    assert main(["train", "data=folder", f"data.root={pictures}", *few, f"run.dir={tmp_path / 'letters'}"]) == 0
    capsys.readouterr()
    for name, reason in (
        ("large", "takes grey images of 12×12 (crop), "),
        ("letters", "has other classes"),
        ("x", "no run"),
    ):
        assert main(["look", str(run), "--beside", str(tmp_path / name), "--out", str(tmp_path / "not.html")]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
    assert not (tmp_path / "not.html").exists()


def test_a_notebook_shows_the_page_in_a_frame(run: Path) -> None:
    frame = cnnlab.look(run, height=500)
    assert frame.file == run / "look.html"
    html = frame._repr_html_()
    assert html.startswith("<iframe")
    assert "height: 500px" in html
    assert html.count('"') == 8  # the page itself is escaped


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda run, folder: ["no/run"], "no/run"),
        (lambda run, folder: [str(run), str(folder / "text.png")], "text.png"),
        (lambda run, folder: [str(run), str(folder / "none.png")], "none.png"),
        (lambda run, folder: [str(without_weights(run, folder))], "has no weights yet"),
        (lambda run, folder: [str(run), "--out", "gs://bucket/x.html"], "--out"),
        (lambda run, folder: [], "--layer"),
        (lambda run, folder: [str(run), "--layer"], "leave out"),
    ],
    ids=["missing", "no image", "no file", "no weights", "an address", "no run", "a run and a layer"],
)
def test_what_cannot_be_shown_is_one_line(
    make: object, words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("no image")
    assert main(["look", *make(run, tmp_path)]) == 2  # type: ignore[operator]
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def header(side: int) -> bytes:
    """A PNG that claims to be side×side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    facts = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", facts) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header(10_000), "10000×10000 pixels are more than 89,478,485"),
        (header(50_000), "more than 89,478,485 pixels"),
        (header(30), "truncated"),
        (b"", "not an image file"),
        (b"\0\0\0\x18ftypheic", "not an image file"),
    ],
    ids=["too large", "a decompression bomb", "cut off", "empty", "another format"],
)
def test_an_image_that_cannot_be_read_is_named_with_the_reason(
    content: bytes, words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content)
    assert main(["look", str(run), str(file), "--out", str(tmp_path / "new" / "page.html")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cnnlab look: {file} cannot be read as an image: ")
    assert words in error
    assert "leave it out" in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == ["a.png"]


OUTPUTS = {  # --out, below the test's folder → what is said
    "folder": "folder is a folder, and the page is one file; give --out {0}/folder/NAME.html",
    "missing/": "is a folder, and the page is one file; give --out {0}/missing/NAME.html",
    "cat.png": "the page is HTML; give --out {0}/cat.html",
    "lesson": "the page is HTML; give --out {0}/lesson.html",
    "file/page.html": "file is a file and not a folder; give another file with --out",
}


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("name", ["look", "layer"])
def test_an_output_that_is_no_html_file_is_refused_with_one_that_is(
    name: str, out: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    assert main(["look", str(run) if name == "look" else "--layer", "--out", f"{tmp_path}/{out}"]) == 2
    error = capsys.readouterr().err
    assert OUTPUTS[out].format(tmp_path).replace("NAME", name) in error
    assert error.count("\n") == 1
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_computed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert main(["look", str(run), "--out", f"{tmp_path}/new/page.html"]) == 2
    assert f"no permission to write in {tmp_path}; give a file in another folder with --out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device on this machine")
def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", "--layer", "--out", "/dev/full"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def without_weights(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder / "bare", ignore=shutil.ignore_patterns("best"))
    return folder / "bare"


def test_more_images_than_a_page_holds_are_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_IMAGES", 1)
    for name in "ab":
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    with pytest.raises(cnnlab.CnnlabError, match="1 images at most, and these are 2"):
        page.write_look(run, [str(tmp_path)])


def test_every_module_is_in_the_script_once_after_those_it_needs() -> None:
    script = bundle("app")
    defined = re.findall(r'^modules\["([\w-]+)"\] = ', script, re.M)
    assert len(defined) == len(set(defined)) > 15
    for name, body in re.findall(r'^modules\["([\w-]+)"\] = (.*?)^\}\)\(\);', script, re.M | re.S):
        for needed in re.findall(r'= modules\["([\w-]+)"\];', body):
            assert defined.index(needed) < defined.index(name)
    assert not re.search(r"^(import|export) ", script, re.M)


def test_a_module_of_the_page_stays_short() -> None:
    for file in (Path(page.__file__).parent / "web").glob("*.js"):
        assert len(file.read_text(encoding="utf-8").splitlines()) < 300, file.name


def test_the_live_page_of_the_docs_has_the_scripts_and_the_style_of_today() -> None:
    docs = Path(__file__).parents[2] / "docs"
    parts = {"style": read("style.css"), "worker": bundle("worker"), "script": bundle("app")}
    pieces = re.split(r"\{\{ (\w+) \}\}", read("page.html"))
    groups = [f"(?P<{name}>.*?)" if name in parts else ".*?" for name in pieces[1::2]]
    pattern = "".join(re.escape(text) + group for text, group in zip(pieces[::2], [*groups, ""], strict=True))
    text = (docs / "look-digits.html").read_text(encoding="utf-8")
    found = re.fullmatch(pattern, text, re.DOTALL)
    again = "make it again: uv run --group dev python docs/look_digits.py"
    assert found, again
    for name, today in parts.items():
        assert found[name] == today, again
    assert len(text.encode()) < 250_000
    train = re.search(r"^TRAIN = \[(.*)\]$", (docs / "look_digits.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert train
    assert f"`cnnlab {' '.join(json.loads(f'[{train[1]}]'))} run.dir=" in (docs / "look.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_about_it_work(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "look.md").read_text(encoding="utf-8")
    commands = [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("cnnlab look ")]
    assert len(commands) == 5
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "plain"):
        shutil.copytree(run, tmp_path / "runs" / name)
    Image.new("L", (8, 8)).save(tmp_path / "cat.jpg")
    for words in commands:
        assert main(words) == 0
    assert sorted(path.name for path in tmp_path.glob("*.html")) == [
        "before.html",
        "cat.html",
        "layer.html",
        "two.html",
    ]
    assert (tmp_path / "runs" / "mine" / "look.html").exists()
