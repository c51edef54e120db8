"""Properties of every split: nothing twice, nothing lost, each class in its share, and the same again from the seed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnlab.config import DataConfig
from cnnlab.data.split import NAMES, Split, check_classes, make_split, manifest, part_hash
from cnnlab.errors import DataError

quick = settings(max_examples=80, deadline=None, derandomize=True)
few = settings(max_examples=40, deadline=None, derandomize=True)
fractions = st.sampled_from([0.0, 0.05, 0.1, 0.25, 1 / 3, 0.5, 0.7])
seeds = st.integers(0, 2**40)


def check(split: Split, labels: np.ndarray, classes: list[str]) -> None:
    check_classes(np.bincount(labels[split.train], minlength=len(classes)), classes)


def config(**keys: Any) -> DataConfig:
    return DataConfig(**{"val_fraction": 0.0, "test_fraction": 0.0, **keys})


@st.composite
def labelled(draw: st.DrawFn, least: int = 1, most: int = 30) -> np.ndarray:
    """Labels of classes of different sizes, shuffled."""
    sizes = draw(st.lists(st.integers(least, most), min_size=1, max_size=8))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(draw(st.integers(0, 1000))).permutation(labels)


def all_ok(labels: np.ndarray) -> np.ndarray:
    return np.ones(len(labels), bool)


def counts(part: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels[part], minlength=labels.max() + 1)


def same(a: Split, b: Split) -> bool:
    return all(np.array_equal(a[part], b[part]) for part in NAMES)


def is_partition(split: Split, members: np.ndarray) -> bool:
    return np.array_equal(np.sort(np.concatenate([split[part] for part in NAMES])), members)


@quick
@given(labelled(), fractions, fractions, seeds, st.data())
def test_the_parts_are_disjoint_and_hold_every_readable_image(
    labels: np.ndarray, val: float, test: float, seed: int, data: st.DataObject
) -> None:
    assume(val + test < 1)
    ok = np.array(data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels))))
    split = make_split(labels, ok, None, config(val_fraction=val, test_fraction=test), seed)
    assert is_partition(split, np.flatnonzero(ok))
    assert all((np.diff(split[part]) > 0).all() for part in NAMES)


@quick
@given(labelled(), fractions, fractions, seeds)
def test_every_class_keeps_an_image_to_train_on(labels: np.ndarray, val: float, test: float, seed: int) -> None:
    assume(val + test < 1)
    split = make_split(labels, all_ok(labels), None, config(val_fraction=val, test_fraction=test), seed)
    assert (counts(split.train, labels) >= 1).all()
    check(split, labels, [str(i) for i in range(labels.max() + 1)])


@quick
@given(labelled(least=12, most=60), fractions, seeds)
def test_each_class_is_cut_in_its_share_to_within_an_image(labels: np.ndarray, share: float, seed: int) -> None:
    size = np.bincount(labels)
    for part, key in (("val", "val_fraction"), ("test", "test_fraction")):
        split = make_split(labels, all_ok(labels), None, config(**{key: share}), seed)
        assert len(split[part]) == round(share * len(labels))
        assert (abs(counts(split[part], labels) - share * size) <= 1.5).all()  # rounding the total moves half an image
        assert (abs(counts(split[part], labels) - size * len(split[part]) / len(labels)) < 1 + 1e-9).all()


@quick
@given(labelled(least=12, most=60), st.sampled_from([(0.1, 0.2), (0.25, 0.25), (0.3, 0.5)]), seeds)
def test_both_fractions_are_of_all_images(labels: np.ndarray, shares: tuple[float, float], seed: int) -> None:
    val, test = shares
    split = make_split(labels, all_ok(labels), None, config(val_fraction=val, test_fraction=test), seed)
    assert abs(len(split.test) - test * len(labels)) <= 0.5
    assert abs(len(split.val) - val * len(labels)) <= 1
    assert (abs(counts(split.val, labels) - val * np.bincount(labels)) <= 2.5).all()


def test_known_counts() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    split = make_split(labels, all_ok(labels), None, config(val_fraction=0.1, test_fraction=0.2), 7)
    assert counts(split.test, labels).tolist() == [10, 6, 4]
    assert counts(split.val, labels).tolist() == [5, 3, 2]
    assert counts(split.train, labels).tolist() == [35, 21, 14]


@few
@given(labelled(), seeds)
def test_the_same_seed_gives_the_same_split(labels: np.ndarray, seed: int) -> None:
    settings_ = config(val_fraction=0.2, test_fraction=0.2)
    assert same(*(make_split(labels, all_ok(labels), None, settings_, seed) for _ in range(2)))


def test_another_seed_gives_another_split() -> None:
    labels = np.arange(200) % 5
    settings_ = config(val_fraction=0.2, test_fraction=0.2)
    found = [make_split(labels, all_ok(labels), None, settings_, seed) for seed in range(20)]
    assert len({split.test.tobytes() for split in found}) == 20
    assert len({split.val.tobytes() for split in found}) == 20


def test_every_image_has_the_same_chance() -> None:
    labels = np.arange(40) % 4
    hits = np.zeros(40)
    for seed in range(400):
        hits[make_split(labels, all_ok(labels), None, config(test_fraction=0.25), seed).test] += 1
    assert abs(hits / 400 - 0.25).max() < 0.11  # five standard deviations


@quick
@given(labelled(), fractions, fractions, seeds, st.data())
def test_official_splits_stay_what_they_are(
    labels: np.ndarray, val: float, test: float, seed: int, data: st.DataObject
) -> None:
    assume(val + test < 1)
    official = np.array(data.draw(st.lists(st.sampled_from(NAMES), min_size=len(labels), max_size=len(labels))))
    ok = np.arange(len(labels)) % 7 != 3
    split = make_split(labels, ok, official, config(val_fraction=val, test_fraction=test), seed)
    assert is_partition(split, np.flatnonzero(ok))
    for part in ("val", "test"):
        if (ok & (official == part)).any():
            assert np.array_equal(split[part], np.flatnonzero(ok & (official == part)))
    assert set(split.train) <= set(np.flatnonzero(official == "train"))


def test_a_missing_validation_split_is_cut_from_train_alone() -> None:
    labels = np.arange(100) % 2
    official = np.where(np.arange(100) < 60, "train", "test")
    split = make_split(labels, all_ok(labels), official, config(val_fraction=0.25, test_fraction=0.2), 0)
    assert np.array_equal(split.test, np.arange(60, 100))
    assert counts(split.val, labels).tolist() in ([7, 8], [8, 7])
    assert np.array_equal(np.sort([*split.train, *split.val]), np.arange(60))


@few
@given(labelled(), st.integers(1, 40), seeds)
def test_per_class_train_draws_so_many_of_each_class(labels: np.ndarray, count: int, seed: int) -> None:
    split = make_split(labels, all_ok(labels), None, config(per_class_train=count, test_fraction=0.5), seed)
    size = np.bincount(labels)
    assert counts(split.train, labels).tolist() == np.minimum(size, count).tolist()
    assert counts(split.test, labels).tolist() == np.maximum(size - count, 0).tolist()
    assert is_partition(split, np.arange(len(labels)))


@few
@given(labelled(least=5), st.integers(2, 10), st.integers(1, 12), seeds)
def test_the_caltech_protocol(labels: np.ndarray, train: int, test: int, seed: int) -> None:
    settings_ = config(per_class_train=train, per_class_test=test, val_fraction=0.3)
    split = make_split(labels, all_ok(labels), None, settings_, seed)
    size = np.bincount(labels)
    kept = np.minimum(size, train)
    assert (counts(split.train, labels) + counts(split.val, labels)).tolist() == kept.tolist()
    assert counts(split.test, labels).tolist() == np.minimum(size - kept, test).tolist()
    assert (counts(split.train, labels) >= 1).all()
    assert len(np.unique(np.concatenate([split[part] for part in NAMES]))) == sum(len(split[part]) for part in NAMES)


def test_thirty_a_class_with_a_tenth_for_validation() -> None:
    labels = np.repeat(np.arange(4), [31, 60, 120, 800])
    split = make_split(labels, all_ok(labels), None, config(per_class_train=30, per_class_test=50, val_fraction=0.1), 3)
    assert counts(split.train, labels).tolist() == [27, 27, 27, 27]
    assert counts(split.val, labels).tolist() == [3, 3, 3, 3]
    assert counts(split.test, labels).tolist() == [1, 30, 50, 50]


def test_per_class_train_leaves_an_official_test_untouched() -> None:
    labels = np.arange(100) % 2
    official = np.where(np.arange(100) < 60, "train", "test")
    split = make_split(labels, all_ok(labels), official, config(per_class_train=5), 0)
    assert counts(split.train, labels).tolist() == [5, 5]
    assert np.array_equal(split.test, np.arange(60, 100))


@quick
@given(labelled(least=4, most=60), st.integers(1, 120), seeds)
def test_a_limit_holds_for_each_part_and_keeps_the_shares(labels: np.ndarray, limit: int, seed: int) -> None:
    whole = make_split(labels, all_ok(labels), None, config(val_fraction=0.25, test_fraction=0.25), seed)
    cut = make_split(labels, all_ok(labels), None, config(val_fraction=0.25, test_fraction=0.25, limit=limit), seed)
    for part in NAMES:
        assert len(cut[part]) == min(limit, len(whole[part]))
        assert set(cut[part]) <= set(whole[part])
        present = counts(whole[part], labels) > 0
        if limit >= present.sum():
            assert (counts(cut[part], labels)[present] >= 1).all()
        if len(cut[part]):
            fair = counts(whole[part], labels) * len(cut[part]) / len(whole[part])
            assert (abs(counts(cut[part], labels) - fair) <= 2).all()  # one each at the least moves one more


def test_a_limit_below_the_number_of_classes_names_a_class() -> None:
    labels = np.arange(100) % 10
    split = make_split(labels, all_ok(labels), None, config(limit=3), 0)
    with pytest.raises(DataError, match=r"no readable training image of class 'c\d' and 6 more.*data\.limit"):
        check(split, labels, [f"c{i}" for i in range(10)])


def test_a_class_whose_images_are_all_unreadable_is_named() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    split = make_split(labels, labels != 1, None, config(), 0)
    with pytest.raises(DataError, match="no readable training image of class 'dog';"):
        check(split, labels, ["cat", "dog", "elk"])


def test_a_set_without_a_readable_image_names_a_class() -> None:
    labels = np.array([0, 1, 1])
    split = make_split(labels, np.zeros(3, bool), None, config(val_fraction=0.1, test_fraction=0.2), 0)
    assert [len(split[part]) for part in NAMES] == [0, 0, 0]
    with pytest.raises(DataError, match="'cat' and 1 more"):
        check(split, labels, ["cat", "dog"])


def test_the_quarantined_image_moves_no_other_class() -> None:
    labels = np.repeat([0, 1], 50)
    ok = all_ok(labels)
    ok[3] = False
    split = make_split(labels, ok, None, config(val_fraction=0.2, test_fraction=0.2), 0)
    assert 3 not in np.concatenate([split[part] for part in NAMES])
    assert counts(split.test, labels).sum() == 20


# the manifest

NUMBERS = Split(np.array([0, 2]), np.array([1]), np.array([3]))
TITLES = ["a/ü.png", "b/1.png", "b/2.png", "c.png"]
DIGEST = np.arange(64, dtype=np.uint8).reshape(4, 16)


def sums(digest: np.ndarray = DIGEST, names: list[str] = TITLES, split: Split = NUMBERS) -> dict[str, str]:
    return manifest(split, names, digest, ["x", "y"], DataConfig(), 5)["sha256"]


def test_the_manifest_says_who_is_where_and_how_it_was_cut() -> None:
    settings_ = DataConfig(name="folder", val_fraction=0.25, test_fraction=0.25, limit=9)
    facts = json.loads(json.dumps(manifest(NUMBERS, TITLES, DIGEST, ["x", "y"], settings_, 5)))
    assert facts["members"] == {"train": ["a/ü.png", "b/2.png"], "val": ["b/1.png"], "test": ["c.png"]}
    assert facts["sizes"] == {"train": 2, "val": 1, "test": 1}
    assert (facts["data"], facts["seed"], facts["classes"]) == ("folder", 5, ["x", "y"])
    assert facts["protocol"]["val_fraction"] == 0.25
    assert facts["protocol"]["limit"] == 9


@pytest.mark.parametrize("number", range(4))
def test_a_changed_image_changes_the_hash_of_its_part_alone(number: int) -> None:
    changed = DIGEST.copy()
    changed[number, 7] ^= 1
    part = next(part for part in NAMES if number in NUMBERS[part])
    assert {name for name in NAMES if sums()[name] != sums(changed)[name]} == {part}


def test_a_new_name_or_member_changes_the_hash() -> None:
    assert sums(names=["a/u.png", *TITLES[1:]])["train"] != sums()["train"]
    fewer = sums(split=Split(np.array([0]), np.array([1]), np.array([3])))
    assert fewer["train"] != sums()["train"]
    assert fewer["val"] == sums()["val"]
    assert sums() == sums(DIGEST.copy())


def test_the_hash_tells_where_a_name_ends() -> None:
    one, other = np.zeros((2, 16), np.uint8), np.zeros((2, 16), np.uint8)
    one[0, 0], other[1, 0] = 65, 65
    both = np.array([0, 1])
    assert part_hash(both, ["x", "y"], one) != part_hash(both, ["x", "y"], other)
    assert part_hash(both, ["xy", ""], one) != part_hash(both, ["x", "y"], one)
