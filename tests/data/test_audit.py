"""What is planted into a clean set of images is found, by name, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnlab.data.audit import Audit, audit, class_counts, exact_duplicates, near_duplicates, pool, standardised
from cnnlab.data.data import Data
from cnnlab.data.describe import as_text, facts
from cnnlab.data.load import load_data
from cnnlab.data.pixels import pack


def photograph(seed: int, size: int = 48) -> Image.Image:
    """Something smooth and large, as photographs are, and not like any other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """36 different photographs in train, val and test, two classes."""
    seed = 0
    for part, count in (("train", 10), ("val", 4), ("test", 4)):
        for name in ("cat", "dog"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(count):
                photograph(seed).save(tmp_path / "set" / part / name / f"{i}.png")
                seed += 1
    return tmp_path / "set"


def opened(root: Path, **keys: object) -> Data:
    return load_data("folder", root=root, augment="none", workers=0, **keys)


def found(root: Path, **keys: object) -> Audit:
    return audit(opened(root, **keys))


def test_a_clean_set_is_clean(root: Path) -> None:
    findings = found(root)
    assert findings.clean
    assert findings.near_checked
    assert findings == Audit([], [], [], [], [], findings.class_counts, True)


def test_the_digits_hold_no_exact_duplicate_across_the_classes() -> None:
    findings = audit(load_data("digits", limit=150, augment="none"))
    assert findings.label_conflicts == []
    assert findings.unreadable == []


def test_class_counts_are_by_class_and_split(root: Path) -> None:
    expected = {"train": 10, "val": 4, "test": 4}
    assert class_counts(opened(root)) == found(root).class_counts == {"cat": expected, "dog": expected}


def test_an_exact_duplicate_is_found_by_name(root: Path) -> None:
    shutil.copy(root / "train/cat/3.png", root / "train/cat/copy.png")
    findings = found(root)
    assert findings.exact == [["train/cat/3.png", "train/cat/copy.png"]]
    assert (findings.near, findings.leaks, findings.label_conflicts, findings.unreadable) == ([], [], [], [])
    assert not findings.clean


def test_of_three_equal_files_all_are_named(root: Path) -> None:
    for name in ("x", "y"):
        shutil.copy(root / "train/cat/3.png", root / f"train/cat/{name}.png")
    assert found(root).exact == [["train/cat/3.png", "train/cat/x.png", "train/cat/y.png"]]


@pytest.mark.parametrize(
    "change", ["jpeg", "low quality", "smaller", "brighter", "webp"], ids=lambda change: change.replace(" ", "-")
)
def test_a_re_encoded_image_is_a_near_duplicate(root: Path, change: str) -> None:
    original, target = Image.open(root / "train/cat/3.png"), root / "train/cat/other.jpg"
    if change == "jpeg":
        original.save(target, quality=90)
    elif change == "low quality":
        original.save(target, quality=30)
    elif change == "smaller":
        original.resize((40, 40)).save(target, quality=90)
    elif change == "brighter":
        Image.fromarray((np.asarray(original) * 0.8 + 30).astype(np.uint8)).save(target, quality=95)
    else:
        target = target.with_suffix(".webp")
        original.save(target, quality=80)
    findings = found(root)
    ((first, second, correlation),) = findings.near
    assert (first, second) == ("train/cat/3.png", f"train/cat/{target.name}")
    assert 0.97 <= correlation <= 1
    assert (findings.exact, findings.leaks) == ([], [])


def test_an_image_in_two_splits_is_a_leak_exact_or_near(root: Path) -> None:
    shutil.copy(root / "train/dog/1.png", root / "test/dog/leaked.png")
    Image.open(root / "train/cat/2.png").save(root / "val/cat/again.jpg", quality=85)
    findings = found(root)
    assert {(leak["kind"], *leak["splits"], *leak["names"]) for leak in findings.leaks} == {
        ("exact", "train", "test", "train/dog/1.png", "test/dog/leaked.png"),
        ("near", "train", "val", "train/cat/2.png", "val/cat/again.jpg"),
    }


def test_an_image_in_all_three_splits_is_named_in_each(root: Path) -> None:
    for part in ("val", "test"):
        shutil.copy(root / "train/dog/1.png", root / part / "dog" / "leaked.png")
    named = {name for leak in found(root).leaks for name in leak["names"]}
    assert named == {"train/dog/1.png", "val/dog/leaked.png", "test/dog/leaked.png"}


def test_the_same_file_in_two_classes_is_a_conflict(root: Path) -> None:
    shutil.copy(root / "train/cat/5.png", root / "train/dog/wrong.png")
    findings = found(root)
    assert findings.label_conflicts == [["train/cat/5.png", "train/dog/wrong.png"]]
    assert findings.exact == findings.label_conflicts
    assert findings.leaks == []


def test_a_corrupt_file_is_found_by_name_with_its_reason(root: Path) -> None:
    (root / "train/cat/7.png").write_text("I am no image")
    data = (root / "test/dog/2.png").read_bytes()
    (root / "test/dog/2.png").write_bytes(data[: len(data) // 2])
    findings = found(root, max_corrupt=0.1)
    assert [row["name"] for row in findings.unreadable] == ["test/dog/2.png", "train/cat/7.png"]
    assert all(row["reason"] for row in findings.unreadable)
    assert findings.class_counts["cat"]["train"] == 9
    assert findings.exact == []


def test_two_unreadable_files_with_the_same_bytes_are_no_duplicates(root: Path) -> None:
    for name in ("train/cat/7.png", "train/dog/7.png"):
        (root / name).write_text("I am no image")
    findings = found(root, max_corrupt=0.1)
    assert (findings.exact, findings.label_conflicts) == ([], [])


def test_flat_images_of_different_levels_are_no_near_duplicates(root: Path) -> None:
    for level in (0, 100, 255):
        Image.new("RGB", (48, 48), (level, level, level)).save(root / f"train/cat/flat{level}.png")
    assert found(root).near == []


def test_a_mirror_image_and_a_negative_are_no_duplicates(root: Path) -> None:
    pixels = np.asarray(Image.open(root / "train/cat/0.png"))
    Image.fromarray(pixels[:, ::-1].copy()).save(root / "train/cat/mirror.png")
    Image.fromarray(255 - pixels).save(root / "train/cat/negative.png")
    assert found(root).clean


def test_the_same_drawing_in_another_colour_is_no_near_duplicate(root: Path) -> None:
    shape = np.zeros((48, 48, 3), np.uint8)
    shape[10:30, 15:40] = 255
    for name, colour in (("red", [255, 0, 0]), ("blue", [0, 0, 255])):
        Image.fromarray(np.where(shape > 0, np.array(colour, np.uint8), np.uint8(0))).save(
            root / f"train/cat/{name}.png"
        )
    assert found(root).near == []


def test_near_duplicates_are_found_where_training_images_are_stored_for_random_crops(root: Path) -> None:
    Image.open(root / "train/cat/2.png").save(root / "val/cat/again.jpg", quality=85)
    data = load_data("folder", root=root, augment="standard", image_size=64, fit="squash")
    assert data.train.pixels is not data.val.pixels
    assert [pair[:2] for pair in audit(data).near] == [("train/cat/2.png", "val/cat/again.jpg")]


def test_while_streaming_only_exact_duplicates_are_sought_and_that_is_said(root: Path) -> None:
    shutil.copy(root / "train/cat/3.png", root / "train/cat/copy.png")
    Image.open(root / "train/cat/2.png").save(root / "val/cat/again.jpg", quality=85)
    data = opened(root, storage="stream")
    findings = audit(data)
    assert findings.exact == [["train/cat/3.png", "train/cat/copy.png"]]
    assert (findings.near, findings.near_checked) == ([], False)
    assert "near duplicates were not searched for" in as_text(facts(data, findings))


def test_the_report_names_everything_and_is_json(root: Path) -> None:
    shutil.copy(root / "train/cat/5.png", root / "test/dog/wrong.png")
    Image.open(root / "train/cat/2.png").save(root / "train/cat/again.jpg", quality=85)
    (root / "train/cat/7.png").write_text("I am no image")
    data = opened(root, max_corrupt=0.1)
    findings = audit(data)
    described = facts(data, findings)
    assert json.loads(json.dumps(described))["check"]["exact"] == [["train/cat/5.png", "test/dog/wrong.png"]]
    text = as_text(described)
    for name in ("train/cat/5.png", "test/dog/wrong.png", "train/cat/again.jpg", "train/cat/7.png"):
        assert name in text
    assert dataclasses.asdict(findings)["unreadable"][0]["name"] == "train/cat/7.png"


# the parts


def test_exact_duplicates_are_groups_of_equal_digests() -> None:
    digest = np.zeros((6, 16), np.uint8)
    digest[:, 3] = [1, 2, 1, 3, 2, 1]
    assert exact_duplicates(np.arange(6), digest) == [[0, 2, 5], [1, 4]]
    assert exact_duplicates(np.array([3, 4, 5]), digest) == []


def test_near_duplicates_are_pairs_with_their_correlation() -> None:
    images = np.stack([np.asarray(photograph(seed, 32)) for seed in range(6)])
    noisy = np.clip(images[4].astype(int) + np.random.default_rng(0).integers(-6, 7, images[4].shape), 0, 255)
    images[1] = noisy
    ((i, j, correlation),) = near_duplicates(pack(images), np.array([5, 4, 3, 2, 1, 0]))
    assert {i, j} == {1, 4}
    flat = [images[k].astype(float).ravel() for k in (1, 4)]
    assert correlation == pytest.approx(np.corrcoef(flat)[0, 1], abs=2e-3)


def test_thumbnails_are_means_and_standardised_rows_have_length_1() -> None:
    stored = torch.randint(0, 256, (3, 64, 64, 4), dtype=torch.uint8)
    grey = stored[..., :3].double().mean(-1)
    expected = grey.view(3, 16, 4, 16, 4).mean((2, 4)).flatten(1)
    torch.testing.assert_close(pool(stored).double(), expected, atol=1e-3, rtol=0)
    rows = standardised(expected)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3).double())
    assert not standardised(torch.full((1, 5), 7.0)).any()
