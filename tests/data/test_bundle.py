"""`cnnlab data NAME --bundle FILE.zip`: what is packed is what is read, with the same split."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import cnnlab
from cnnlab.data.bundle import write_bundle
from cnnlab.data.data import Data
from cnnlab.data.split import NAMES
from cnnlab.errors import DataError

if TYPE_CHECKING:
    from conftest import CommandLine


def content(data: Data, part: str) -> list[tuple[str, bytes]]:
    """Class and pixels of each image of a split."""
    return sorted(
        (data.classes[int(data.images.labels[i])], np.asarray(data.images.load_image(int(i))).tobytes())
        for i in data.split[part]
    )


def test_a_bundle_is_read_with_the_same_images_in_the_same_split(tmp_path: Path) -> None:
    data = cnnlab.load_data("digits", limit=60)
    seen: list[tuple[int, int]] = []
    count = write_bundle(data, tmp_path / "digits.zip", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (count, count) == (sum(len(data.split[part]) for part in NAMES),) * 2
    with zipfile.ZipFile(tmp_path / "digits.zip") as bundle:
        bundle.extractall(tmp_path / "unpacked")
    again = cnnlab.load_data("folder", root=str(tmp_path / "unpacked"))
    assert again.classes == data.classes
    for part in NAMES:
        assert content(again, part) == content(data, part)
    for line in (tmp_path / "unpacked" / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((tmp_path / "unpacked" / name).read_bytes()).hexdigest() == digest


def test_a_bundle_of_a_folder_keeps_the_files_and_equal_sets_give_equal_bytes(tmp_path: Path) -> None:
    digits = cnnlab.load_data("digits", limit=60)
    write_bundle(digits, tmp_path / "digits.zip")
    with zipfile.ZipFile(tmp_path / "digits.zip") as bundle:
        bundle.extractall(tmp_path / "unpacked")
    folder = cnnlab.load_data("folder", root=str(tmp_path / "unpacked"))
    for name in ("one.zip", "two.zip"):
        write_bundle(folder, tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as one, zipfile.ZipFile(tmp_path / "digits.zip") as first:
        images = [{one_file.CRC for one_file in file.infolist() if file is not None} for file in (one, first)]
        assert len(images[0] & images[1]) > 100


def test_nothing_is_overwritten_and_nothing_is_left_of_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cnnlab.load_data("digits", limit=20)
    (tmp_path / "there.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match="there already"):
        write_bundle(data, tmp_path / "there.zip")
    assert (tmp_path / "there.zip").read_bytes() == b"mine"
    with pytest.raises(DataError, match="class per image"):
        write_bundle(cnnlab.load_data("multi_digits", limit=20), tmp_path / "several.zip")

    def broken(index: int) -> None:
        raise DataError("cannot be read")

    monkeypatch.setattr(data.images, "load_image", broken)
    with pytest.raises(DataError, match="cannot be read"):
        write_bundle(data, tmp_path / "new.zip")
    assert [file.name for file in tmp_path.iterdir()] == ["there.zip"]


def test_the_command_writes_it_or_says_why_not(command: CommandLine, tmp_path: Path) -> None:
    result = command("data", "digits", "data.limit=20", "--bundle", "d.zip", cwd=tmp_path)
    assert (result.code, result.out) == (0, "bundle  d.zip (60 images)\n")
    for words in (["d.zip"], ["d.tar"], ["nowhere/d.zip"], [""], ["e.zip", "--json"]):
        result = command("data", "digits", "--bundle", *words, cwd=tmp_path)
        assert (result.code, result.out, len(result.error_lines)) == (2, "", 1), words
    assert [file.name for file in tmp_path.iterdir()] == ["d.zip"]
