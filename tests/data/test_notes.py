"""What a set of one's own hides from its owner is said before the training: a line each, with what to do."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnlab.cli import main
from cnnlab.data.data import Data
from cnnlab.data.load import load_data
from cnnlab.data.notes import copies_apart, look_command, notes
from cnnlab.errors import DataError
from cnnlab.fitting import fit
from cnnlab.models.registry import create_model
from cnnlab.tracking.base import Event, Noted


def write_set(root: Path, *places: str, count: int = 6) -> Path:
    """Different images in each of these folders."""
    random = np.random.default_rng(0)
    for place in places:
        (root / place).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(root / place / f"{i}.png")
    return root


def opened(root: Path, **keys: object) -> Data:
    return load_data("folder", root=root, augment="none", workers=0, **keys)


def test_a_sound_set_has_no_notes(tmp_path: Path) -> None:
    assert notes(opened(write_set(tmp_path, "cat", "dog"))) == []
    assert notes(load_data("digits", limit=50)) == []


def test_files_that_are_no_images_are_counted_by_kind_with_the_remedy(tmp_path: Path) -> None:
    root = write_set(tmp_path, "cat", "dog")
    for name in ("cat/a.HEIC", "dog/b.heic", "dog/notes.txt", "dog/.hidden", "cat/Thumbs.db"):
        (root / name).write_bytes(b"no image")
    (line,) = notes(opened(root))
    assert line == "files left out, as they are not readable images: 3 (2 .heic, 1 .txt); convert .heic to JPEG or PNG."


def test_a_class_of_one_format_that_cannot_be_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    root = write_set(tmp_path, "cat", "dog")
    (root / "mouse").mkdir()
    (root / "mouse" / "a.HEIC").touch()
    with pytest.raises(DataError, match=r"only files such as \*\.heic\); convert \.heic to JPEG or PNG"):
        opened(root)


def test_images_beside_the_class_folders_are_counted(tmp_path: Path) -> None:
    root = write_set(tmp_path, "cat", "dog")
    shutil.copy(root / "cat" / "0.png", root / "loose.png")
    (line,) = notes(opened(root))
    assert line.startswith("images next to the class folders, not used: 1; move each")


def test_splits_without_a_folder_are_said_to_be_cut_from_train(tmp_path: Path) -> None:
    root = write_set(tmp_path, "train/cat", "train/dog", "valid/cat", "valid/dog", "more/cat")
    beside, cut = notes(opened(root))
    assert cut.startswith("there is no folder test: 2 test images were cut from train")
    assert "data.test_fraction" in cut and "val_fraction" not in cut
    assert beside.startswith("folders next to train, not used: more;")
    assert not any("cut" in line for line in notes(opened(root, test_fraction=0)))
    assert any("cut" in line for line in notes(opened(root, limit=4)))


def test_one_file_in_two_classes_or_splits_is_said_with_the_command_that_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path / "my photos", "train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog")
    shutil.copy(root / "train/cat/1.png", root / "train/dog/same.png")
    shutil.copy(root / "train/dog/2.png", root / "test/dog/seen.png")
    classes, splits = notes(opened(root))
    assert classes.startswith("1 file is in two classes, byte for byte (train/cat/1.png = train/dog/same.png); to see")
    assert splits.startswith("1 file is in two splits, byte for byte (train/dog/2.png = test/dog/seen.png); to see")

    command = classes.partition("; to see them: ")[2]
    assert main(shlex.split(command)[1:]) == 0  # as it is typed
    printed = capsys.readouterr().out
    assert "same file in two classes: 1; keep it in the correct class" in printed
    assert "exact duplicates in a class: 1; keep one of each" in printed
    assert "leaks, the same image in two splits: 1 " in printed
    for pair in ("train/cat/1.png = train/dog/same.png", "train/dog/2.png = test/dog/seen.png  (in train and test)"):
        assert printed.count(pair) == 1


def test_fit_says_the_notes_before_the_training(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "cat", "dog")
    (root / "cat" / "a.heic").touch()
    data = opened(root)
    heard: list[Event] = []

    class Listener:
        def log(self, event: Event) -> None:
            heard.append(event)

        def close(self) -> None: ...

    model = create_model("mlp", hidden=[4], num_classes=2, in_channels=3, image_size=data.image_size)
    fit(model, data, epochs=1, dir=tmp_path / "run", trackers=[Listener()], progress=False)
    first = heard[0]
    assert isinstance(first, Noted) and first.warning and "1 .heic" in first.text


def test_a_check_goes_on_at_an_empty_class_folder_and_training_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path, "cat", "dog")
    (root / "mouse").mkdir()
    assert main(["data", "folder", f"data.root={root}", "--check"]) == 0
    printed = capsys.readouterr().out
    assert "class folder mouse has no images (no files) and is left out; add some, or delete the folder." in printed
    assert "unreadable images: none" in printed
    assert main(["train", "data=folder", f"data.root={root}"]) == 2
    assert "mouse has no images (no files)" in capsys.readouterr().err


def test_empty_class_folders_alone_are_no_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    assert main(["data", "folder", f"data.root={tmp_path}", "--check"]) == 2
    assert "holds no images in its class folders" in capsys.readouterr().err


def test_the_refusal_of_damaged_files_names_a_command_that_can_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path / "my photos", "cat", "dog")
    (root / "cat" / "0.png").write_text("no image")
    with pytest.raises(DataError) as caught:
        opened(root)
    command = shlex.split(str(caught.value).partition(" To see them all: ")[2])
    assert command[0] == "cnnlab" and main(command[1:]) == 0
    assert "unreadable images: 1; replace or delete them\n  cat/0.png: not an image file" in capsys.readouterr().out


def test_commands_that_show_a_set_can_be_typed() -> None:
    data = load_data("digits", limit=50)
    assert look_command(data.config.data, "--check") == "cnnlab data digits --check"


def test_copies_are_counted_where_they_lie_apart() -> None:
    digest = np.zeros((7, 16), np.uint8)
    digest[:, 0] = [1, 2, 1, 2, 3, 1, 4]
    assert copies_apart(digest, np.array([0, 1, 0, 2, 0, 5, 0])) == (2, [0, 5])
    assert copies_apart(digest, np.zeros(7, int)) == (0, [])
    assert copies_apart(digest[:0], np.zeros(0, int)) == (0, [])


def test_copies_among_300_000_images_take_a_moment() -> None:
    random = np.random.default_rng(0)
    digest = random.integers(0, 256, (300_000, 16), np.uint8)
    digest[150_000:200_000] = digest[:50_000]
    parts = np.repeat([0, 1], 150_000)
    began = time.process_time()
    assert copies_apart(digest, parts)[0] == 50_000
    assert time.process_time() - began < 5
