"""`cnnlab model`: for every model of the zoo, and for whatever can be wrong on its line."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnnlab.errors import ModelError
from cnnlab.models.arguments import model_from_words, parse_arguments
from cnnlab.models.cost import multiply_adds
from cnnlab.models.registry import find_model, list_models

if TYPE_CHECKING:
    from conftest import CommandLine

# What a model needs besides its defaults: no download, and little memory.
NEEDED = {"pretrained": ["architecture=resnet18", "weights=null"], "alexnet": ["hidden=[64]"]}
NEEDED |= {f"vgg{layers}": ["hidden=[64]"] for layers in (11, 13, 16, 19)}


# ---- the zoo


@pytest.mark.parametrize("name", list_models())
def test_every_model_has_a_table(name: str) -> None:
    from cnnlab.models.summary import summarise
    from cnnlab.models.table import facts

    words = NEEDED.get(name, [])
    model, shape = model_from_words(name, words)
    summary = summarise(model, shape)
    answer = json.loads(json.dumps(facts(summary)))
    assert answer["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert answer["multiply_adds"] == multiply_adds(model, shape) > 0
    assert summary.idle_parameters == 0
    assert answer["receptive_field"] == "global" if name == "mlp" else answer["receptive_field"] > 1
    assert all(row["arithmetic"] for row in answer["layers"] if row["kind"] in ("Conv2d", "MaxPool2d", "Flatten"))
    channels = inspect.signature(find_model(name)).parameters["in_channels"].default
    assert tuple(answer["layers"][0]["input"]) == shape
    assert shape[0] == channels


@pytest.mark.parametrize("name", [name for name in list_models() if name != "pretrained"])
def test_every_model_takes_channels_and_a_size(name: str) -> None:
    words = [*NEEDED.get(name, []), "in_channels=2", "image_size=[96,112]", "num_classes=5"]
    model, shape = model_from_words(name, words)
    assert shape == (2, 96, 112)
    assert multiply_adds(model, shape) > 0


# ---- what is printed


def test_the_table_shows_each_layer_and_the_totals(command: CommandLine) -> None:
    result = command("model", "resnet", "depth=20", "model.shortcut=A", environment={"COLUMNS": "80"})
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert "\x1b" not in result.out and "…" not in result.out
    assert max(map(len, lines)) <= 80
    place = next(i for i, line in enumerate(lines) if line.startswith("stage2.0.conv1"))
    assert lines[place].split() == ["stage2.0.conv1", "Conv2d", "4,608", "1.18", "M", "17"]
    assert lines[place + 1].split() == ["16×32×32", "→", "32×16×16", "⌊(32+2·1−3)/2⌋+1", "=", "16", "32", "KiB", "2"]
    assert "269,722" in result.out
    assert "40,551,040" in result.out
    assert "81 pixels" in result.out


def test_a_narrow_terminal_loses_nothing(command: CommandLine) -> None:
    result = command("model", "resnet", "depth=8", environment={"COLUMNS": "40"})
    assert "⌊(32+2·1−3)/2⌋+1 = 16" in result.out
    assert "18,432" in result.out


def test_json_is_one_object(command: CommandLine) -> None:
    result = command("model", "resnet", "--json", "depth=8", "in_channels=1", "image_size=[20, 28]")
    answer = json.loads(result.out)
    assert (result.code, answer["input"]) == (0, [1, 20, 28])
    assert {"parameters", "multiply_adds", "receptive_field", "layers"} <= answer.keys()
    assert answer["receptive_field"] == 25
    first = answer["layers"][0]
    assert {key: first[key] for key in ("name", "kind", "input", "output", "parameters")} == {
        "name": "stem.0",
        "kind": "Conv2d",
        "input": [1, 20, 28],
        "output": [16, 20, 28],
        "parameters": 144,
    }
    assert sum(layer["parameters"] for layer in answer["layers"]) == answer["parameters"]


def test_the_list_has_a_line_for_each_model(command: CommandLine) -> None:
    result = command("model", "--list")
    shipped = [name for name in list_models() if ":" not in name]  # other tests may have named their own
    assert [line.split()[0] for line in result.out.splitlines()] == shipped


def test_a_model_of_ones_own(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "mymodels.py").write_text(
        "from torch import nn\n"
        "class Tiny(nn.Sequential):\n"
        "    def __init__(self, width=4):\n"
        "        super().__init__(nn.Conv2d(2, width, 3), nn.Flatten(), nn.LazyLinear(10))\n"
    )
    result = command("model", "mymodels:Tiny", "width=3", "image_size=6", "in_channels=2", "--json", cwd=tmp_path)
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["input"] == [2, 6, 6]
    assert answer["parameters"] == 3 * 19 + 10 * (3 * 16 + 1)
    assert answer["layers"][1]["arithmetic"] == "3·4·4 = 48"


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "NAME"),
        (["resnt"], "resnet"),
        (["resnet", "dpth=20"], "depth"),
        (["resnet", "depth=21"], "20, 26"),
        (["resnet", "depth=deep"], "whole number"),
        (["resnet", "depth"], "key=value"),
        (["resnet", "=3"], "key=value"),
        (["resnet", "optimizer.lr=3"], "optimizer.lr=3"),
        (["mlp", "hidden=[3"], "hidden=[3"),
        (["mlp", "hidden=3"], "list"),
        (["vgg", "image_size=1"], "too small"),
        (["resnet", "image_size=0"], "image_size"),
        (["resnet", "image_size=[1,2,3]"], "image_size"),
        (["resnet", "image_size=large"], "large"),
        (["resnet", "in_channels=0"], "in_channels"),
        (["resnet", "in_channels=rgb"], "rgb"),
        (["nowhere:Tiny"], "nowhere"),
        (["resnet", "--yaml"], "--yaml"),
    ],
)
def test_a_wrong_line_is_answered_with_one(words: list[str], named: str, command: CommandLine) -> None:
    result = command("model", *words)
    assert (result.code, result.out) == (2, "")
    assert len(result.error_lines) == 1
    assert named in result.err


def test_an_image_too_small_for_a_model_of_ones_own_is_one_line(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text("from torch import nn\ndef net(): return nn.Conv2d(3, 4, 7)\n")
    result = command("model", "small:net", "image_size=5", cwd=tmp_path)
    assert result.code == 2
    assert len(result.error_lines) == 1
    assert "(3, 5, 5)" in result.err


# ---- reading the words


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("depth=20", "depth", 20),
        ("model.depth=20", "depth", 20),
        ("hidden=[64, 32]", "hidden", [64, 32]),
        ("residual=false", "residual", False),
        ("dropout=1e-1", "dropout", 0.1),
        ("dropout=.5", "dropout", 0.5),
        ("blocks=null", "blocks", None),
        ("shortcut=B", "shortcut", "B"),
        ("shortcut=", "shortcut", ""),
        ("weights=a=b", "weights", "a=b"),
    ],
)
def test_values_are_read_like_yaml(word: str, key: str, value: object) -> None:
    assert parse_arguments([word]) == {key: value}


def test_of_two_equal_keys_the_last_counts() -> None:
    assert parse_arguments(["depth=8", "model.depth=14"]) == {"depth": 14}


def test_a_default_size_is_the_constructors() -> None:
    assert model_from_words("resnet", ["depth=8"])[1] == (3, 32, 32)
    assert model_from_words("mlp", [])[1] == (1, 28, 28)
    assert model_from_words("mlp", ["image_size=[4,6]"])[1] == (1, 4, 6)
    with pytest.raises(ModelError, match="image_size"):
        model_from_words("mlp", ["image_size=true"])
