"""What a file of a run must look like, and what is said where it does not."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnnlab.config import compose, load_yaml, to_yaml
from cnnlab.errors import ConfigError, RunError
from cnnlab.models.registry import create_model, model_spec
from cnnlab.runs.files import read_json, read_record
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.schema import NUMBER, Each, Maybe, validate
from cnnlab.runs.weights import load_run, save_weights
from cnnlab.values import DEEPEST, are_names, overgrown

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (3, int),
        (3, NUMBER),
        (-0.5, NUMBER),
        (NAN, NUMBER),  # a loss that was measured
        ("a", str),
        (None, Maybe(int)),
        ([], [int]),
        ([1, 2.5], (int, NUMBER)),
        ({"a": 1, "more": object()}, {"a": int}),
        ({}, {"a?": int}),
        ({"a": None}, {"a?": int}),
        ({"x": ["a"], "y": []}, Each([str])),
        ({"x": object()}, Each(Any)),
    ],
)
def test_what_fits(value: Any, schema: Any) -> None:
    assert validate(value, schema) == ""


@pytest.mark.parametrize(
    ("value", "schema", "said"),
    [
        (True, int, "the whole should be a whole number"),
        (True, NUMBER, "the whole should be a number"),
        (1.0, int, "the whole should be a whole number"),
        ("1", NUMBER, "the whole should be a number"),
        (10**400, int, "the whole is out of range"),
        (float("inf"), NUMBER, "the whole is out of range"),
        (None, {"a": int, "b?": int}, "the whole should hold a, b"),
        ({}, {"a": int}, "a is missing"),
        ({"a": {}}, {"a": {"b": int}}, "b is missing in a"),
        ({"a": None}, {"a": int}, "a should be a whole number"),
        ({"a": "x"}, {"a?": int}, "a should be a whole number"),
        ({"a": [1, "x"]}, {"a": [int]}, "a[1] should be a whole number"),
        ([1, 2, 3], (int, int), "the whole should be a list of 2"),
        ({"0": 1}, [int], "the whole should be a list"),
        ([], Each(int), "the whole should hold keys and values"),
        ({"a": {"b": []}}, {"a": Each(int)}, "a.b should be a whole number"),
    ],
)
def test_what_does_not_fit(value: Any, schema: Any, said: str) -> None:
    assert validate(value, schema) == said


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 0


def test_deep_and_many_containers() -> None:
    assert not overgrown(nested(DEEPEST)) and overgrown(nested(DEEPEST + 2))
    assert not overgrown([{"a": i} for i in range(100_000)])
    bomb: Any = ["x"]
    for _ in range(12):  # ten lines of YAML, 10¹² containers
        bomb = [bomb] * 10
    assert overgrown(bomb)


def test_names_that_can_be_shown() -> None:
    assert are_names(["cat", "Katze", "猫", "two words", "<b>"]) and are_names(())
    for wrong in ("\x1b[31mred", "a\nb", "bell\a", "\u202eturned", 3, None):
        assert not are_names(["cat", wrong])


@pytest.mark.parametrize("text", ["", "nonsense", "[" * 100_000, json.dumps(nested(100)), "\udcff", "9" * 5000])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "split.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"split\.json .*restore it from a copy"):
        read_json(file)


def test_a_record_says_where_it_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "test.json"
    file.write_text('{"loss": 1, "accuracy": "high"}')
    with pytest.raises(RunError, match=r"accuracy should be a number; restore it"):
        read_record(file, {"loss": NUMBER, "accuracy": NUMBER})


def test_a_history_of_other_things_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    row = {"epoch": 1, "step": 2, "lr": 0.1, "train_loss": 1.0, "train_accuracy": 0.5, "val_loss": None}
    row |= {"val_accuracy": None, "seconds": 1.0, "images_per_second": 10.0}
    folder.write_history([row])
    assert folder.history() == [row]
    folder.write_history([row, row | {"seconds": "long"}])
    with pytest.raises(RunError, match=r"\[1\]\.seconds should be a number"):
        folder.history()


def test_a_configuration_cannot_ask_for_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    file = tmp_path / "config.yaml"
    text = to_yaml(compose(["data=digits", "run.name=mine"]))
    file.write_text(text)
    assert load_yaml(file).run.name == "mine"
    file.write_text(text.replace("name: mine", "name: ${oc.env:TOKEN}"))
    with pytest.raises(ConfigError, match=r"run\.name holds \$\{"):
        load_yaml(file)


def test_nor_can_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    with pytest.raises(ConfigError, match=r"run\.name holds \$\{") as caught:
        compose(["data=digits", "run.name=${oc.env:TOKEN}"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, yaml.safe_dump({"a": nested(60)})])
def test_deep_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read"):
        load_yaml(file)


def card_of(model: dict[str, Any], **changed: Any) -> dict[str, Any]:
    layout = {"height": 8, "width": 8, "mode": "L", "fit": "crop"}
    preprocess = {"layout": layout, "mean": [0.5], "std": [0.25]}
    return {"model": model, "classes": ["a", "b"], "preprocess": preprocess, "epoch": 1} | changed


@pytest.mark.parametrize(
    "asked",
    [{"width": 9000}, {"depth": 6_000_002}, {"depth": 14}, {"num_classes": 10**9}, {"width": 10**12}, {"width": -1}],
)
def test_a_card_cannot_ask_for_more_than_there_are_weights(tmp_path: Path, asked: dict[str, int]) -> None:
    """Width 9000 would be 30 GB, and be filled with random numbers before anyone compared."""
    arguments = {"depth": 8, "width": 4, "in_channels": 1, "num_classes": 2}
    tensors = create_model("resnet", **arguments).state_dict()
    folder = RunFolder(tmp_path)
    folder.config.write_text("")
    save_weights(folder, tensors, card_of({"name": "resnet", "arguments": arguments}))
    assert load_run(tmp_path)[1]["epoch"] == 1
    save_weights(folder, tensors, card_of({"name": "resnet", "arguments": arguments | asked}))
    began, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RunError, match="does not fit its model"):
        load_run(tmp_path)
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000


def test_a_class_name_that_moves_the_cursor_is_refused(tmp_path: Path) -> None:
    model = create_model("mlp", hidden=[4], image_size=8, in_channels=1, num_classes=2)
    name, arguments = model_spec(model)
    folder = RunFolder(tmp_path)
    folder.config.write_text("")
    save_weights(folder, model.state_dict(), card_of({"name": name, "arguments": arguments}, classes=["a", "\x1b[2J"]))
    with pytest.raises(RunError, match="a class name that cannot be shown"):
        load_run(tmp_path)


def test_a_configuration_that_lost_its_tail_is_not_filled_up_with_defaults(tmp_path: Path) -> None:
    file, whole = tmp_path / "config.yaml", to_yaml(compose(["data=digits", "trainer.epochs=3"]))
    file.write_text(whole)
    assert load_yaml(file) == compose(["data=digits", "trainer.epochs=3"])
    lines = whole.splitlines(keepends=True)
    for kept in range(len(lines)):
        file.write_text("".join(lines[:kept]))
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            load_yaml(file)
