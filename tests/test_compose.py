"""Layers of settings: which one holds, the user's own files, and what `--explain` and `--options` say of them."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlab.config import (
    GROUPS,
    MODEL_CHOICES,
    Config,
    compose,
    from_dict,
    known_keys,
    optimizer_names,
    options,
    resolve,
    to_yaml,
)
from cnnlab.config.compose import _layers, _nested, _stack
from cnnlab.config.describe import explain_text, options_text
from cnnlab.config.keys import Interval
from cnnlab.config.options import SHIPPED
from cnnlab.errors import CnnlabError, ConfigError
from cnnlab.models.activations import ACTIVATIONS
from cnnlab.models.arguments import argument_rows
from cnnlab.models.registry import create_model, list_models, model_spec
from cnnlab.models.resnet import SHORTCUTS

RECIPES = options("recipe")
OPTIONS = [(group, name) for group in GROUPS if group != "recipe" for name in options(group)]


def write(folder: Path, **files: str) -> Path:
    """write(conf, model__wide="name: resnet") → conf/model/wide.yaml"""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def content(group: str, name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((SHIPPED / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return values


def refusal(*words: str, **files: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(words, **files)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# ---- what is read is what Hydra reads


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_shipped_recipe_is_read_as_hydra_reads_it(recipe: str) -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(version_base="1.3", config_dir=str(SHIPPED)):
        theirs: Any = OmegaConf.to_container(hydra_compose("config", [f"recipe={recipe}"]))
    theirs.pop("tuned", None)
    ours = _nested(_stack(_layers([f"recipe={recipe}"], None, None, None), {}))
    assert from_dict(ours) == from_dict(theirs)


def test_an_experiment_is_read_as_hydra_reads_it(tmp_path: Path) -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    write(
        tmp_path,
        experiment__base="# @package _global_\nseed: 5\ntrainer: {epochs: 3, batch_size: 32}\n",
        experiment__first=(
            "# @package _global_\ndefaults:\n  - base\n  - override /model: wide\n  - override /optimizer: adamw\n"
            "  - _self_\ntrainer: {epochs: 7}\nmodel: {depth: 8}\n"
        ),
        model__wide="defaults: [resnet]\nwidth: 32\ndepth: 14\n",
    )
    with initialize_config_dir(version_base="1.3", config_dir=str(SHIPPED)):
        words = [f"hydra.searchpath=[file://{tmp_path}]", "+experiment=first", "recipe=default"]
        theirs: Any = OmegaConf.to_container(hydra_compose("config", words))
    config = compose(["experiment=first", "recipe=default"], tmp_path)
    assert config == from_dict(theirs)
    assert (config.seed, config.trainer.epochs, config.trainer.batch_size) == (5, 7, 32)
    assert config.model == {"name": "resnet", "width": 32, "depth": 8}


# ---- an option beats the recipe, a key beats both


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_is_that_option_under_every_recipe(recipe: str) -> None:
    """Of what the recipe sets there, only what it tuned for this very option is left; the other groups stay."""
    tuned = content("recipe", recipe).get("tuned", {})
    plain = compose([f"recipe={recipe}"]).to_dict()
    for group, name in OPTIONS:
        found = compose([f"recipe={recipe}", f"{group}={name}"]).to_dict()
        asked = content(group, name)
        if group == "data":
            assert found["data"] == plain["data"] | asked
            continue
        for targets, values in tuned.items():
            pairs = [target.partition(".")[::2] for target in targets.split()]
            if pairs[-1][0] == group and all(found[part]["name"] == of for part, of in pairs if of):
                asked |= values
        assert found[group] == from_dict({group: asked}).to_dict()[group], f"{group}={name}"
        for other in set(GROUPS) - {group, "recipe", "data", "optimizer"}:
            assert found[other] == plain[other]


@pytest.mark.parametrize(
    ("words", "section", "expected"),
    [
        (["data=caltech101", "augment=none"], "augment", {"start_size": 1.0, "end_size": 1.0, "flip": "none"}),
        (["recipe=speedrun", "augment=none"], "augment", {"flip": "none", "start_size": 1.0}),
        (["recipe=speedrun", "augment=none"], "test", {"views": "none"}),
        (["recipe=speedrun"], "test", {"views": "mirror_shift"}),
        (["recipe=speedrun"], "init", {"whiten": True, "dirac": True, "freeze": 1, "frozen_biases": False}),
        (["recipe=speedrun", "model=resnet"], "init", {"whiten": False, "dirac": False, "freeze": "none"}),
        (["recipe=speedrun", "model=pretrained"], "init", {"whiten": False}),
        (["recipe=speedrun_mnist", "model=mlp"], "init", {"whiten": False, "freeze": "none"}),
        (["recipe=speedrun", "model=resnet", "init.dirac=true"], "init", {"whiten": False, "dirac": True}),
        (["recipe=speedrun", "test.views=none"], "test", {"views": "none"}),
        (["recipe=speedrun", "optimizer=adamw"], "optimizer", content("optimizer", "adamw")),
        (["recipe=dann", "schedule=linear"], "schedule", {"warmup": 0.1}),
        (["data=fashion_mnist", "schedule=constant"], "schedule", {"warmup": 0.0}),
    ],
)
def test_what_belongs_to_an_option_goes_with_it(words: list[str], section: str, expected: dict[str, Any]) -> None:
    found = compose(words).to_dict()[section]
    assert {key: found[key] for key in expected} == expected


VALUES: dict[str, list[str]] = {
    "augment.start_size": ["0.5", "0.75"],
    "augment.flip": ["random", "alternate"],
    "trainer.epochs": ["7", "9"],
    "trainer.ema": ["0.5", "null"],
    "trainer.label_smoothing": ["0.3", "0.0"],
    "schedule.warmup": ["0.3", "0.4"],
    "optimizer.lr": ["0.07", "0.09"],
    "optimizer.weight_decay": ["0.7", "0.0"],
    "model.width": ["5", "6"],
    "data.image_size": ["[48, 48]", "[64, 48]"],
    "data.val_fraction": ["0.3", "0.25"],
    "test.views": ["mirror", "shift"],
    "init.freeze": ["2", "backbone"],
    "logger.gradients": ["true", "false"],
}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(RECIPES),
    st.dictionaries(st.sampled_from(sorted({group for group, _ in OPTIONS})), st.integers(0, 99), max_size=3),
    st.dictionaries(st.sampled_from(sorted(VALUES)), st.integers(0, 1), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_a_key_holds_whatever_recipe_and_options_stand_beside_it(
    recipe: str, chosen: dict[str, int], keys: dict[str, int], shuffled: Any
) -> None:
    words = [f"recipe={recipe}"]
    words += [f"{group}={options(group)[number % len(options(group))]}" for group, number in chosen.items()]
    words += [f"{key}={VALUES[key][number]}" for key, number in keys.items()]
    shuffled.shuffle(words)
    found = resolve(words)
    for key, number in keys.items():
        section, name = key.split(".")
        assert found.config.to_dict()[section][name] == yaml.safe_load(VALUES[key][number]), key
        assert found.sources[key] == "given"


LAYERS = ("recipe", "config", "experiment", "option", "key")  # the weakest first
LAYERED = {
    "augment.rotation": ("name: mine", range(1, 6)),
    "schedule.warmup": ("name: linear", (0.1, 0.2, 0.3, 0.4, 0.5)),
    "optimizer.lr": ("name: SGD", (0.1, 0.2, 0.3, 0.4, 0.5)),
    "model.width": ("name: resnet", range(8, 13)),
    "data.val_fraction": ("name: digits", (0.1, 0.2, 0.3, 0.4, 0.5)),
    "trainer.epochs": ("", range(3, 8)),  # of no group
}


@pytest.mark.parametrize("key", LAYERED)
def test_of_all_layers_the_strongest_that_says_something_holds(key: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    head, numbers = LAYERED[key]
    values = dict(zip(LAYERS, numbers, strict=True))
    nested = {layer: f"{section}: {{{name}: {value}}}\n" for layer, value in values.items()}
    write(tmp_path, recipe__mine=nested["recipe"], experiment__mine=nested["experiment"], file=nested["config"])
    if head:
        write(tmp_path, **{f"{section}__mine": f"{head}\n{name}: {values['option']}\n"})
        write(tmp_path, **{f"{section}__silent": f"{head}\n"})
    words = {
        "recipe": "recipe=mine",
        "experiment": "+experiment=mine",
        "option": f"{section}=mine",
        "key": f"{key}={values['key']}",
    }
    for count in range(1, len(LAYERS) + 1):
        for present in itertools.combinations(LAYERS, count):
            if ("option" in present and not head) or {"recipe", "config"} <= set(present):
                continue  # a recipe that is asked for by name stands above a file, see below
            file = tmp_path / "file.yaml" if "config" in present else None
            given_words = [words[layer] for layer in present if layer in words]
            found = resolve(given_words, tmp_path, file)
            assert found.config.to_dict()[section][name] == values[present[-1]], present
            assert found.sources[key].split()[0] == {"key": "given"}.get(present[-1], present[-1])
    if head and section != "data":  # an option that says nothing of it leaves nothing of what stands below
        silent = resolve([f"{section}=silent", "recipe=mine", "+experiment=mine"], tmp_path)
        assert silent.sources.get(key, "default") == "default"


def test_a_recipe_that_is_asked_for_stands_above_a_config_file(tmp_path: Path) -> None:
    write(tmp_path, file="trainer: {epochs: 77}\n")
    assert compose(["data=mnist"], config_file=tmp_path / "file.yaml").trainer.epochs == 77
    assert compose(["recipe=mnist"], config_file=tmp_path / "file.yaml").trainer.epochs == 4


def test_settings_that_follow_from_the_images_stand_between_recipe_and_what_is_said(tmp_path: Path) -> None:
    write(tmp_path, experiment__mine="trainer: {batch_size: 9}\n")
    derived = {"trainer.batch_size": (16, "168 images"), "trainer.ema": (0.9, "few steps"), "model": ("convnet", "x")}
    found = resolve(["data=folder"], derived=derived)
    assert (found.config.trainer.batch_size, found.config.trainer.ema) == (16, 0.9)
    assert (found.config.model, found.sources["trainer.ema"]) == ({"name": "convnet"}, "set: few steps")
    assert compose(["data=folder", "trainer.ema=null", "model=vgg"], derived=derived).trainer.ema is None
    assert compose(["data=folder", "model=vgg"], derived=derived).model["name"] == "vgg"
    assert compose(["data=folder", "experiment=mine"], tmp_path, derived=derived).trainer.batch_size == 9


# ---- the user's own files


@pytest.mark.parametrize(
    ("files", "words", "named"),
    [
        ({"data__x": "name: os:system\n"}, ["data=x"], "conf/data/x.yaml"),
        ({"data__digits": "name: os:system\n"}, [], "conf/data/digits.yaml"),
        ({"model__x": "name: os:system\n"}, ["model=x"], "conf/model/x.yaml"),
        ({"experiment__x": "data: {name: os:system}\n"}, ["experiment=x"], "conf/experiment/x.yaml"),
        ({"experiment__x": "adapt: {method: dann, data: os:system}\n"}, ["experiment=x"], "conf/experiment/x.yaml"),
        ({"experiment__x": "defaults: [override /data: os:system]\n"}, ["experiment=x"], "conf/experiment/x.yaml"),
        ({"recipe__x": "defaults: [override /model: os:system]\n"}, ["recipe=x"], "conf/recipe/x.yaml"),
        ({"recipe__x": "tuned: {model.mlp: {name: os:system}}\n"}, ["recipe=x", "model=mlp"], "conf/recipe/x.yaml"),
    ],
)
def test_a_file_names_no_code_unless_it_is_trusted(
    files: dict[str, str], words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "conf", **files)
    message = refusal(*words)
    assert named in message and "os:system yourself, or pass --trust-code" in message
    assert "os:system" in str(compose(words, trust_code=True))


def test_a_config_file_names_no_code_unless_a_word_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text("data: {name: 'os:system', args: {command: 'exit 1'}}\nmodel: {name: 'mine:Net'}\n")
    with pytest.raises(ConfigError, match=r"data=os:system is code that config .*evil.yaml names"):
        compose([], config_file=file)
    with pytest.raises(ConfigError, match=r"model=mine:Net is code"):
        compose(["data=mnist"], config_file=file)
    assert compose(["data=mnist", "model=mine:Net"], config_file=file).model == {"name": "mine:Net"}


# ---- the option of a set puts aside what others say of theirs


def test_a_set_that_is_given_puts_aside_what_lower_files_say_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "conf",
        data__scans="name: folder\nroot: scans\nimage_size: 32\n",
        experiment__first="defaults: [override /data: scans]\ndata: {fit: squash}\nseed: 3\n",
    )
    config = compose(["experiment=first", "data=mnist"])
    assert config.data == compose(["data=mnist"]).data and config.seed == 3
    assert compose(["experiment=first"]).data.root == "scans"
    file = tmp_path / "run.yaml"
    file.write_text("data: {name: folder, root: photos, image_size: [96, 96], fit: squash}\n")
    assert compose(["data=mnist"], config_file=file).data == compose(["data=mnist"]).data
    assert compose(["data=caltech101"]).data.fit == "squash"  # the recipe says so, and it stays


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write(
        tmp_path / "conf",
        data__photos="name: folder\nroot: /images\nimage_size: 96\n",
        model__wide="name: resnet\nwidth: 32\nshortcut: b\n",
        model__tiny="name: mymodels:Tiny\nhidden: [3]\n",
        augment__turned="rotation: 90\n",
        optimizer__quick="name: NAdam\nlr: 0.004\n",
        optimizer__muon_slow="name: Muon\nlr: 0.001\n",
        schedule__steps="name: multistep\nmilestones: [2, 3]\n",
        logger__quiet="tensorboard: false\n",
        recipe__mine=(
            "# @package _global_\ndefaults:\n  - cifar10\n  - override /model: wide\n  - override /augment: none\n"
            "trainer: {epochs: 4}\ntuned:\n  optimizer.SGD: {lr: 0.7}\n"
        ),
        recipe__photos="defaults:\n  - override /model: convnet\ntrainer: {epochs: 6}\n",
        experiment__first=(
            "# @package _global_\ndefaults:\n  - override /data: cifar10\n  - override /optimizer: quick\n  - _self_\n"
            "seed: 3\ntrainer:\n  epochs: 5\ninit: {from: runs/x}\n"
        ),
        experiment__second="defaults:\n  - first\n  - override /recipe: mine\nseed: 4\n",
    )


def test_own_options_are_found_in_conf_and_in_the_folder_that_is_named(conf: Path, tmp_path: Path) -> None:
    words = ["model=wide", "augment=turned", "optimizer=quick", "logger=quiet", "schedule=steps"]
    config = compose(words)
    assert config.model == {"name": "resnet", "width": 32, "shortcut": "B"}
    assert (config.augment.name, config.augment.rotation) == ("turned", 90)
    assert config.optimizer == {"name": "NAdam", "lr": 0.004}
    assert (config.schedule.milestones, config.logger.tensorboard) == ([2, 3], False)
    assert compose(["model=tiny"], trust_code=True).model == {"name": "mymodels:Tiny", "hidden": [3]}
    elsewhere = conf.rename(tmp_path / "other")
    assert "wide" not in refusal("model=wide").split("Known")[0].replace("'wide'", "")
    assert compose(words, elsewhere) == config
    assert compose(words, str(elsewhere)) == config


def test_an_own_data_option_brings_its_recipe_and_beats_what_it_says(conf: Path) -> None:
    config = compose(["data=photos"])
    assert (config.data.name, config.data.root, config.data.image_size) == ("folder", "/images", [96, 96])
    assert (config.model["name"], config.trainer.epochs) == ("convnet", 6)
    (conf / "recipe/photos.yaml").unlink()
    assert compose(["data=photos"]).augment == compose(["data=folder"]).augment
    assert compose(["data=photos", "recipe=caltech101"]).data.image_size == [96, 96]


def test_an_own_recipe_builds_on_another_and_chooses_options(conf: Path) -> None:
    config = compose(["recipe=mine", "data=cifar10"])
    assert (config.model["width"], config.augment.name, config.trainer.epochs) == (32, "none", 4)
    assert (config.trainer.ema, config.schedule.name) == (0.998, "linear")  # those of cifar10
    assert compose(["recipe=mine", "optimizer=sgd"]).optimizer["lr"] == 0.7


def test_an_own_recipe_takes_the_place_of_the_one_that_comes_with_cnnlab(conf: Path) -> None:
    write(conf, recipe__digits="trainer: {epochs: 2}\n")
    assert (compose().trainer.epochs, compose().model["name"]) == (2, "convnet")
    write(conf, recipe__digits="defaults: [digits]\ntrainer: {epochs: 2}\n")  # and builds on it
    assert (compose().trainer.epochs, compose().model["name"]) == (2, "vgg")


def test_an_own_option_is_taken_as_it_stands(conf: Path) -> None:
    """What a recipe tuned is for the options that come with cnnlab."""
    assert compose(["recipe=speedrun", "optimizer=muon_slow"]).optimizer == {"name": "Muon", "lr": 0.001}
    assert compose(["recipe=speedrun", "optimizer=muon"]).optimizer["lr"] == 0.24


@pytest.mark.parametrize("word", ["experiment=first", "+experiment=first"])
def test_an_experiment_stands_above_the_recipe_of_its_data(conf: Path, word: str) -> None:
    config = compose([word])
    assert (config.data.name, config.model["name"], config.optimizer["name"]) == ("cifar10", "resnet", "NAdam")
    assert (config.seed, config.trainer.epochs, config.init.source) == (3, 5, "runs/x")
    assert compose([word, "trainer.epochs=9", "optimizer=sgd"]).optimizer["name"] == "SGD"
    assert compose([word, "data=mnist"]).model["name"] == "vgg"


def test_an_experiment_builds_on_another_and_chooses_the_recipe(conf: Path) -> None:
    found = resolve(["experiment=second"])
    assert (found.config.seed, found.config.trainer.epochs, found.config.model["width"]) == (4, 5, 32)
    assert found.chosen["recipe"] == ("mine", "experiment second (conf/experiment/second.yaml)")
    assert compose(["experiment=second", "recipe=default"]).model["name"] == "convnet"


def test_a_number_with_an_exponent_is_a_number_in_a_file_as_on_the_command_line(conf: Path) -> None:
    write(conf, experiment__small="# @package _global_\noptimizer: {lr: 3e-3}\ntrainer: {label_smoothing: 1E-1}\n")
    config = compose(["experiment=small"])
    assert (config.optimizer["lr"], config.trainer.label_smoothing) == (0.003, 0.1)
    assert compose(["optimizer.lr=3e-3"]).optimizer["lr"] == 0.003


def test_an_option_for_every_section_says_so(conf: Path) -> None:
    write(conf, model__whole="# @package _global_\nmodel: {name: vgg, width: 8}\ntrainer: {batch_size: 5}\n")
    config = compose(["model=whole"])
    assert (config.model, config.trainer.batch_size) == ({"name": "vgg", "width": 8}, 5)


def test_a_folder_called_conf_without_known_folders_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "conf", nginx__site="a: [")
    assert compose() == compose([], None)
    assert "none of the folders" in refusal(config_dir=tmp_path / "conf")
    monkeypatch.chdir(SHIPPED.parent)  # whose ./conf is that of cnnlab
    assert resolve(["data=cifar10"]).paths == ()


def test_the_user_s_own_names_are_among_those_that_are_suggested(conf: Path) -> None:
    assert "'wide'" in refusal("model=wyde")
    assert "'photos'" in refusal("data=photo")
    assert "'first'" in refusal("experiment=frist")
    assert "unknown experiment 'x'" in refusal(
        "experiment=x", config_dir=write(conf.parent / "b", model__a="name: vgg")
    )


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("model/x", "width: 3\n", "its `name`"),
        ("model/x", "name: resnet\n_target_: os.system\n", "nothing in a file is executed"),
        ("model/x", "name: ${oc.env:HOME}\n", "stands for a value elsewhere"),
        ("model/x", "name: 2026-01-01\n", "model.name"),
        ("model/x", "a: [", "cannot be read (ParserError, line 1)"),
        ("model/x", "", "is not a configuration"),
        ("model/x", "- 1\n", "is not a configuration"),
        ("model/x", "defaults: [x]\nname: vgg\n", "includes itself"),
        ("model/x", "defaults: [resnt]\n", "'resnet'"),
        ("model/x", "defaults:\n  - override /augment: none\nname: vgg\n", "cannot choose an option of 'augment'"),
        ("model/x", "# @package other\nname: vgg\n", "@package"),
        ("augment/x", "rotaton: 3\n", "'augment.rotation'"),
        ("augment/x", "rotation: far\n", "augment.rotation must be a number, got 'far'"),
        ("recipe/x", "trainer: {epoch: 3}\n", "'trainer.epochs'"),
        ("recipe/x", "trainr: {epochs: 3}\n", "'trainer.epochs'"),
        ("recipe/x", "trainer: 3\n", "trainer is not a section"),
        ("recipe/x", "hydra: {run: {dir: x}}\n", "hydra"),
        ("recipe/x", "tuned: [1]\n", "tuned must name"),
        ("recipe/x", "tuned: {trainer: {epoch: 1}}\n", "'trainer.epochs'"),
        ("recipe/x", "defaults: none\n", "defaults must be a list"),
        ("recipe/x", "defaults:\n  - override /recipe: mnist\n", "cannot choose an option of 'recipe'"),
        ("recipe/x", "defaults:\n  - override /modle: mlp\n", "'model'"),
        ("recipe/x", "defaults:\n  - override /model: ${a}\n", "unknown model '${a}'"),
        ("recipe/x", "defaults:\n  - override /model@a: mlp\n", "cannot read"),
        ("recipe/x", "defaults:\n  - 3\n", "cannot read 3"),
        ("experiment/x", "defaults:\n  - override /optimizer: adm\n", "'adam'"),
        ("experiment/x", "seed: lucky\n", "seed must be a whole number, got 'lucky'"),
    ],
)
def test_a_mistake_in_an_own_file_is_one_line_that_names_the_file(file: str, text: str, named: str, conf: Path) -> None:
    write(conf, **{file.replace("/", "__"): text})
    message = refusal(f"{file.split('/')[0]}=x")
    assert named in message
    assert "conf/" in message or "includes itself" in message
    assert os.environ["HOME"] not in message


def test_a_value_out_of_range_names_the_file_that_it_comes_from(conf: Path) -> None:
    write(conf, experiment__x="trainer: {epochs: 0}\n")
    assert refusal("experiment=x").endswith("got 0. It comes from experiment x (conf/experiment/x.yaml).")


documents = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=6), st.sampled_from(["resnet", "_self_", "x"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(["defaults", "tuned", "name", "trainer", "epochs", "override /model", "model", "seed"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(documents, st.sampled_from(["model", "recipe", "experiment", "data"]))
def test_whatever_an_own_file_holds_gives_a_config_or_one_line(document: Any, group: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), **{f"{group}__x": yaml.safe_dump(document)})
        for arguments in ({"overrides": [f"{group}=x"]}, {"config_file": f"{folder}/{group}/x.yaml"}):
            try:
                assert isinstance(compose(config_dir=folder, **arguments), Config)  # type: ignore[arg-type]
            except CnnlabError as error:
                assert str(error)


# ---- a config file


@pytest.mark.parametrize("words", [[], ["data=cifar10", "model.depth=8"], ["recipe=speedrun"], ["logger=none"]])
def test_a_config_file_of_a_run_is_that_run_s_settings(words: list[str], tmp_path: Path) -> None:
    config = compose([*words, "run.dir=runs/a", "run.name=a"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    for given_file in (file, tmp_path):  # or the run folder
        again = compose(config_file=given_file)
        assert again.run.dir is None
        assert again.run.name is None
        assert again.to_dict() | {"run": 0} == config.to_dict() | {"run": 0}
    changed = compose(["trainer.epochs=77", "augment=none", "optimizer=adamw"], config_file=file)
    assert (changed.trainer.epochs, changed.augment.flip) == (77, "none")
    assert (changed.optimizer, changed.model) == (content("optimizer", "adamw"), config.model)


def test_what_a_run_of_an_earlier_version_did_not_know_is_not_taken_from_a_recipe(tmp_path: Path) -> None:
    values = compose(["data=cifar10"]).to_dict()
    del values["trainer"]["ema"], values["test"]
    write(tmp_path, config=yaml.safe_dump(values))
    assert compose(config_file=tmp_path / "config.yaml").trainer.ema is None


def test_a_config_file_with_some_keys_stands_on_the_recipe_of_its_data(tmp_path: Path) -> None:
    write(tmp_path, a="data: {name: mnist}\nmodel: {name: vgg, depth: 16}\ntrainer: {batch_size: 50}\n")
    config = compose(config_file=tmp_path / "a.yaml")
    assert (config.trainer.epochs, config.trainer.batch_size, config.schedule.name) == (4, 50, "linear")
    assert config.model == {"name": "vgg", "depth": 16}


@pytest.mark.parametrize(
    ("text", "named"), [("sed: 1\n", "'seed'"), ("data: {root: '${a}'}\n", "${"), ("a: [", "line 1"), ("", "is not")]
)
def test_a_wrong_config_file_is_refused_by_its_name(text: str, named: str, tmp_path: Path) -> None:
    write(tmp_path, wrong=text)
    message = refusal(config_file=tmp_path / "wrong.yaml")
    assert named in message
    assert "wrong.yaml" in message


# ---- names in any case, classes of torch.optim


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("optimizer=NAdam", "NAdam"),
        ("optimizer=nadam", "NAdam"),
        ("optimizer=torch.optim.NAdam", "NAdam"),
        ("optimizer=optim.RAdam", "RAdam"),
        ("optimizer=adamax", "Adamax"),
        ("optimizer.name=torch.optim.NAdam", "NAdam"),
        ("optimizer.name=nadam", "NAdam"),
        ("optimizer=torch.optim.SGD", "SGD"),
    ],
)
def test_a_class_of_torch_optim_is_named_as_one_likes(word: str, name: str) -> None:
    assert compose([word]).optimizer["name"] == name


def test_an_option_has_its_name_in_any_case_before_a_class() -> None:
    assert compose(["recipe=default", "optimizer=AdamW"]).optimizer == content("optimizer", "adamw")
    assert compose(["model=ResNet"]).model["name"] == "resnet"


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("optimizer=LBFGS", "LBFGS"),
        ("optimizer=torch.optim.SparseAdam", "SparseAdam"),
        ("optimizer=torch.optim.Muon", "optimizer=muon"),
        ("optimizer=NAdma", "'NAdam'"),
        ("optimizer=torch.optim.Lion", "unknown optimizer"),
    ],
)
def test_what_cannot_train_here_is_refused_at_once(word: str, named: str) -> None:
    assert named in refusal(word)


@pytest.mark.parametrize(
    ("words", "key", "name"),
    [
        (["model=resnet", "model.shortcut=a"], "shortcut", "A"),
        (["model=lenet", "model.activation=ReLU"], "activation", "relu"),
        (["model=lenet", "model.activation=LeakyReLU"], "activation", "leaky_relu"),
        (["model=vgg", "model.activation=leaky-relu"], "activation", "leaky_relu"),
        (["model=mine:Net", "model.activation=ReLU"], "activation", "ReLU"),
    ],
)
def test_activations_and_shortcuts_are_taken_in_any_case_and_written_in_one(
    words: list[str], key: str, name: str
) -> None:
    assert compose(words).model[key] == name


def test_a_model_from_python_keeps_the_names_as_they_are_written() -> None:
    for name, key, value, kept in (("resnet", "shortcut", "b", "B"), ("lenet", "activation", "GELU", "gelu")):
        assert model_spec(create_model(name, **{key: value}))[1][key] == kept
    assert {"activation": tuple(ACTIVATIONS), "shortcut": SHORTCUTS} == MODEL_CHOICES


def test_choices_are_taken_in_any_case() -> None:
    assert compose(["trainer.precision=BF16"]).trainer.precision == "bf16"
    assert compose(["augment.crop=Resized"]).augment.crop == "resized"


# ---- milestones


@pytest.mark.parametrize(("text", "kept"), [("[5,8]", [5, 8]), ("[0.5,0.75]", [0.5, 0.75]), ("[1]", [1]), ("[]", [])])
def test_milestones_are_epochs_or_shares(text: str, kept: list[float]) -> None:
    words = ["schedule=multistep", f"schedule.milestones={text}", "trainer.epochs=10"]
    assert compose(words).schedule.milestones == kept


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[0.5,8]", "not both"),
        ("[2.5]", "nothing else"),
        ("[0]", "nothing else"),
        ("[-1]", "nothing else"),
        ("[5,10]", "never reached in trainer.epochs=10; lower 10"),
        ("[12]", "never reached"),
        ("[a]", "schedule.milestones must be a list of numbers"),
    ],
)
def test_other_milestones_are_refused(text: str, named: str) -> None:
    assert named in refusal("schedule=multistep", f"schedule.milestones={text}", "trainer.epochs=10")


# ---- types in our words


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.epochs=zero", "trainer.epochs must be a whole number, got 'zero'."),
        ("trainer.epochs=1.5", "trainer.epochs must be a whole number, got 1.5."),
        ("trainer.epochs=null", "trainer.epochs must be a whole number, got null."),
        ("trainer.epochs=true", "trainer.epochs must be a whole number, got true."),
        ("trainer.epochs=[1]", "trainer.epochs must be a whole number, got [1]."),
        ("trainer.epochs=0", "trainer.epochs must be at least 1, got 0."),
        ("data.limit=few", "data.limit must be a whole number or null, got 'few'."),
        ("trainer.ema=high", "trainer.ema must be a number or null, got 'high'."),
        ("trainer.ema=1", "trainer.ema must be at least 0 and below 1, got 1.0."),
        ("trainer.deterministic=perhaps", "trainer.deterministic must be true or false, got 'perhaps'."),
        ("augment.scale=3", "augment.scale must be a list of numbers, got 3."),
        ("trainer.precision=half", "trainer.precision must be one of auto, fp32, bf16, fp16, got 'half'."),
        ("seed=lucky", "seed must be a whole number, got 'lucky'."),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_in_our_words(word: str, message: str) -> None:
    assert refusal(word) == message


@pytest.mark.parametrize(
    ("text", "inside", "outside", "words"),
    [
        ("[0, 1)", [0, 0.5], [-0.1, 1, float("nan")], "at least 0 and below 1"),
        ("(0, 1]", [0.1, 1], [0, 1.1], "above 0 and at most 1"),
        ("[1, inf)", [1, 1e9], [0, float("inf")], "at least 1"),
        ("(0, inf)", [1e-9], [0, float("nan")], "above 0"),
        ("[0.125, 1]", [0.125, 1], [0.1], "from 0.125 to 1"),
    ],
)
def test_an_interval_holds_what_its_notation_says(
    text: str, inside: list[float], outside: list[float], words: str
) -> None:
    interval = Interval.read(text)
    assert all(number in interval for number in inside)
    assert not any(number in interval for number in outside)
    assert str(interval) == words


# ---- what a person reads


def test_every_key_says_what_it_means() -> None:
    for name, field in known_keys().items():
        assert 5 < len(field.metadata["about"]) < 120, name


@pytest.mark.parametrize("name", list_models())
def test_every_argument_of_a_model_says_what_it_means(name: str) -> None:
    for key, _, about in argument_rows(name):
        assert about, f"model.{key} of {name}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_options_fit_into_80_columns_and_show_what_the_recipe_sets(recipe: str) -> None:
    composed = resolve([f"recipe={recipe}"])
    text = options_text(composed, None, {})
    assert max(map(len, text.splitlines())) <= 80
    shown = dict(re.findall(r"^  ([\w.]+)=(.*?)(?:  \(.*)?$", text, flags=re.MULTILINE))
    for key, source in composed.sources.items():
        section, name = key.split(".")
        if name == "name":
            continue
        value, key = composed.config.to_dict()[section][name], key.replace("init.source", "init.from")
        assert yaml.safe_load(shown[key]) == value, key
        if value != getattr(getattr(Config(), section), name, value):
            assert re.search(rf"^  {key}=[^\n]*\s+\({source}; *", text, flags=re.MULTILINE), key


@pytest.mark.parametrize(
    "words", [[], ["recipe=speedrun", "optimizer=nadam", "trainer.epochs=3"], ["data.root=a: b#c"]]
)
def test_an_explanation_is_the_configuration_with_its_reasons(words: list[str], tmp_path: Path) -> None:
    composed = resolve(words)
    text = explain_text(composed)
    file = tmp_path / "again.yaml"
    file.write_text(text, encoding="utf-8")
    assert compose(config_file=file) == composed.config
    for word in words:
        key, value = word.split("=")
        if "." in key:
            assert re.search(rf"^  {key.split('.')[1]}: .*  # given$", text, re.MULTILINE)
        else:
            assert f"# {key}={value}: given\n" in text
    assert re.search(r"^  grad_clip: null +# default$", text, re.MULTILINE)
    assert re.search(r"^  batch_size: \d+ +# recipe \w+$", text, re.MULTILINE)


def test_names_of_optimizers_are_those_that_can_be_made() -> None:
    assert {"SGD", "Muon", "NAdam"} <= set(optimizer_names())
    assert not {"LBFGS", "Optimizer"} & set(optimizer_names())
