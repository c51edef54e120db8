"""What the network sees: the same images from memory, disk and stream, at any batch size, from any starting batch."""

from __future__ import annotations

import dataclasses
import gc
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from cnnlab.config import AugmentConfig, compose
from cnnlab.data.augment import Augmentation
from cnnlab.data.build import build_data
from cnnlab.data.data import Data
from cnnlab.data.decode import Layout
from cnnlab.data.load import load_data
from cnnlab.data.loader import AHEAD, Loader, Streamed
from cnnlab.data.measure import measure
from cnnlab.data.pixels import pack
from cnnlab.data.preprocess import Preprocess
from cnnlab.data.sources.base import ArraySet
from cnnlab.data.store import ReadAhead, reader_ahead
from cnnlab.errors import CnnlabError, ConfigError, DataError

COUNT = 26
NUMBERS = np.r_[3:20, 24:33]  # of 40 images, so that numbers and places in the split differ
LABELS = np.arange(40) % 3


def shipped(name: str, **changes: Any) -> AugmentConfig:
    return dataclasses.replace(compose([f"augment={name}"]).augment, **changes)


AUGMENTATIONS: dict[str, AugmentConfig | None] = {
    "nothing": None,
    "none": shipped("none"),
    "light": shipped("light"),
    "standard": shipped("standard"),
    "strong": shipped("strong"),
    "standard, resized": shipped("standard", crop="resized"),
    "strong, resized": shipped("strong", crop="resized"),
    "cutmix": shipped("standard", cutmix=1.0),
    "cutmix, resized": shipped("strong", mixup=0.0, cutmix=0.5, crop="resized"),
    "growing": shipped("strong", start_size=0.5),
    "growing, resized": shipped("strong", start_size=0.25, end_size=0.75, crop="resized"),
    "alternate": AugmentConfig(flip="alternate", crop="pad", padding_mode="zero", cutout=0.4),
}
every_augmentation = pytest.mark.parametrize("augmentation", AUGMENTATIONS)


def array_set(channels: int = 3, side: int = 10) -> ArraySet:
    shape = (40, side, side, 3) if channels == 3 else (40, side, side)
    return ArraySet(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), LABELS, ["a", "b", "c"])


def preprocess(channels: int = 3, side: int = 8) -> Preprocess:
    layout = Layout(side, side, "RGB" if channels == 3 else "L")
    return Preprocess(layout, (0.5, 0.4, 0.3)[:channels], (0.2, 0.25, 0.3)[:channels])


def make_loader(name: str, batch_size: int = 7, channels: int = 3, storage: str = "memory", **keys: Any) -> Loader:
    """A training loader over random images; for resized crops the stored images are larger than the crops."""
    config = AUGMENTATIONS[name]
    side = 10 if config and config.crop == "resized" else 8
    images = array_set(channels, side)
    assert images.array is not None
    pixels: Tensor | Streamed = pack(images.array)
    if storage == "mmap":
        file = keys.pop("folder") / "pixels.u8"
        assert isinstance(pixels, Tensor)
        pixels.numpy().tofile(file)
        pixels = torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=tuple(pixels.shape)))
    elif storage == "stream":
        pixels = Streamed(images, Layout(side, side, images.mode), keys.pop("workers", 0))
    augmentation = Augmentation(config, 8, 8) if config else None
    options = {"shuffle": True, "seed": 5, **keys}
    return Loader(pixels, LABELS, NUMBERS, preprocess(channels), batch_size, augmentation, **options)


def whole(loader: Loader, epoch: int = 0, start: int = 0) -> list[Tensor]:
    """All batches of an epoch as one, field by field; shorter where there is nothing mixed."""
    fields = zip(*loader.epoch(epoch, start), strict=True)
    return [torch.cat(parts) for parts in fields if parts[0] is not None]


def assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


# what an image looks like in an epoch


@every_augmentation
@pytest.mark.parametrize("batch_size", [1, 7, 25])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_an_image_looks_like_does_not_depend_on_the_batch_size(
    augmentation: str, batch_size: int, channels: int
) -> None:
    for epoch in (0, 3):
        reference = whole(make_loader(augmentation, COUNT, channels), epoch)
        assert len(reference[0]) == COUNT
        seen = whole(make_loader(augmentation, batch_size, channels), epoch)
        assert len(seen[0]) == COUNT // batch_size * batch_size
        assert_equal(seen, [field[: len(seen[0])] for field in reference])


@every_augmentation
@pytest.mark.parametrize("storage", ["mmap", "stream"])
@pytest.mark.parametrize("channels", [1, 3])
def test_memory_map_and_stream_give_the_same_batches_as_memory(
    tmp_path: Path, augmentation: str, storage: str, channels: int
) -> None:
    keys = {"folder": tmp_path} if storage == "mmap" else {}
    other = make_loader(augmentation, 7, channels, storage, **keys)
    assert_equal(whole(other, 2), whole(make_loader(augmentation, 7, channels), 2))


def test_worker_processes_give_the_same_batches() -> None:
    loader = make_loader("strong", 6, storage="stream", workers=2)
    assert_equal(whole(loader, 1), whole(make_loader("strong", 6), 1))


@given(st.sampled_from(list(AUGMENTATIONS)), st.integers(1, 30), st.integers(0, 5), st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_starting_at_a_batch_continues_exactly(name: str, batch_size: int, epoch: int, data: st.DataObject) -> None:
    loader = make_loader(name, batch_size, storage=data.draw(st.sampled_from(["memory", "stream"])))
    batches = list(loader.epoch(epoch))
    assert len(batches) == len(loader) == max(1, COUNT // batch_size)
    start = data.draw(st.integers(0, len(loader)))
    rest = list(loader.epoch(epoch, start))
    assert len(rest) == len(loader) - start
    for one, other in zip(batches[start:], rest, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@every_augmentation
def test_an_epoch_is_the_same_again_and_another_one_differs(augmentation: str) -> None:
    loader = make_loader(augmentation)
    first = whole(loader, 4)
    whole(loader, 1)
    assert_equal(whole(loader, 4), first)
    assert not torch.equal(whole(loader, 5)[0], first[0])
    assert not torch.equal(whole(make_loader(augmentation, seed=6), 4)[0], first[0])


def test_iterating_gives_images_and_labels_of_one_epoch_after_the_other() -> None:
    loader, other = make_loader("standard"), make_loader("standard")
    for epoch in range(3):
        batches = list(loader)
        assert len(batches) == len(loader) == 3
        assert_equal([torch.cat(parts) for parts in zip(*batches, strict=True)], whole(other, epoch)[:2])


@every_augmentation
def test_a_batch_has_the_promised_shapes_and_types(augmentation: str) -> None:
    config = AUGMENTATIONS[augmentation]
    side = Augmentation(config, 8, 8).at(0.0).height if config else 8
    batch = next(make_loader(augmentation, 5).epoch(0))
    assert batch.images.shape == (5, 3, side, side)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(batch.images).all()
    assert batch.targets.dtype == batch.members.dtype == torch.int64
    assert batch.targets.tolist() == LABELS[NUMBERS[batch.members.numpy()]].tolist()
    mixed = AUGMENTATIONS[augmentation] is not None and bool(
        AUGMENTATIONS[augmentation].mixup or AUGMENTATIONS[augmentation].cutmix  # type: ignore[union-attr]
    )
    assert (batch.second is not None) == (batch.share is not None) == mixed


def test_a_training_epoch_visits_each_image_once_but_for_the_last_incomplete_batch() -> None:
    members = whole(make_loader("standard", 5))[2]
    assert len(members) == 25
    assert len(members.unique()) == 25


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    loader = make_loader("none", 100)
    assert len(loader) == 1
    assert [len(batch.targets) for batch in loader.epoch(0)] == [COUNT]


def test_without_augmentation_a_training_image_is_the_stored_one() -> None:
    loader = make_loader("none")
    assert isinstance(loader.pixels, Tensor)
    images, _, members = whole(loader)
    expected = loader.preprocess.normalise(loader.pixels[torch.from_numpy(NUMBERS)[members]])
    assert torch.equal(images, expected)


def test_a_flip_is_a_flip_and_nothing_else() -> None:
    config = AugmentConfig(flip="random")
    images = array_set(side=8)
    assert images.array is not None
    loader = Loader(pack(images.array), LABELS, NUMBERS, preprocess(), COUNT, Augmentation(config, 8, 8), shuffle=True)
    (batch,) = loader.epoch(0)
    plain = loader.preprocess.normalise(pack(images.array)[torch.from_numpy(NUMBERS)[batch.members]])
    same = (batch.images == plain).flatten(1).all(1)
    mirrored = (batch.images == plain.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 5 < mirrored.sum() < 21


@pytest.mark.parametrize("hole", [{"erasing": 1.0}, {"cutout": 0.5}])
def test_a_hole_has_the_mean_colour_and_the_rest_is_untouched(hole: dict[str, float]) -> None:
    images = array_set(side=8)
    assert images.array is not None
    augmentation = Augmentation(AugmentConfig(**hole), 8, 8)
    loader = Loader(pack(images.array), LABELS, NUMBERS, preprocess(), COUNT, augmentation, shuffle=True)
    (batch,) = loader.epoch(0)
    plain = loader.preprocess.normalise(pack(images.array)[torch.from_numpy(NUMBERS)[batch.members]])
    hidden = (batch.images == 0).all(1, keepdim=True)
    assert torch.equal(batch.images, plain.masked_fill(hidden, 0))
    assert 0.01 < hidden.float().mean() < 0.5
    assert loader.preprocess.denormalise(torch.zeros(1, 3, 1, 1)).flatten().tolist() == [128, 102, 76]


def test_colours_change_before_the_normalisation() -> None:
    """Flat images: after the normalisation is undone, what is left is level × factor, up to white."""
    levels = np.repeat(np.arange(40, dtype=np.uint8)[:, None] * 4 + 20, 3, 1)
    pixels = pack(np.broadcast_to(levels[:, None, None], (40, 8, 8, 3)).copy())
    config = AugmentConfig(brightness=0.5)
    loader = Loader(pixels, LABELS, NUMBERS, preprocess(), COUNT, Augmentation(config, 8, 8), shuffle=True)
    (batch,) = loader.epoch(0)
    seen = batch.images.permute(0, 2, 3, 1).numpy() * [0.2, 0.25, 0.3] + [0.5, 0.4, 0.3]
    factors = seen / (levels[NUMBERS[batch.members.numpy()]] / 255)[:, None, None]
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1, :1], factors.shape), atol=1e-4)
    one_each = factors[:, 0, 0, 0]
    assert 0.5 - 1e-4 <= one_each.min() < 0.65
    assert 1.35 < one_each.max() <= 1.5 + 1e-4


# mixed images


def constant_loader(config: AugmentConfig) -> Loader:
    """Every image is flat, of the level 5 × its number, so that shares can be read from pixels."""
    levels = (5 * np.arange(40)).astype(np.uint8)
    pixels = pack(np.broadcast_to(levels[:, None, None], (40, 20, 20)).copy())
    plain = Preprocess(Layout(20, 20, "L"), (0.0,), (1.0,))
    return Loader(pixels, np.arange(40), NUMBERS, plain, COUNT, Augmentation(config, 20, 20), shuffle=True)


def test_mixup_adds_two_images_in_the_stated_shares() -> None:
    batch = next(constant_loader(AugmentConfig(mixup=0.8)).epoch(0))
    assert batch.second is not None
    assert batch.share is not None
    level = batch.images[:, 0] * 255
    expected = 5 * (batch.share * batch.targets + (1 - batch.share) * batch.second)
    torch.testing.assert_close(level, expected[:, None, None].expand_as(level), atol=1e-3, rtol=0)
    assert batch.targets.tolist() == NUMBERS[batch.members.numpy()].tolist()
    assert len(batch.share.unique()) > 20
    assert sorted(batch.second.tolist()) == sorted(batch.targets.tolist())


def test_cutmix_states_the_share_that_is_truly_left() -> None:
    batch = next(constant_loader(AugmentConfig(cutmix=1.0)).epoch(0))
    assert batch.second is not None
    assert batch.share is not None
    level = (batch.images[:, 0] * 255).round().long()
    for i in range(COUNT):
        first, second = 5 * int(batch.targets[i]), 5 * int(batch.second[i])
        assert set(level[i].flatten().tolist()) <= {first, second}
        if first != second:
            assert (level[i] == first).float().mean() == pytest.approx(float(batch.share[i]), abs=1e-6)
            rows, columns = torch.nonzero(level[i] == second, as_tuple=True)
            if len(rows):
                height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
                assert height * width == len(rows)  # one rectangle
    assert (batch.share < 0.9).any()


def test_the_second_image_is_augmented_by_its_own_draws() -> None:
    """It looks as it does as the first image of its own place in the epoch."""
    config = AUGMENTATIONS["strong"]
    assert config is not None
    mixed, alone = make_loader("strong", COUNT), make_loader("strong", COUNT)
    alone.augmentation = Augmentation(dataclasses.replace(config, mixup=0.0), 8, 8)
    (batch,), (single,) = mixed.epoch(0), alone.epoch(0)
    assert torch.equal(batch.members, single.members)
    assert batch.share is not None
    remainder = batch.images - batch.share[:, None, None, None] * single.images
    other = remainder / (1 - batch.share[:, None, None, None])
    clear = batch.share < 0.7
    assert clear.sum() > 3
    distance = (other[clear, None] - single.images[None]).abs().amax((2, 3, 4))  # to every image of the epoch
    assert distance.amin(1).max() < 1e-3


# evaluation


def test_an_evaluation_loader_is_in_order_whole_and_the_same_every_time() -> None:
    dataset = array_set(side=8)
    assert dataset.array is not None
    loader = Loader(pack(dataset.array), LABELS, NUMBERS, preprocess(), 7, Augmentation(shipped("strong"), 8, 8))
    assert len(loader) == 4
    assert [len(batch.targets) for batch in loader.epoch()] == [7, 7, 7, 5]
    for epoch in (0, 1):
        images, labels, members = whole(loader, epoch)
        assert members.tolist() == list(range(COUNT))
        assert labels.tolist() == LABELS[NUMBERS].tolist()
        assert torch.equal(images, loader.preprocess.normalise(pack(dataset.array)[NUMBERS]))
    assert_equal(whole(loader, 0, 2), [field[14:] for field in whole(loader)])


def test_an_empty_split_has_no_batches() -> None:
    images = array_set(side=8)
    assert images.array is not None
    for pixels in (pack(images.array), Streamed(images, Layout(8, 8, "RGB"), 2)):
        loader = Loader(pixels, LABELS, np.array([], np.int64), preprocess(), 7)
        assert (len(loader), loader.count, list(loader.epoch())) == (0, 0, [])


# whole data sets


def write_folder(root: Path, count: int = 12, classes: str = "abc", ending: str = "png", side: int = 12) -> Path:
    random = np.random.default_rng(1)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            size = (side + i % 3 * 5, side + i % 2 * 9) if ending == "jpg" else (side, side)
            Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(root / name / f"{i:03}.{ending}")
    return root


def folder(root: Path, **keys: Any) -> Data:
    return load_data("folder", root=root, **{"batch_size": 5, "workers": 0, **keys})


@pytest.mark.parametrize("augment", ["standard", "strong"])
@pytest.mark.parametrize("side", [16, 64])  # padded crops, and random resized crops from larger stored images
@pytest.mark.parametrize("unreadable", [0, 2])
def test_the_three_storages_give_equal_data(tmp_path: Path, augment: str, side: int, unreadable: int) -> None:
    root = write_folder(tmp_path / "set", 8, ending="jpg", side=40)
    for name in sorted(root.rglob("*.jpg"))[3 : 3 + unreadable]:
        name.write_text("I am no image")
    sets = {
        storage: folder(root, storage=storage, augment=augment, image_size=side, max_corrupt=0.5)
        for storage in ("memory", "mmap", "stream")
    }
    memory = sets.pop("memory")
    assert memory.preprocess.mean != (0.0, 0.0, 0.0)
    for other in sets.values():
        assert other.preprocess == memory.preprocess
        assert other.manifest == memory.manifest
        for part in ("train", "val", "test"):
            assert_equal(whole(other.loader(part), 1), whole(memory.loader(part), 1))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(cache: Path) -> dict[int, list[int]]:
    """Bytes an image → numbers of the images that are stored so."""
    found = {}
    for index in cache.glob("store/*/index.npz"):
        with np.load(index) as saved:
            have = saved["have"]
        found[(index.parent / "pixels.u8").stat().st_size // len(have)] = np.flatnonzero(have).tolist()
    return found


CROPS = {"augment": "standard", "image_size": 64}  # the images have other sizes, so crops are random and resized
EVALUATION, CANVAS = 64 * 64 * 4, 80 * 80 * 4  # bytes per image


def test_random_crops_store_an_image_only_where_its_split_needs_it(tmp_path: Path, cache: Path) -> None:
    root = write_folder(tmp_path / "set", 12, ending="jpg", side=40)
    data = folder(root, **CROPS)
    found = stored(cache)
    assert found == {EVALUATION: sorted([*data.split.val, *data.split.test]), CANVAS: data.split.train.tolist()}
    other = folder(root, seed=1, **CROPS)
    assert other.split.train.tolist() != data.split.train.tolist()
    both = stored(cache)
    assert both[CANVAS] == sorted({*data.split.train, *other.split.train})
    assert both[EVALUATION] == sorted({*found[EVALUATION], *other.split.val, *other.split.test})


@pytest.mark.parametrize("storage", ["auto", "memory", "mmap", "stream"])
def test_training_images_can_be_evaluated_after_random_crops(tmp_path: Path, cache: Path, storage: str) -> None:
    root = write_folder(tmp_path / "set", 12, ending="jpg", side=40)
    data = folder(root, storage=storage, **CROPS)
    before = {part: whole(data.loader(part)) for part in ("val", "test")}
    for part in ("val", "train", "test"):
        images = torch.cat([batch.images for batch in data.evaluation_loader(part).epoch()])
        for image, name in zip(images, data.names(part), strict=True):
            assert torch.equal(image, data.preprocess(root / name))
        if part == "val" and storage != "stream":
            assert len(stored(cache)[EVALUATION]) < len(data.images)
    for part, expected in before.items():
        assert all(map(torch.equal, whole(data.loader(part)), expected))
    some = np.sort(np.concatenate([data.split.train[::3], data.split.test[::2]]))
    images = torch.cat([batch.images for batch in data.evaluation_loader(some, 4).epoch()])
    assert torch.equal(images, torch.stack([data.preprocess(root / data.images.names[i]) for i in some]))


@pytest.mark.parametrize("change", ["damaged", "deleted", "replaced"])
def test_an_image_that_changes_before_the_rest_is_decoded_is_named(tmp_path: Path, cache: Path, change: str) -> None:
    root = write_folder(tmp_path / "set", 12, ending="jpg", side=40)
    data = folder(root, **CROPS)
    name, another = data.names("train")[:2]
    (root / name).unlink()
    if change != "deleted":
        (root / name).write_bytes((root / another).read_bytes() if change == "replaced" else b"no image")
    with pytest.raises(DataError, match=f"^{re.escape(name)} was changed or removed"):
        data.evaluation_loader("train")
    for image, member in zip(next(data.evaluation_loader("val").epoch()).images, data.names("val"), strict=True):
        assert torch.equal(image, data.preprocess(root / member))


def test_stored_images_are_mapped_and_read_ahead_unless_memory_is_asked_for(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", 12, ending="jpg", side=40)
    assert folder(root, storage="memory", **CROPS).train.ahead is None
    for storage in ("auto", "mmap"):
        data = folder(root, storage=storage, **CROPS)
        assert isinstance(data.train.pixels, Tensor)
        if hasattr(os, "posix_fadvise"):
            assert data.train.ahead is not None
            assert data.train.ahead.size == data.train.pixels[0].nbytes


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("augment", ["none", "strong"])
@pytest.mark.parametrize("storage", ["memory", "stream"])
@pytest.mark.parametrize("keys", [{"image_size": 20}, {"image_size": [70, 66]}, {"image_size": 9, "fit": "squash"}])
def test_the_golden_image_looks_the_same_to_training_validation_test_and_predict(
    tmp_path: Path, ending: str, augment: str, storage: str, keys: dict[str, Any]
) -> None:
    data = folder(write_folder(tmp_path / "set", 8, ending=ending, side=30), augment=augment, storage=storage, **keys)
    for part in ("train", "val", "test"):
        images, labels, members = whole(data.evaluation_loader(part))
        assert len(images) == len(data.split[part]) > 0
        for image, label, name in zip(images, labels, data.names(part), strict=True):
            assert torch.equal(image, data.preprocess(tmp_path / "set" / name))
            assert data.classes[label] == name.split("/")[0]
        if part != "train":
            assert_equal(whole(data.loader(part)), [images, labels, members])


def test_the_golden_image_worked_out_by_hand(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", 5, side=4)
    data = folder(root, augment="none", test_fraction=0.4)
    assert data.image_size == (4, 4)
    train = np.stack([np.asarray(Image.open(root / name)) for name in data.names("train")]) / 255
    mean, std = train.mean((0, 1, 2)), train.std((0, 1, 2))
    np.testing.assert_allclose(data.preprocess.mean, mean, atol=1e-7)
    np.testing.assert_allclose(data.preprocess.std, std, atol=1e-7)
    images = whole(data.test)[0]
    for image, name in zip(images, data.names("test"), strict=True):
        expected = (np.asarray(Image.open(root / name)) / 255 - mean) / std
        np.testing.assert_allclose(image.permute(1, 2, 0), expected, atol=1e-5)


def test_an_array_set_is_the_same_through_the_store_and_without_it() -> None:
    direct, stored = (load_data("digits", limit=60, augment="none", image_size=size) for size in (None, [8, 8]))
    assert_equal(whole(direct.test), whole(stored.test))
    larger = load_data("digits", limit=60, augment="none", image_size=16)
    images = whole(larger.test)[0]
    first = larger.images.load_image(int(larger.split.test[0]))
    assert torch.equal(images[0], larger.preprocess(first))


def test_data_has_what_the_front_door_promises() -> None:
    data = load_data("digits", val_fraction=0.25, test_fraction=0.25, batch_size=50, augment="none")
    assert data.classes == list("0123456789")
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, (8, 8))
    sizes = {part: data.loader(part).count for part in ("train", "val", "test")}
    assert sizes == {"train": 1797 - 2 * 449, "val": 449, "test": 449}
    assert data.manifest["sizes"] == sizes
    members = np.concatenate([data.split[part] for part in ("train", "val", "test")])
    assert np.array_equal(np.sort(members), np.arange(1797))
    for images, labels in data.val:
        assert images.shape[1:] == (1, 8, 8)
        assert len(images) == len(labels) <= 50
    assert data.quarantined == []


def test_class_balanced_weights_balance_the_classes() -> None:
    labels = np.repeat([0, 1], [400, 40])
    pixels = torch.zeros(440, 8, 8, 1, dtype=torch.uint8)
    numbers = np.arange(440)
    shares = {}
    for name, weights in (("balanced", 1 / np.bincount(labels)[labels]), ("as it comes", None)):
        loader = Loader(pixels, labels, numbers, preprocess(1), 44, shuffle=True)
        drawn = torch.cat([batch.targets for epoch in range(4) for batch in loader.epoch(epoch, weights=weights)])
        assert len(drawn) == 4 * 440
        shares[name] = drawn.double().mean().item()
    assert abs(shares["balanced"] - 0.5) < 0.06  # five standard deviations of 1,760 draws
    assert shares["as it comes"] == pytest.approx(40 / 440)


# mean and standard deviation


@pytest.mark.parametrize("channels", [1, 3])
def test_measure_gives_the_mean_and_deviation_of_numpy(channels: int) -> None:
    images = array_set(channels)
    assert images.array is not None
    chosen = images.array[NUMBERS].reshape(-1, channels).astype(np.float64) / 255
    for pixels in (pack(images.array), Streamed(images, Layout(10, 10, images.mode), 0)):
        mean, std = measure(pixels, NUMBERS, channels)
        np.testing.assert_allclose(mean, chosen.mean(0), atol=1e-12)
        np.testing.assert_allclose(std, chosen.std(0), atol=1e-12)


def test_measure_of_many_blocks_is_exact() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1300, 3, 2), dtype=np.uint8)
    mean, std = measure(pack(images), np.arange(1300), 1)
    assert mean[0] == pytest.approx(images.mean() / 255, abs=1e-12)
    assert std[0] == pytest.approx(images.std() / 255, abs=1e-12)


def test_flat_images_have_a_deviation_that_can_be_divided_by() -> None:
    mean, std = measure(pack(np.full((4, 5, 5), 51, np.uint8)), np.arange(4), 1)
    assert mean == (0.2,)
    assert std[0] > 1e-3


@pytest.mark.parametrize("shape", [(3, 700, 5), (1, 2048, 3), (40, 9, 11)])
def test_measure_of_bright_and_of_tall_images_is_exact(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(250, 256, (*shape, 3), dtype=np.uint8)
    values = images.reshape(-1, 3).astype(np.int64)
    count, total, squares = len(values), values.sum(0), (values**2).sum(0)
    mean, std = measure(pack(images), np.arange(shape[0]), 3)
    assert mean == tuple((total / count / 255).tolist())
    assert std == tuple((np.sqrt(squares / count - (total / count) ** 2) / 255).tolist())


def test_mean_and_deviation_come_from_the_train_split_alone(tmp_path: Path) -> None:
    for part, level in (("train", 100), ("val", 200), ("test", 250)):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (6, 6), (level, level, level)).save(tmp_path / part / name / "1.png")
    np.testing.assert_allclose(folder(tmp_path).preprocess.mean, [100 / 255] * 3, atol=1e-9)


# unreadable images


def spoil(root: Path, count: int) -> list[str]:
    """Replace the first `count` images of class a by text."""
    names = [f"a/{i:03}.png" for i in range(count)]
    for name in names:
        (root / name).write_text("I am no image")
    return names


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_half_a_percent_of_corrupt_images_is_left_out_and_named(tmp_path: Path, storage: str) -> None:
    root = write_folder(tmp_path / "set", 100, "ab", side=6)
    bad = spoil(root, 1)
    data = folder(root, storage=storage)
    assert [row["name"] for row in data.quarantined] == bad
    assert "image" in data.quarantined[0]["reason"]
    assert data.manifest["quarantined"] == data.quarantined
    members = [name for part in ("train", "val", "test") for name in data.names(part)]
    assert len(members) == len(set(members)) == 199
    assert not set(bad) & set(members)


def test_five_percent_of_corrupt_images_are_refused_unless_allowed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", 100, "ab", side=6)
    bad = spoil(root, 10)
    with pytest.raises(DataError) as caught:
        folder(root)
    text = str(caught.value)
    assert "10 of 200 images cannot be read" in text
    assert bad[0] in text
    assert "data.max_corrupt" in text
    assert "\n" not in text
    for allowed in (0.05, 0.5):
        assert [row["name"] for row in folder(root, max_corrupt=allowed).quarantined] == bad


@pytest.mark.parametrize(("bad", "count"), [(1, 15), (4, 35), (5, 36), (2, 6)])
def test_the_share_that_the_refusal_suggests_is_enough(tmp_path: Path, bad: int, count: int) -> None:
    root = write_folder(tmp_path / "set", count, "a", side=4)
    write_folder(root, 3, "b", side=4)
    spoil(root, bad)
    with pytest.raises(DataError) as caught:
        folder(root)
    match = re.search(r"data\.max_corrupt=([0-9.]+?)\. To see them all", str(caught.value))
    assert match is not None
    assert len(folder(root, max_corrupt=float(match[1])).quarantined) == bad


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_disappears_while_streaming_is_named_in_one_line_at_once(tmp_path: Path, workers: int) -> None:
    gc.freeze()  # what came before is not searched below, which takes a second or more
    root = write_folder(tmp_path / "set", 6)
    data = folder(root, storage="stream", workers=workers, augment="none")
    gone = data.names("test")[0]
    (root / gone).unlink()
    with pytest.raises(DataError) as caught:
        list(data.test.epoch())
    text = str(caught.value)
    assert text.startswith(gone)
    assert "\n" not in text
    begin = time.monotonic()
    del caught
    gc.collect()  # with the error goes what held the worker processes
    took = time.monotonic() - begin
    gc.unfreeze()
    assert took < 4


def test_what_does_not_fit_on_the_disk_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "set", 6)
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path / "cache"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    data = folder(root, augment="none")
    assert isinstance(data.train.pixels, Streamed)
    assert len(whole(data.test)[0]) == len(data.split.test)
    with pytest.raises(DataError, match="no space left"):
        folder(root, augment="none", storage="memory")


# wrong arguments


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"name": "mnsit"}, "'mnist'"),
        ({"name": "digits seed=3"}, "data"),
        ({"name": ""}, "data"),
        ({"image_sise": 8}, "'image_size'"),
        ({"batchsize": 8}, "batchsize"),
        ({"augment": "standart"}, "standard"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -3}, "batch_size"),
        ({"batch_size": "many"}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"val_fraction": "x"}, "val_fraction"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"val_fraction": float("nan")}, "val_fraction"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "val_fraction"),
        ({"limit": 0}, "limit"),
        ({"limit": 5}, "limit"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": [8, 8, 3]}, "image_size"),
        ({"image_size": "large"}, "image_size"),
        ({"image_size": 10**9}, "image_size"),
        ({"image_size": 7.5}, "image_size"),
        ({"storage": "ram"}, "storage"),
        ({"workers": -1}, "workers"),
        ({"fit": "stretch"}, "fit"),
        ({"max_corrupt": -0.1}, "max_corrupt"),
        ({"root": None}, "root"),
        ({"device": "tpu"}, "device"),
        ({"device": "gpu"}, "device"),
        ({"device": None}, "device"),
    ],
)
def test_a_wrong_argument_is_one_line_that_names_it(keys: dict[str, Any], named: str) -> None:
    with pytest.raises((ConfigError, DataError, CnnlabError)) as caught:
        load_data(**keys)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_one_line_that_names_it() -> None:
    with pytest.raises(CnnlabError) as caught:
        load_data("digits", limit=20, device="cuda")
    assert "cuda" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_size_may_be_a_tuple_and_a_root_a_path(tmp_path: Path) -> None:
    assert load_data("digits", limit=20, image_size=(12, 10), root=tmp_path).image_size == (12, 10)


# an accelerator


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")
@pytest.mark.parametrize("storage", ["memory", "stream"])
@every_augmentation
def test_the_accelerator_shows_the_same_images(augmentation: str, storage: str) -> None:
    on_host = whole(make_loader(augmentation, 7))
    loader = make_loader(augmentation, 7, storage=storage, device="cuda")
    if isinstance(loader.pixels, Tensor):
        loader.pixels = loader.pixels.cuda()
    on_device = [field.cpu() for field in whole(loader)]
    config = AUGMENTATIONS[augmentation]
    assert torch.equal(on_device[1], on_host[1])
    if config is None or config.crop != "resized":  # there a crop is sampled without antialiasing
        torch.testing.assert_close(on_device[0], on_host[0], atol=1e-4, rtol=1e-4)
    assert_equal([field.cpu() for field in whole(loader)], on_device)


@pytest.mark.parametrize("crop", ["pad", "resized", "none"])
@pytest.mark.parametrize("mix", ["mixup", "cutmix", "none"])
def test_training_images_grow_from_epoch_to_epoch_and_evaluated_ones_do_not(crop: str, mix: str) -> None:
    config = shipped("standard", crop=crop, start_size=0.5, **({mix: 0.5} if mix != "none" else {}))
    pixels, augmentation = pack(array_set(side=16).array), Augmentation(config, 16, 16)
    train = Loader(pixels, LABELS, NUMBERS, preprocess(side=16), 4, augmentation, shuffle=True)
    sides = [next(train.epoch(epoch, progress=epoch / 8)).images.shape[2:] for epoch in range(8)]
    assert [tuple(side) for side in sides] == [(s, s) for s in (8, 10, 10, 12, 14, 14, 16, 16)]
    test = Loader(pixels, LABELS, NUMBERS, preprocess(side=16), 4, augmentation)
    assert next(test.epoch(0)).images.shape[2:] == (16, 16)


def test_a_smaller_image_is_the_larger_one_resized() -> None:
    config = shipped("none", start_size=0.5)
    pixels = pack(array_set(side=16).array)
    small, full = (
        Loader(pixels, LABELS, NUMBERS, preprocess(side=16), 4, Augmentation(c, 16, 16), shuffle=True)
        for c in (config, shipped("none"))
    )
    images = next(full.epoch(0)).images
    expected = torch.nn.functional.interpolate(images, size=(8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(next(small.epoch(0)).images, expected)


@pytest.mark.parametrize(("side", "at_once"), [(8, 500), (64, 488), (224, 39)])
def test_as_many_images_are_evaluated_at_once_as_hold_two_million_pixels(side: int, at_once: int) -> None:
    """500 images of 224 pixels would take six gigabytes for one map of a VGG."""
    data = build_data(compose(["data=digits", "data.limit=60", f"data.image_size={side}"]), torch.device("cpu"))
    assert data.evaluation_loader("test").batch_size == at_once
    assert data.evaluation_loader("test", batch_size=7).batch_size == 7


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice")
@pytest.mark.parametrize("name", ["standard", "strong, resized", "cutmix"])
@pytest.mark.parametrize("start", [0, 1])
def test_every_image_is_asked_for_before_it_is_needed(tmp_path: Path, name: str, start: int) -> None:
    loader = make_loader(name, batch_size=3)
    asked: list[int] = []
    pixels = make_loader(name, storage="mmap", folder=tmp_path).pixels

    class Listed(ReadAhead):
        def ask(self, numbers: Iterable[int]) -> None:
            super().ask(listed := list(numbers))
            asked.extend(listed)

    loader.ahead = Listed(np.memmap(tmp_path / "pixels.u8", np.uint8, "r", shape=tuple(pixels.shape)))
    plain = list(make_loader(name, batch_size=3).epoch(4, start))
    needed = 0
    for batch, expected in zip(loader.epoch(4, start), plain, strict=True):
        assert torch.equal(batch.images, expected.images)
        needed += len(batch.targets) * (1 if batch.second is None else 2)
        assert set(loader.numbers[batch.members].tolist()) <= set(asked)
        assert len(asked) >= needed
        assert len(asked) - needed <= AHEAD * 6  # and no more than some batches before it
    assert len(asked) == needed


def advice(file: Path) -> set[str]:
    """Flags of this process's maps of a file; "rr" is: read nothing but what is asked for."""
    rows = Path("/proc/self/smaps").read_text().splitlines()
    at = [i for i, row in enumerate(rows) if row.endswith(str(file))]
    flags = [next(row for row in rows[i:] if row.startswith("VmFlags")).split() for i in at]
    return {flag for row in flags for flag in row}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_training_epoch_reads_no_neighbours_and_what_comes_after_it_does(tmp_path: Path, cache: Path) -> None:
    data = folder(write_folder(tmp_path / "set", 12, ending="jpg", side=40), **CROPS)
    (file,) = (f for f in cache.glob("store/*/pixels.u8") if f.stat().st_size == CANVAS * len(data.images))
    assert "rr" not in advice(file)
    epoch = data.train.epoch()
    next(epoch)
    assert "rr" in advice(file)
    assert list(epoch)
    assert "rr" not in advice(file)
    next(abandoned := data.train.epoch())
    abandoned.close()
    assert "rr" not in advice(file)


def test_a_store_on_disk_is_read_ahead_and_memory_is_not(tmp_path: Path) -> None:
    pixels = np.arange(5 * 4 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4, 4)
    pixels.tofile(tmp_path / "pixels.u8")
    assert reader_ahead(pixels) is None
    ahead = reader_ahead(np.memmap(tmp_path / "pixels.u8", np.uint8, "r", shape=pixels.shape))
    if hasattr(os, "posix_fadvise"):
        assert ahead is not None
        ahead.ask([0, 4])
