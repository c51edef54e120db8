"""Folders, IDX files and Caltech-101 are read as they lie; what is wrong with them is said in one line."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

from cnnlab.config import DataConfig
from cnnlab.data.sources import open_images
from cnnlab.data.sources.caltech101 import Caltech101
from cnnlab.data.sources.folder import open_folder
from cnnlab.data.sources.mnist import open_mnist, read_idx
from cnnlab.data.split import Split, manifest
from cnnlab.errors import DataError
from cnnlab.runs.files import read_json, write_json

DATA = os.environ.get("CNNLAB_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CNNLAB_DATA names no folder of real sets")


def sample_image(seed: int = 0, size: tuple[int, int] = (6, 8), mode: str = "RGB") -> Image.Image:
    shape = size if mode == "L" else (*size, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write_tree(root: Path, names: Iterable[str], **options: object) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        sample_image(i, **options).save(root / name)  # type: ignore[arg-type]
    return root


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


# folders


def test_a_folder_a_class(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["cat/1.png", "cat/2.jpg", "dog/1.bmp", "ant/x.gif"])
    images = open_folder(root)
    assert images.classes == ["ant", "cat", "dog"]
    assert images.names == ["ant/x.gif", "cat/1.png", "cat/2.jpg", "dog/1.bmp"]
    assert images.labels.tolist() == [0, 1, 1, 2]
    assert images.labels.dtype == np.int64
    assert images.official is None
    np.testing.assert_array_equal(np.asarray(images.load_image(1)), np.asarray(sample_image(0)))
    image, label = images[3]
    assert (image.size, label, images.load_label(3), len(images)) == ((8, 6), 2, 2, 4)


def test_a_pipe_named_as_an_image_is_left_out(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/1.png", "b/1.png"])
    os.mkfifo(root / "a" / "2.png")  # reading it would wait for ever
    assert open_folder(root).names == ["a/1.png", "b/1.png"]


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_official_splits_of_a_folder(tmp_path: Path, validation: str) -> None:
    root = write_tree(
        tmp_path,
        ["train/a/1.png", "train/b/1.png", "train/b/2.png", f"{validation}/a/1.png", "test/b/1.png", "test/a/1.png"],
    )
    images = open_folder(root)
    assert images.official is not None
    found = {name: (split, images.classes[label]) for name, split, label in zip(
        images.names, images.official, images.labels, strict=True
    )}  # fmt: skip
    assert found == {
        "train/a/1.png": ("train", "a"),
        "train/b/1.png": ("train", "b"),
        "train/b/2.png": ("train", "b"),
        f"{validation}/a/1.png": ("val", "a"),
        "test/a/1.png": ("test", "a"),
        "test/b/1.png": ("test", "b"),
    }


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("TRAIN", "TEST")])
def test_split_folders_in_capitals_are_not_taken_for_classes(tmp_path: Path, train: str, test: str) -> None:
    images = open_folder(write_tree(tmp_path, [f"{part}/{name}/1.png" for part in (train, test) for name in "ab"]))
    assert images.classes == ["a", "b"]
    assert images.official is not None
    assert sorted(images.official) == ["test", "test", "train", "train"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    images = open_folder(write_tree(tmp_path, ["bus/1.png", "car/1.png", "train/1.png", "train/2.png"]))
    assert images.classes == ["bus", "car", "train"]
    assert images.labels.tolist() == [0, 1, 2, 2]
    assert images.official is None


def test_a_test_folder_without_classes_beside_train_is_not_passed_over(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png"])
    with pytest.raises(DataError) as caught:
        open_folder(root)
    assert str(root / "test") in one_line(caught)
    assert "2 loose images" in one_line(caught)


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    images = open_folder(write_tree(tmp_path, ["a/1.png", "a/deep/er/2.png", "b/only/below/3.png"]))
    assert images.names == ["a/1.png", "a/deep/er/2.png", "b/only/below/3.png"]
    assert images.labels.tolist() == [0, 0, 1]


def test_unicode_and_odd_names(tmp_path: Path) -> None:
    names = [
        "ü Ж/p 1'%.PNG",
        "日本/π.JpEg",
        "-x/--help.png",
        "a$b{}/#1 (copy) \\.webp",
        "a.b/new\nline.tiff",
        "🐱/.a/b.bmp",
    ]
    images = open_folder(write_tree(tmp_path, names))
    assert set(images.names) == set(names)
    assert set(images.classes) == {"ü Ж", "日本", "-x", "a$b{}", "a.b", "🐱"}
    for i in range(len(images)):
        assert images.load_image(i).size == (8, 6)
        assert images.names[i].split("/")[0] == images.classes[images.load_label(i)]


@pytest.mark.skipif(os.name != "posix", reason="names of files are text here")
def test_a_name_that_is_no_text_is_refused_or_can_be_written_down(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set", ["a/1.png", "b/1.png", "b/2.png"])
    try:
        os.rename(root / "b" / "2.png", os.fsencode(root / "b") + b"/\xff\xfe.png")
    except OSError:
        pytest.skip("this file system takes only names that are text")
    try:
        images = open_folder(root)
    except DataError as error:
        str(error).encode()
    else:
        everything = Split(np.arange(len(images)), np.array([], int), np.array([], int))
        digest = np.zeros((len(images), 16), np.uint8)
        facts = manifest(everything, images.names, digest, images.classes, DataConfig(), 0)
        write_json(tmp_path / "split.json", facts)
        assert len(set(read_json(tmp_path / "split.json")["members"]["train"])) == 3


def test_hidden_and_foreign_files_are_not_images(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/1.png", "b/1.png", ".git/x/1.png", "a/._1.png"])
    for name in ("a/Thumbs.db", "a/.DS_Store", "a/notes.txt", "b/1.png.bak", "readme.md"):
        (root / name).write_text("no image")
    images = open_folder(root)
    assert images.classes == ["a", "b"]
    assert images.names == ["a/1.png", "b/1.png"]


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    names = [f"{c}/{i:02}.png" for c in "ab" for i in range(12)]
    forward, backward = (write_tree(tmp_path / d, order) for d, order in (("f", names), ("b", names[::-1])))
    assert open_folder(forward).names == open_folder(backward).names == names


def test_a_missing_root_names_the_nearest_folder(tmp_path: Path) -> None:
    (tmp_path / "flowers").mkdir()
    (tmp_path / "zebras").mkdir()
    with pytest.raises(DataError) as caught:
        open_folder(tmp_path / "flower")
    assert str(tmp_path / "flower") in one_line(caught)
    assert re.search(r"Did you mean .*flowers", one_line(caught))
    assert "zebras" not in one_line(caught)
    with pytest.raises(DataError, match="is not a folder"):
        open_folder(tmp_path / "no" / "such" / "parent")


def test_a_file_as_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"set\.zip is not a folder"):
        open_folder(tmp_path / "set.zip")


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/1.png", "b/1.png"])
    (root / "dodo").mkdir()
    with pytest.raises(DataError) as caught:
        open_folder(root)
    assert "dodo" in one_line(caught)
    assert "no images" in one_line(caught)


def test_a_class_in_test_that_train_lacks_is_named_with_the_nearest(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["train/cat/1.png", "train/dog/1.png", "test/cats/1.png", "test/dog/1.png"])
    with pytest.raises(DataError) as caught:
        open_folder(root)
    assert "'cats' is in test but not in train" in one_line(caught)
    assert "'cat'" in one_line(caught)


def test_test_without_train_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["test/cat/1.png", "test/dog/1.png"])
    with pytest.raises(DataError, match="no train folder"):
        open_folder(root)


def test_one_class_is_refused_by_name(tmp_path: Path) -> None:
    for root in (write_tree(tmp_path / "1", ["solo/1.png"]), write_tree(tmp_path / "2", ["train/solo/1.png"])):
        with pytest.raises(DataError) as caught:
            open_folder(root)
        assert "'solo'" in one_line(caught)


def test_folders_of_text_files_are_no_data_set(tmp_path: Path) -> None:
    for name in ("a/1.txt", "a/2.txt", "b/1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    with pytest.raises(DataError) as caught:
        open_folder(tmp_path)
    assert "*.txt" in one_line(caught)


def test_loose_images_without_class_folders_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_folder(write_tree(tmp_path / "loose", ["1.png", "2.png", "3.jpg"]))
    assert "3 loose images" in one_line(caught)
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        open_folder(tmp_path / "void")


def test_small_images_of_one_size_keep_it_and_grey_stays_grey(tmp_path: Path) -> None:
    grey = open_folder(write_tree(tmp_path / "g", ["a/1.png", "b/1.png"], mode="L", size=(20, 30)))
    assert (grey.size, grey.mode) == ((20, 30), "L")
    colour = open_folder(write_tree(tmp_path / "c", ["a/1.png", "b/1.png"], size=(20, 30)))
    assert (colour.size, colour.mode) == ((20, 30), "RGB")
    large = open_folder(write_tree(tmp_path / "l", ["a/1.png", "b/1.png"], size=(120, 120)))
    assert large.size is None
    mixed = write_tree(tmp_path / "m", ["a/1.png"], size=(20, 30), mode="L")
    sample_image(0, (30, 20)).save(mixed / "a" / "2.png")
    write_tree(mixed, ["b/1.png"], size=(20, 30))
    assert (open_folder(mixed).size, open_folder(mixed).mode) == (None, "RGB")


@pytest.mark.parametrize(("count", "every"), [(130, 2), (200, 3)])
def test_a_set_with_many_colour_images_is_colour_in_whatever_order_the_grey_ones_come(
    tmp_path: Path, count: int, every: int
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    for i in range(count):  # looking at every second or third image sees grey ones alone
        mode = "L" if i % every == 0 else "RGB"
        sample_image(i, (4, 4), mode).save(tmp_path / "ab"[2 * i // count] / f"{i:04}.png")
    assert open_folder(tmp_path).mode == "RGB"


def test_a_damaged_image_does_not_keep_a_folder_from_opening(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
    (root / "a" / "1.png").write_text("no image")
    images = open_folder(root)
    assert (len(images), images.size) == (3, (6, 8))
    with pytest.raises(DataError):
        images.load_image(0)
    os.unlink(root / "a" / "2.png")
    with pytest.raises(DataError):
        images.load_image(1)


def test_linked_class_folders_are_followed(tmp_path: Path) -> None:
    write_tree(tmp_path / "elsewhere", ["a/1.png", "b/1.png"])
    (tmp_path / "set").mkdir()
    for name in "ab":
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere" / name, target_is_directory=True)
    assert open_folder(tmp_path / "set").names == ["a/1.png", "b/1.png"]


def test_the_fingerprint_changes_with_each_image(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
    first = open_folder(root).fingerprint()
    assert open_folder(root).fingerprint() == first
    seen = {first}
    sample_image(99).save(root / "a" / "1.png")
    seen.add(open_folder(root).fingerprint())
    sample_image(98).save(root / "b" / "2.png")
    seen.add(open_folder(root).fingerprint())
    (root / "b" / "2.png").rename(root / "b" / "3.png")
    seen.add(open_folder(root).fingerprint())
    assert len(seen) == 4


# arrays


def test_digits_are_those_of_scikit_learn() -> None:
    images, original = open_images(DataConfig(name="digits")), load_digits()
    assert images.array is not None
    assert images.array.shape == (1797, 8, 8)
    np.testing.assert_array_equal(images.labels, original.target)
    assert abs(images.array - original.images * (255 / 16)).max() <= 0.5
    assert images.classes == list("0123456789")
    np.testing.assert_array_equal(np.asarray(images.load_image(7)), images.array[7])


def test_an_unknown_set_names_the_nearest() -> None:
    with pytest.raises(DataError, match="Did you mean 'cifar10'"):
        open_images(DataConfig(name="cifar-10"))


def test_the_fingerprint_of_an_array_changes_with_a_pixel_and_with_the_shape() -> None:
    images = open_images(DataConfig(name="digits"))
    assert images.array is not None
    first = images.fingerprint()
    images.array = images.array.copy()
    assert images.fingerprint() == first
    images.array[5, 3, 3] ^= 1
    changed = images.fingerprint()
    images.array = images.array.reshape(-1, 4, 16)
    assert len({first, changed, images.fingerprint()}) == 3


# IDX files


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape) + array.tobytes()


GREY = np.random.default_rng(3).integers(0, 256, (20, 28, 28), dtype=np.uint8)
LABELS = (np.arange(20) % 10).astype(np.uint8)


def write_mnist(root: Path, gz: bool = False, folder: str = "MNIST", **changes: np.ndarray) -> Path:
    parts = {"train-images-idx3": GREY, "train-labels-idx1": LABELS}
    parts |= {"t10k-images-idx3": GREY[:10, ::-1], "t10k-labels-idx1": LABELS[:10]}
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for name, array in parts.items():
        data = idx(changes.get(name.replace("-", "_"), array))
        (raw / f"{name}-ubyte{'.gz' if gz else ''}").write_bytes(gzip.compress(data) if gz else data)
    return root


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_the_original_files_are_read_with_their_official_split(
    tmp_path: Path, gz: bool, name: str, folder: str
) -> None:
    images = open_mnist(name, write_mnist(tmp_path, gz, folder), download=False)
    assert images.array is not None
    assert images.official is not None
    np.testing.assert_array_equal(images.array[:20], GREY)
    np.testing.assert_array_equal(images.array[20:], GREY[:10, ::-1])
    np.testing.assert_array_equal(images.labels, [*LABELS, *LABELS[:10]])
    assert images.official.tolist() == ["train"] * 20 + ["test"] * 10
    assert (len(images.classes), images.mode, images.size) == (10, "L", (28, 28))


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4), (0, 28, 28)])
@pytest.mark.parametrize("gz", [False, True])
def test_idx_of_any_number_of_axes(tmp_path: Path, shape: tuple[int, ...], gz: bool) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / f"x{'.gz' if gz else ''}").write_bytes(gzip.compress(idx(array)) if gz else idx(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "x"), array)


WHOLE = idx(GREY[:2])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\x08",
        WHOLE[:10],
        WHOLE[:-1],
        WHOLE + b"\0",
        b"\0\0\x0d" + WHOLE[3:],  # float32
        b"\0\1\x08" + WHOLE[3:],
        b"<html>not found</html>",
        b"\0\0\x08\x04" + struct.pack(">IIII", 65536, 65536, 65536, 65536),  # the product is 0 in 64 bits
        b"\0\0\x08\x02" + struct.pack(">ii", -1, -5) + b"12345",
        b"\0\0\x08\x03" + struct.pack(">III", 2**32 - 1, 28, 28),
        b"\0\0\x08\xff" + bytes(4 * 255),  # more axes than numpy has
    ],
)
def test_an_idx_file_that_is_not_as_its_header_says_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    for file, content in ((tmp_path / "plain", data), (tmp_path / "zipped.gz", gzip.compress(data))):
        file.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_idx(tmp_path / file.stem)
        assert str(file) in one_line(caught)


def test_a_gz_file_with_any_bit_wrong_is_refused_or_gives_the_same_numbers(tmp_path: Path) -> None:
    data = gzip.compress(idx(GREY[:1, :8, :8]), mtime=0)
    file = tmp_path / "x.gz"
    for position in range(len(data)):
        file.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            np.testing.assert_array_equal(read_idx(tmp_path / "x"), GREY[:1, :8, :8])
        except DataError as error:
            assert "x.gz" in str(error)


def test_a_truncated_gz_file_is_refused_by_name(tmp_path: Path) -> None:
    data = gzip.compress(WHOLE)
    for length in (0, 5, len(data) // 2, len(data) - 1):
        (tmp_path / "x.gz").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"x\.gz"):
            read_idx(tmp_path / "x")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-images"):
        read_idx(tmp_path / "train-images")


@pytest.mark.parametrize(
    "changes",
    [
        {"train_labels_idx1": LABELS[:9]},  # fewer labels than images
        {"train_images_idx3": LABELS, "train_labels_idx1": GREY},  # the two files changed places
        {"train_images_idx3": LABELS, "t10k_images_idx3": LABELS[:10]},
        {"t10k_images_idx3": GREY[:10, :20]},  # another size than in train
        {"t10k_labels_idx1": GREY[:10, :1, 0]},
        {"train_labels_idx1": LABELS + 1},  # a label 10 where there are ten classes
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(tmp_path: Path, changes: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError) as caught:
        open_mnist("mnist", write_mnist(tmp_path, **changes), download=False)
    one_line(caught)


# Caltech-101


@pytest.fixture
def caltech(tmp_path: Path) -> Path:
    below = tmp_path / "caltech101" / "101_ObjectCategories"
    for i, name in enumerate(["accordion", "BACKGROUND_Google", "Faces", "yin_yang"]):
        write_tree(below, [f"{name}/image_{j:04}.jpg" for j in range(1, 4)], size=(30 + i, 40 - i))
    return tmp_path


def test_caltech101_is_a_data_set_of_photographs_and_class_numbers(caltech: Path) -> None:
    images = Caltech101(caltech)
    assert isinstance(images, Dataset)
    assert list(images.classes) == ["Faces", "accordion", "yin_yang"]
    assert len(images) == 9
    counted = [0, 0, 0]
    for i in range(len(images)):
        image, label = images[i]
        assert isinstance(image, Image.Image)
        assert image.mode == "RGB"
        assert image.size == images.load_image(i).size == (40 - (2, 0, 3)[label], 30 + (2, 0, 3)[label])
        assert label == images.load_label(i)
        assert images.names[i].startswith(images.classes[label] + "/")
        counted[label] += 1
    assert counted == [3, 3, 3]
    with pytest.raises(IndexError):
        images[9]


def test_the_background_is_a_class_only_if_asked_for(caltech: Path) -> None:
    with_background = Caltech101(caltech, background=True)
    assert list(with_background.classes) == ["BACKGROUND_Google", "Faces", "accordion", "yin_yang"]
    assert len(with_background) == 12
    by_key = open_images(DataConfig(name="caltech101", root=str(caltech), background=True))
    assert list(by_key.classes) == list(with_background.classes)
    assert "BACKGROUND_Google" not in open_images(DataConfig(name="caltech101", root=str(caltech))).classes


def stack(rows: list[tuple[Image.Image, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    images = [torch.from_numpy(np.array(image.resize((16, 16)))) for image, _ in rows]
    return torch.stack(images), torch.tensor([label for _, label in rows])


def test_a_torch_data_loader_takes_caltech101(caltech: Path) -> None:
    dataset = Caltech101(caltech)
    batches = list(DataLoader(dataset, batch_size=4, collate_fn=stack))
    assert [images.shape for images, _ in batches] == [(4, 16, 16, 3), (4, 16, 16, 3), (1, 16, 16, 3)]
    assert torch.cat([labels for _, labels in batches]).tolist() == dataset.labels.tolist()
    for index in (0, 5):
        assert torch.equal(batches[index // 4][0][index % 4], stack([dataset[index]])[0][0])


def test_caltech101_can_be_sent_to_another_process(caltech: Path) -> None:
    images = pickle.loads(pickle.dumps(Caltech101(caltech)))
    np.testing.assert_array_equal(np.asarray(images[2][0]), np.asarray(Caltech101(caltech)[2][0]))


def test_a_missing_caltech101_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Caltech101(tmp_path, download=False)
    assert f"caltech101 is not below {tmp_path}" in one_line(caught)
    (tmp_path / "caltech101" / "101_ObjectCategories").mkdir(parents=True)
    with pytest.raises(DataError):
        Caltech101(tmp_path)


def test_caltech101_with_one_class_left_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "caltech101" / "101_ObjectCategories", ["Faces/1.jpg", "BACKGROUND_Google/1.jpg"])
    with pytest.raises(DataError, match="1 class"):
        Caltech101(tmp_path)


# real sets


@needs_data
@pytest.mark.data
def test_the_real_mnist_has_its_known_sizes_and_mean() -> None:
    assert DATA is not None
    if not (Path(DATA) / "MNIST").is_dir():
        pytest.skip("no MNIST there")
    images = open_mnist("mnist", Path(DATA), download=False)
    assert images.array is not None
    assert images.official is not None
    train = images.array[images.official == "train"]
    assert (len(train), len(images)) == (60_000, 70_000)
    shares, levels = np.bincount(train.reshape(-1), minlength=256) / train.size, np.arange(256) / 255
    assert shares @ levels == pytest.approx(0.1307, abs=1e-4)
    assert np.sqrt(shares @ levels**2 - (shares @ levels) ** 2) == pytest.approx(0.3081, abs=1e-4)
    assert np.bincount(images.labels[60_000:]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@needs_data
@pytest.mark.data
def test_the_real_caltech101_has_its_known_sizes() -> None:
    assert DATA is not None
    if not (Path(DATA) / "caltech101").is_dir():
        pytest.skip("no Caltech-101 there")
    images, everything = Caltech101(DATA), Caltech101(DATA, background=True)
    assert (len(images), len(images.classes)) == (8677, 101)
    assert (len(everything), len(everything.classes)) == (9144, 102)
    sizes = dict(zip(images.classes, np.bincount(images.labels).tolist(), strict=True))
    assert (sizes["airplanes"], sizes["inline_skate"], sizes["Faces_easy"]) == (800, 31, 435)
    image, label = images[0]
    assert (image.mode, images.classes[label]) == ("RGB", "Faces")
