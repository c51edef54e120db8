"""Settings follow from the set: from the number, size and classes of its images, and never against what was said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnlab
from cnnlab.config import compose, resolve
from cnnlab.data.recommend import Facts, compose_for_set, facts_of, recommend, resolve_for_set
from cnnlab.data.sources import open_images
from cnnlab.errors import ConfigError


def save_images(root: Path, classes: list[str], images: int, size: tuple[int, int], mode: str = "RGB") -> Path:
    """A folder per class of noise; size is (width, height)."""
    draw = np.random.Generator(np.random.PCG64(0))
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(images):
            shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
            Image.fromarray(draw.integers(0, 256, shape, np.uint8)).save(root / name / f"{number}.png")
    return root


FOLDER = compose(["data=folder"])


def settings(facts: Facts) -> dict[str, object]:
    return {one.key: one.value for one in recommend(facts, FOLDER, lambda key: False)}


PHOTOGRAPHS = Facts(images=168, side=200, common=False, written=False)


def test_a_few_photographs_get_a_small_network_for_photographs_small_batches_and_many_epochs() -> None:
    found = settings(PHOTOGRAPHS)
    assert found["model"] == "convnet"
    assert found["model.width"] == 16
    assert found["trainer.batch_size"] == 16
    assert 60 <= found["trainer.epochs"] <= 150  # type: ignore[operator]
    assert "data.image_size" not in found  # 128 pixels is what they get anyway


def test_a_set_as_large_as_the_recipe_was_tuned_on_is_left_to_the_recipe() -> None:
    assert settings(Facts(images=45_000, side=32, common=True, written=False)) == {"model": "resnet"}


def test_the_network_is_always_among_what_is_said_unless_the_user_chose_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)).save(tmp_path / name / f"{i}.png")
    words = ["data=folder", f"data.root={tmp_path}"]
    composed, found = resolve_for_set(words)
    assert "model=resnet" in [one.word for one in found]
    assert composed.config.model == compose(["data=folder"]).model
    composed, found = resolve_for_set([*words, "model=mlp"])
    assert "model" not in {one.key for one in found} and composed.config.model["name"] == "mlp"
    composed, found = resolve_for_set([*words, "model.depth=32"])
    assert composed.config.model == {**compose(["data=folder"]).model, "depth": 32}


@pytest.mark.parametrize("images", [6, 24, 30, 100, 168, 500, 2_000, 10_000, 45_000, 300_000])
def test_every_number_of_images_gets_enough_steps(images: int) -> None:
    found = settings(Facts(images, 32, True, False))
    batch, epochs = found.get("trainer.batch_size", 128), found.get("trainer.epochs", 15)
    steps = max(1, images // batch)  # type: ignore[operator]
    assert steps >= 10 or batch == 8
    assert steps * epochs >= 500 or epochs == 150  # type: ignore[operator]


def test_more_images_never_mean_smaller_batches_or_more_epochs() -> None:
    found = [settings(Facts(images, 32, True, False)) for images in range(8, 60_000, 97)]
    batches = [one.get("trainer.batch_size", 128) for one in found]
    assert batches == sorted(batches)  # type: ignore[type-var]
    epochs = [one.get("trainer.epochs", 15) for one in found]
    for batch in set(batches):
        of_batch = [e for e, b in zip(epochs, batches, strict=True) if b == batch]
        assert of_batch == sorted(of_batch, reverse=True)  # type: ignore[type-var]


@pytest.mark.parametrize(("side", "wanted"), [(20, 32), (50, 48), (64, 64), (90, 96), (200, None), (4000, None)])
def test_images_are_not_enlarged_beyond_what_they_hold(side: int, wanted: int | None) -> None:
    found = settings(Facts(500, side, False, False))
    assert found.get("data.image_size") == wanted
    assert (found.get("model") == "convnet") == (side >= 56)


def test_digits_and_letters_get_no_mirror_image(tmp_path: Path) -> None:
    grey = save_images(tmp_path / "grey", ["zero", "one"], 12, (20, 20), "L")
    letters = save_images(tmp_path / "letters", ["a", "b"], 12, (20, 20))
    things = save_images(tmp_path / "things", ["cat", "dog"], 12, (20, 20))
    for root, flip in ((grey, "none"), (letters, "none"), (things, "random")):
        assert compose_for_set(["data=folder", f"data.root={root}"]).augment.flip == flip


def test_what_was_said_is_never_overruled(tmp_path: Path) -> None:
    root = save_images(tmp_path / "photos", ["cat", "dog"], 12, (150, 100))
    free, found = resolve_for_set(["data=folder", f"data.root={root}"])
    assert {one.key for one in found} >= {"model", "model.width", "trainer.batch_size", "trainer.epochs"}
    for words, key in (
        (["model=resnet"], "model"),
        (["model=convnet", "model.width=8"], "model.width"),
        (["trainer.batch_size=4"], "trainer.batch_size"),
        (["trainer.epochs=3"], "trainer.epochs"),
        (["data.image_size=64"], "data.image_size"),
        (["augment=none"], "augment"),
    ):
        composed, found = resolve_for_set(["data=folder", f"data.root={root}", *words])
        config = composed.config
        assert key not in {one.key for one in found}
        said = compose(["data=folder", *words]).to_dict()
        group, _, name = key.partition(".")
        if name:
            assert config.to_dict()[group][name] == said[group][name]
        else:
            assert config.to_dict()[group] == said[group]
    assert free.config.trainer.epochs != 3


def test_size_and_fit_of_photographs_reach_the_configuration(tmp_path: Path) -> None:
    root = save_images(tmp_path / "photos", ["cat", "dog"], 12, (70, 50))
    (root / "cat" / "other.png").write_bytes((save_images(tmp_path / "x", ["a"], 1, (90, 50)) / "a/0.png").read_bytes())
    config = compose_for_set(["data=folder", f"data.root={root}"])
    assert config.data.image_size == [48, 48]
    assert config.data.fit == "squash"


def test_a_recipe_that_is_named_is_followed(tmp_path: Path) -> None:
    root = save_images(tmp_path / "photos", ["cat", "dog"], 12, (150, 100))
    words = ["data=folder", f"data.root={root}", "recipe=folder"]
    assert resolve_for_set(words) == (resolve(words), [])


def test_a_whole_set_with_a_recipe_of_its_own_keeps_it_and_a_cut_one_gets_its_steps() -> None:
    assert compose_for_set(["data=digits"]) == compose(["data=digits"])
    composed, found = resolve_for_set(["data=digits", "data.limit=100"])
    assert {one.key for one in found} == {"trainer.batch_size", "trainer.epochs"}
    assert composed.config.model == compose(["data=digits"]).model


def test_the_facts_of_a_folder(tmp_path: Path) -> None:
    root = save_images(tmp_path / "photos", ["cat", "dog"], 10, (150, 100))
    (root / "cat" / "broken.png").write_bytes(b"no image")
    config = compose(["data=folder", f"data.root={root}"])
    facts = facts_of(open_images(config.data), config.data, 0)
    assert facts == Facts(images=15, side=100, common=False, written=False)


def test_a_key_of_the_network_does_not_change_the_network(tmp_path: Path) -> None:
    root = save_images(tmp_path / "photos", ["cat", "dog"], 12, (150, 100))
    config = compose_for_set(["data=folder", f"data.root={root}", "model.width=32"])
    assert config.model == {"name": "convnet", "width": 32}
    grey = save_images(tmp_path / "grey", ["zero", "one"], 12, (20, 20), "L")
    config = compose_for_set(["data=folder", f"data.root={grey}", "augment.rotation=3"])
    assert (config.augment.name, config.augment.flip, config.augment.rotation) == ("light", "none", 3)


def test_the_network_that_init_names_is_taken_as_it_is(tmp_path: Path) -> None:
    root = save_images(tmp_path / "photos", ["cat", "dog"], 12, (150, 100))
    words = ["data=folder", f"data.root={root}", "init.from=runs/first"]
    known = {"name": "vgg", "width": 8}
    assert resolve_for_set(words, network_of=lambda source: known)[0].config.model == known
    unknown = resolve_for_set(words)[0].config.model
    assert unknown == compose(["data=folder"]).model


OWN = """
import numpy as np, torch
from PIL import Image

class Whole:
    classes = ["ant", "bee"]

    def __init__(self, side=200, images=60):
        self.side, self.images = side, images

    def __len__(self):
        return self.images

    def __getitem__(self, index):
        draw = np.random.Generator(np.random.PCG64(index))
        return Image.fromarray(draw.integers(0, 256, (self.side, self.side, 3), np.uint8)), index % 2

class Tensors(Whole):
    def __getitem__(self, index):
        return torch.zeros(3, self.side, self.side), index % 2

class Batches(torch.utils.data.DataLoader):
    def __init__(self):
        super().__init__(Tensors(32), batch_size=6)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a module of a user's own Datasets."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "settings_of_own.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield "settings_of_own"


def test_a_dataset_of_whole_images_gets_what_a_folder_of_them_gets(own: str, tmp_path: Path) -> None:
    save_images(tmp_path, ["ant", "bee"], 30, (200, 200))
    of_folder = compose_for_set(["data=folder", f"data.root={tmp_path}"]).to_dict()
    composed, found = resolve_for_set([f"data={own}:Whole"])
    same = composed.config.to_dict()
    assert found[0].word == "recipe=folder"
    assert composed.chosen["recipe"][0] == "folder"
    for section in ("model", "augment", "optimizer", "schedule", "trainer"):
        assert same[section] == of_folder[section]
    assert same["data"]["fit"] == of_folder["data"]["fit"] == "squash"
    data = cnnlab.load_data(f"{own}:Whole")
    assert (data.config.augment.name, data.train.batch_size, data.image_size) == ("standard", 8, (128, 128))


def test_small_images_of_one_size_are_used_as_they_are(own: str) -> None:
    config = compose_for_set([f"data={own}:Whole", "data.args={side: 24}"])
    assert (config.model["name"], config.data.image_size, config.data.fit) == ("resnet", None, "crop")


def test_ready_tensors_keep_their_recipe_and_get_their_steps(own: str) -> None:
    composed, found = resolve_for_set([f"data={own}:Tensors", "data.args={images: 300}"])
    assert {one.key for one in found} == {"model", "model.width", "trainer.batch_size", "trainer.epochs"}
    assert composed.config.augment.name == "none"
    assert composed.config.trainer.batch_size == 16


def test_batches_of_the_user_s_own_stay_as_they_are(own: str) -> None:
    _, found = resolve_for_set([f"data={own}:Batches"])
    assert [one.word for one in found] == ["model=convnet"]


def test_what_was_said_of_a_dataset_is_never_overruled(own: str) -> None:
    composed, found = resolve_for_set([f"data={own}:Whole", "recipe=any"])
    assert (found, composed.config.model["name"]) == ([], "convnet")
    composed, _ = resolve_for_set([f"data={own}:Whole", "augment=none", "trainer.epochs=2", "optimizer=adamw"])
    assert composed.config.augment.name == "none"
    assert composed.config.trainer.epochs == 2
    assert composed.config.optimizer["name"] == "AdamW"


def test_only_a_trusted_dataset_is_opened(own: str, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "words.yaml").write_text(f"data: {{name: '{own}:Whole'}}\n")
    with pytest.raises(ConfigError, match="is code that"):
        resolve_for_set([], config_file=tmp_path / "words.yaml")
