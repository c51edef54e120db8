"""The configuration: every shipped file composes, overrides win, and whatever a user mistypes is named."""

from __future__ import annotations

import dataclasses
import os
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlab.config import (
    Config,
    DataConfig,
    compose,
    data_keys,
    from_dict,
    known_keys,
    load_yaml,
    options,
    text_keys,
    to_yaml,
)
from cnnlab.data.catalog import CATALOG
from cnnlab.errors import CnnlabError, ConfigError

CONF = Path(str(resources.files("cnnlab"))) / "conf"
FILES = sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml"))

FIXED_KEYS = [
    "seed",
    "run.dir",
    "run.name",
    "data.root",
    "data.val_fraction",
    "data.test_fraction",
    "data.image_size",
    "data.limit",
    "data.download",
    "trainer.epochs",
    "trainer.batch_size",
    "trainer.device",
    "trainer.precision",
    "trainer.compile",
    "trainer.deterministic",
    "trainer.devices",
    "trainer.grad_clip",
    "trainer.ema",
    "trainer.label_smoothing",
    "trainer.class_weights",
    "trainer.early_stopping",
    "logger.tensorboard",
    "logger.wandb",
]


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def refusal_of_value(assignment: str) -> str:
    """What `from_dict` answers, without the tenth of a second that composing takes."""
    key, _, text = assignment.partition("=")
    values: Any = yaml.safe_load(text)
    for name in reversed(key.split(".")):
        values = {name: values}
    with pytest.raises(ConfigError) as caught:
        from_dict(values)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# ---- the shipped files


@pytest.mark.parametrize("file", FILES)
def test_every_file_below_conf_composes(file: str) -> None:
    group, _, name = file.removesuffix(".yaml").rpartition("/")
    if group == "study":  # whose runs tests/study composes, each of them
        assert name in options("study")
        return
    config = compose([f"{group}={name}"] if group else [])
    assert isinstance(config, Config)


def test_the_files_that_are_tested_are_all_there_are() -> None:
    assert len(FILES) > 30
    assert {Path(file).parent.name for file in FILES} >= {"data", "model", "augment", "optimizer", "schedule", "recipe"}


def test_every_data_set_of_the_catalogue_has_an_option_and_a_recipe() -> None:
    assert set(options("data")) == {*CATALOG, "any"}
    assert set(options("recipe")) == {
        *CATALOG,
        "adabn",
        "any",
        "dann",
        "default",
        "finetune",
        "source_only",
        "speedrun",
        "speedrun_mnist",
    }


@pytest.mark.parametrize("key", FIXED_KEYS)
def test_the_fixed_keys_of_the_command_line_exist(key: str) -> None:
    assert key in known_keys()


# ---- recipes and who wins


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("digits", "vgg"),
        ("mnist", "vgg"),
        ("fashion_mnist", "vgg"),
        ("cifar10", "resnet"),
        ("cifar100", "resnet"),
        ("caltech101", "convnet"),
        ("folder", "resnet"),
    ],
)
def test_a_data_set_brings_its_own_recipe(name: str, model: str) -> None:
    config = compose([f"data={name}"])
    assert config.model["name"] == model
    assert config.augment.name != "none"
    if name in ("digits", "mnist"):
        assert config.augment.flip == "none"  # a mirrored 2 is no digit


def test_an_override_beats_the_recipe_whatever_its_place() -> None:
    recipe = compose(["data=cifar10"])
    for overrides in (
        ["model=mlp", "augment=none", "schedule=constant", "trainer.epochs=3", "data=cifar10"],
        ["data=cifar10", "trainer.epochs=3", "schedule=constant", "augment=none", "model=mlp"],
    ):
        config = compose(overrides)
        assert (config.model, config.augment.name, config.schedule.name) == ({"name": "mlp"}, "none", "constant")
        assert config.trainer.epochs == 3 != recipe.trainer.epochs
        assert config.trainer.ema == recipe.trainer.ema


def test_a_key_without_its_option_changes_the_recipe_there_alone() -> None:
    config = compose(["data=caltech101", "augment.rotation=3"])
    assert config.augment.rotation == 3
    assert (config.augment.start_size, config.augment.flip) == (0.5, "none")


def test_an_option_leaves_what_a_recipe_sets_elsewhere() -> None:
    config = compose(["data=caltech101", "augment=none"])
    assert (config.data.image_size, config.data.fit, config.trainer.epochs) == ([160, 160], "squash", 40)
    assert config.augment.start_size == config.augment.end_size == 1
    assert compose(["recipe=speedrun", "augment=none"]).augment.flip == "none"


def test_a_recipe_finds_its_data_whatever_set_is_named() -> None:
    config = compose(["recipe=finetune", "data=folder", "init.from=x"])
    assert (config.data.name, config.data.per_class_train, config.data.val_fraction) == ("folder", 10, 0)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["trainer.epochs=3", "trainer.epochs=5"], ("trainer", "epochs", 5)),
        (["data.root=a", "+data.root=b"], ("data", "root", "b")),
        (["augment=strong", "augment=none"], ("augment", "rotation", 0)),
        (["data=mnist", "data=digits"], ("trainer", "epochs", 30)),
        (["init.from=a", "init.source=b"], ("init", "source", "b")),
        (["init.source=b", "init.from=a"], ("init", "source", "a")),
        (["optimizer=NAdam", "optimizer=sgd"], ("optimizer", "name", "SGD")),
        (["optimizer=sgd", "optimizer=NAdam"], ("optimizer", "name", "NAdam")),
        (["model=mine:Net", "model=mlp"], ("model", "name", "mlp")),
        (["model=mlp", "model=mine:Net"], ("model", "name", "mine:Net")),
    ],
)
def test_of_two_values_for_one_key_the_last_holds(words: list[str], found: tuple[str, str, Any]) -> None:
    group, key, value = found
    assert compose(words).to_dict()[group][key] == value


def test_another_recipe_can_be_asked_for() -> None:
    config = compose(["data=digits", "recipe=cifar10"])
    assert (config.data.name, config.model["name"]) == ("digits", "resnet")
    assert compose(["data=cifar10", "recipe=default"]).trainer.ema is None


def test_what_a_recipe_tuned_for_one_optimizer_is_not_given_to_another() -> None:
    assert compose(["data=cifar10", "optimizer=sgd"]).optimizer["lr"] == 0.3
    for name in ("adam", "adamw", "muon", "rmsprop"):
        alone = compose(["recipe=default", f"optimizer={name}"]).optimizer
        assert compose(["data=cifar10", f"optimizer={name}"]).optimizer == alone
    assert compose(["data=cifar10", "optimizer=NAdam"]).optimizer["lr"] == 1e-3


def test_an_override_beats_what_a_recipe_tuned() -> None:
    assert compose(["data=cifar10", "optimizer.lr=0.05"]).optimizer["lr"] == 0.05
    assert compose(["data=digits", "optimizer=sgd", "optimizer.lr=0.05"]).optimizer["lr"] == 0.05


def test_any_class_of_torch_optim_can_be_named() -> None:
    assert compose(["optimizer=NAdam", "optimizer.lr=0.01"]).optimizer == {
        "name": "NAdam",
        "lr": 0.01,
        "weight_decay": 0.0,
    }


def test_arguments_of_a_model_pass_through() -> None:
    config = compose(["model=resnet", "model.depth=8", "model.shortcut=B", "model.residual=false"])
    assert config.model == {"name": "resnet", "depth": 8, "shortcut": "B", "residual": False}


@pytest.mark.parametrize(("given", "kept"), [("64", [64, 64]), ("[48,64]", [48, 64]), ("null", None)])
def test_image_size_is_one_number_or_height_and_width(given: str, kept: list[int] | None) -> None:
    assert compose([f"data.image_size={given}"]).data.image_size == kept


def test_a_config_is_frozen() -> None:
    config = compose()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.trainer.epochs = 1  # type: ignore[misc]


def test_two_compositions_do_not_share_their_values() -> None:
    first = compose()
    first.model["width"] = 99
    first.augment.scale.append(3)
    second = compose()
    assert "width" not in second.model
    assert len(second.augment.scale) == 2


# ---- there and back


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data=cifar10", "model=mlp", "model.hidden=[64,32]", "optimizer=muon"],
        ["data.root=a b/ü=ö", "run.name=it's", "trainer.class_weights=[1,2.5]", "data.image_size=[8,9]"],
        ["trainer.compile=false", "trainer.ema=0.5", "optimizer=adamw", "optimizer.betas=[0.9,0.99]"],
    ],
)
def test_what_is_written_as_yaml_is_read_back_the_same(overrides: list[str], tmp_path: Path) -> None:
    config = compose(overrides)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_yaml(file) == config
    assert from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "content", [b"", b"- 1\n- 2\n", b"seed: [1\n", b"\xff\xfe\x00", b"seed: many\n", b"sed: 1\n", b"trainer: 3\n"]
)
def test_a_damaged_config_file_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        load_yaml(file)


def test_a_missing_config_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_yaml(tmp_path / "nowhere.yaml")


# ---- what a user can mistype


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("model=resnt", "resnet"),
        ("data=cifar01", "cifar10"),
        ("augment=sandard", "standard"),
        ("optimizer=adamm", "adam"),
        ("schedule=cosinus", "cosine"),
        ("logger=wand", "wandb"),
        ("recipe=mnst", "mnist"),
        ("trainer.epoch=3", "trainer.epochs"),
        ("trainer.batchsize=3", "trainer.batch_size"),
        ("data.rot=x", "data.root"),
        ("sed=3", "seed"),
        ("optimiser=adam", "optimizer"),
        ("augment.rotaton=3", "augment.rotation"),
        ("schedule.warm_up=0.1", "schedule.warmup"),
        ("logger.tensorbord=false", "logger.tensorboard"),
        ("run.dri=x", "run.dir"),
        ("+trainer.epoch=3", "trainer.epochs"),
        ("++trainer.epoch=3", "trainer.epochs"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    message = refusal(wrong)
    assert repr(right) in message
    key, value = wrong.lstrip("+").split("=")
    assert repr(key) in message or repr(value) in message


def test_a_name_like_none_of_them_is_answered_with_all() -> None:
    message = refusal("model=zzzzzz")
    for name in set(options("model")) - {"any"}:  # which stands for the user's own, and is no network
        assert name in message
    assert "any" not in message


@pytest.mark.parametrize("word", ["epochs", "--epochs", "trainer.epochs", "=3", "3=4", "trainer.epochs:3", "", "a b=3"])
def test_a_word_that_is_no_assignment_is_refused(word: str) -> None:
    assert "key=value" in refusal(word)


@pytest.mark.parametrize(
    "wrong",
    [
        "trainer.epochs=ten",
        "trainer.epochs=1.5",
        "trainer.epochs=null",
        "trainer.epochs=[1,2]",
        "trainer.batch_size=big",
        "trainer.deterministic=perhaps",
        "trainer.ema=high",
        "trainer.grad_clip=yes_please",
        "data.limit=few",
        "data.val_fraction=half",
        "seed=lucky",
        "seed=1.5",
        "optimizer.lr=fast",
        "optimizer.lr=true",
        "optimizer.lr=[0.1]",
        "augment.rotation=left",
        "augment.scale=3",
        "augment.scale=[a,b]",
        "schedule.milestones=0.5",
        "data.image_size=large",
        "data.image_size=true",
        "data.image_size=[8,8,8]",
        "data.image_size=8.5",
        "logger.tensorboard=perhaps",
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_key(wrong: str) -> None:
    assert wrong.split("=")[0] in refusal_of_value(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        "seed=-1",
        "trainer.epochs=0",
        "trainer.epochs=-3",
        "trainer.batch_size=0",
        "trainer.batch_size=-1",
        "trainer.accumulate=0",
        "trainer.threads=0",
        "trainer.threads=100000",
        "trainer.class_weights=[0,0]",
        "schedule.milestones=[2,0.5]",
        "schedule.milestones=[2.5]",
        "schedule.milestones=[0,0.5]",
        "schedule.milestones=[0.5,1]",
        "trainer.early_stopping=0",
        "trainer.grad_clip=0",
        "trainer.ema=1",
        "trainer.ema=-0.1",
        "trainer.label_smoothing=1",
        "trainer.focal_gamma=-1",
        "trainer.checkpoint_minutes=-1",
        "trainer.device=tpu",
        "trainer.device=cuda:",
        "trainer.precision=fp8",
        "trainer.compile=maybe",
        "trainer.class_weights=some",
        "trainer.class_weights=[1,-1]",
        "data.val_fraction=1",
        "data.val_fraction=-0.1",
        "data.test_fraction=1.5",
        "data.limit=0",
        "data.per_class_train=0",
        "data.image_size=0",
        "data.image_size=-8",
        "data.image_size=[8,0]",
        "data.image_size=1000000",
        "data.fit=stretch",
        "data.storage=tape",
        "data.max_corrupt=-1",
        "data.workers=-1",
        "augment.flip=vertical",
        "augment.crop=centre",
        "augment.padding=1",
        "augment.scale=[0.5,1.5]",
        "augment.scale=[0.9,0.1]",
        "augment.ratio=[0,1]",
        "augment.erasing=1.5",
        "augment.mixup=-1",
        "schedule.warmup=1",
        "schedule.gamma=-1",
        "optimizer.lr=0",
        "optimizer.lr=-0.1",
        "optimizer.lr=.inf",
        "logger.wandb_mode=cloud",
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(wrong: str) -> None:
    assert wrong.split("=")[0] in refusal_of_value(wrong)


@pytest.mark.parametrize(
    "key",
    [
        "data.val_fraction",
        "trainer.ema",
        "trainer.grad_clip",
        "trainer.focal_gamma",
        "trainer.label_smoothing",
        "augment.rotation",
        "augment.brightness",
        "augment.mixup",
        "schedule.gamma",
        "schedule.final",
        "data.max_corrupt",
        "optimizer.lr",
    ],
)
def test_not_a_number_is_in_no_range(key: str) -> None:
    assert key in refusal_of_value(f"{key}=.nan")


def test_values_that_exclude_each_other_are_refused_together() -> None:
    assert "cutmix" in refusal("augment.mixup=0.2", "augment.cutmix=0.2")
    message = refusal("data.val_fraction=0.5", "data.test_fraction=0.5")
    assert "data.val_fraction" in message
    assert "data.test_fraction" in message


@pytest.mark.parametrize("word", ["~trainer.epochs=3", "~data.root=x", "~model=mlp", "~seed", "~augment"])
def test_nothing_can_be_taken_away(word: str) -> None:
    assert repr(word) in refusal(word)


@pytest.mark.parametrize("value", ["[1]", "x", "3", "[a,b]"])
@pytest.mark.parametrize("source", [[], ["init.from=x"]])
def test_a_map_that_is_none_is_refused_by_its_key(value: str, source: list[str]) -> None:
    assert "init.map" in refusal(f"init.map={value}", *source)


@pytest.mark.parametrize("section", ["run", "data", "model", "init", "augment", "adapt", "optimizer", "trainer"])
@pytest.mark.parametrize("value", [[1], "x", 3, True])
def test_a_section_that_is_none_is_refused_by_its_key(section: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=section):
        from_dict({section: value})


@pytest.mark.parametrize("key", [*sorted(known_keys()), "model.width", "optimizer.lr", "init.from"])
def test_a_key_without_a_value_is_refused(key: str) -> None:
    assert f"{key}=" in refusal(f"{key}=")


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("model.title=ü ö", "model.title"),
        ("model.title=a,b", "model.title"),
        ("seed=3=4", "seed"),
        ("trainer.epochs='3", "trainer.epochs"),
        ("data.limit=[1", "data.limit"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_by_its_key_among_others(word: str, named: str) -> None:
    assert refusal("trainer.batch_size=8", word, "run.name=it's").startswith(f"cannot read the value of {named}, ")


def test_a_quoted_text_arrives_as_it_is_meant() -> None:
    assert compose(["model.title='ü ö, = \"x\"'"]).model["title"] == 'ü ö, = "x"'


def test_a_label_is_no_option() -> None:
    assert "augment=strong" in refusal("augment.name=strong")


# ---- paths and other texts


@pytest.mark.parametrize("text", ["../ph${oc.env:HOME}", "${seed}", "a${x}b", "\\${oc.env:HOME}", "???"])
@pytest.mark.parametrize("key", [*sorted(text_keys() - {"augment.name"}), "init.from", "model.title", "optimizer.kind"])
def test_no_text_is_taken_for_a_value_elsewhere(key: str, text: str) -> None:
    message = refusal(f"{key}={text}")
    assert "init.source" in message if key == "init.from" else key in message
    assert os.environ["HOME"] not in message


@pytest.mark.parametrize(
    "values", [{"data": {"root": "${oc.env:HOME}"}}, {"model": {"name": "x", "a": [{"b": "${c}"}]}}]
)
def test_nor_is_one_from_python_or_a_file(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="stands for a value elsewhere"):
        from_dict(values)


def test_nor_is_one_of_the_keys_for_another_set() -> None:
    from cnnlab.evaluation.evaluate import changed

    for word in ("data.root=${oc.env:HOME}", "data.image_size=[1", "data.limit={", "data.limit=&a *a"):
        with pytest.raises(ConfigError, match=r"data\.(root|image_size|limit)"):
            changed(DataConfig(), data_keys([word]))


@pytest.mark.parametrize(
    "text",
    [
        "my photos/summer 2026",
        "Fotos/Übergröße/日本語",
        "it's",
        'say "hi"',
        "a=b/c=d",
        "a,b{c}[d](e)!?*",
        "[a]/b",
        "{a}/b",
        "100%",
        "a#b",
        "a;b & c|d",
        "~/photos",
        "C:\\photos\\new",
        "ends with \\",
        "\\'",
        "two\nlines",
        "\ttab",
        " spaces around ",
        "'half",
        "😀",
        "a" * 5000,
    ],
)
def test_a_path_arrives_as_it_was_given(text: str) -> None:
    config = compose([f"data.root={text}", f"run.dir={text}"])
    assert (config.data.root, config.run.dir) == (text, text)


@pytest.mark.parametrize("text", ["2026_11_21", "007", "1e5", "1.50", "true", "12", "-3"])
def test_a_name_that_looks_like_a_number_stays_as_it_was_given(text: str) -> None:
    config = compose([f"run.name={text}", f"data.root={text}"])
    assert (config.run.name, config.data.root) == (text, text)


def test_wrong_values_on_the_command_line_are_refused_by_their_keys() -> None:
    for wrong in ("trainer.epochs=ten", "trainer.epochs=1.5", "trainer.batch_size=0", "optimizer.lr=fast"):
        assert wrong.split("=")[0] in refusal(wrong)


def test_null_unsets_a_name() -> None:
    assert compose(["run.name=null"]).run.name is None


words = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
names = st.sampled_from([*sorted(known_keys()), "model", "optimizer", "model.depth", "optimizer.lr", "model.name"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(words, st.builds("{}={}".format, names, words)), max_size=3))
def test_whatever_is_typed_gives_a_config_or_one_line(overrides: list[str]) -> None:
    try:
        config = compose(overrides)
    except CnnlabError as error:
        assert str(error)
        return
    assert isinstance(config, Config)


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
keys = st.sampled_from(["seed", "data", "model", "trainer", "name", "lr", "epochs", "image_size", "class_weights"])
values = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(keys, inner)), max_leaves=5
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(keys, values))
def test_whatever_a_file_holds_gives_a_config_or_one_line(values: dict[str, Any]) -> None:
    try:
        config = from_dict(values)
    except CnnlabError as error:
        assert str(error)
        return
    assert isinstance(config, Config)
    assert isinstance(config.trainer.epochs, int)


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion_mnist"])
def test_a_net_without_batch_norm_gets_a_lower_rate_than_one_with_it(data: str) -> None:
    assert compose([f"data={data}", "model=mlp"]).optimizer["lr"] == 0.05
    assert compose([f"data={data}"]).optimizer["lr"] > 0.05
    assert compose([f"data={data}", "model=mlp", "optimizer.lr=0.2"]).optimizer["lr"] == 0.2
    assert compose([f"data={data}", "model=mlp", "optimizer=adamw"]).optimizer["lr"] < 0.05
