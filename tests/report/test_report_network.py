"""Drawings of networks: nothing is left out, sizes are those of the layer table, every join has its arcs."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

import cnnlab
from cnnlab.errors import ConfigError, ModelError
from cnnlab.models.arguments import model_from_words
from cnnlab.models.summary import summarise
from cnnlab.models.table import shape_text
from cnnlab.report.network import draw_network
from cnnlab.report.network_parts import Parts, Repeat, parts_of

if TYPE_CHECKING:
    from conftest import CommandLine

SVG = "{http://www.w3.org/2000/svg}"
# Words of the command, joins on the way, and arcs that are drawn once repeats are folded.
NETWORKS = {
    "lenet": (["lenet"], 0, 0),
    "alexnet": (["alexnet", "hidden=[64]"], 0, 0),
    "vgg": (["vgg16", "hidden=[64]"], 0, 0),
    "plain": (["resnet", "depth=20", "residual=false"], 0, 0),
    "resnet20": (["resnet", "depth=20"], 9, 5),
    "resnet56": (["resnet", "depth=56", "shortcut=B"], 27, 5),
    "resnet110": (["resnet", "depth=110"], 54, 5),
    "resnet18": (["resnet18"], 8, 7),
    "convnet": (["convnet"], 8, 8),  # four blocks, each with a gate
    "speednet": (["speednet"], 0, 0),
    "mlp": (["mlp"], 0, 0),
    "unet": (["unet", "image_size=64"], 4, 4),
}


class TwoWays(nn.Module):
    """Functions outside of layers, a branch of two blocks, and a layer that nothing needs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.unused, self.head = nn.Conv2d(8, 8, 1), nn.Linear(12 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        self.unused(x)
        small = self.conv3(self.conv2(x).tanh())
        x = torch.cat([x, small], dim=1)
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))


def network(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    model, shape = model_from_words(NETWORKS[name][0][0], NETWORKS[name][0][1:])
    return model, shape  # type: ignore[return-value]


def rows_of(parts: Parts) -> list[int]:
    return [
        row
        for part in parts.parts
        for block in (part.block, *(block for arc in part.arcs for block in arc.branch))
        for row in block.rows
    ]


def texts_of(root: ElementTree.Element, style: str) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text") if element.get("class") == style]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_in_one_part_and_every_join_has_an_arc(name: str) -> None:
    model, shape = network(name)
    summary = summarise(model, shape)
    parts = parts_of(model, summary)
    assert sorted(rows_of(parts)) == list(range(len(summary.layers)))
    assert parts.aside == ()
    assert sum(len(part.arcs) for part in parts.parts) == NETWORKS[name][1]
    for part in parts.parts:
        for block in (part.block, *(block for arc in part.arcs for block in arc.branch)):
            if block.kind not in ("image", "join"):
                assert block.shape == summary.layers[block.rows[0]].output


@pytest.mark.parametrize("name", NETWORKS)
def test_the_drawing_is_whole_xml_with_all_sizes_and_arcs(name: str) -> None:
    model, shape = network(name)
    drawing = draw_network(model, shape)
    root = ElementTree.fromstring(drawing.svg)
    assert root.tag == f"{SVG}svg"
    assert float(root.get("width", "")) <= 1200
    written = "".join(element.text or "" for element in root.iter(f"{SVG}text"))
    for row in summarise(model, shape).layers:
        if row.multiply_adds:
            assert shape_text(row.output) in written
    assert sum(path.get("class") == "arc" for path in root.iter(f"{SVG}path")) == NETWORKS[name][2]
    assert not re.search(r"<script|https?://(?!www\.w3\.org/2000/svg)|nan|inf\b", drawing.svg)


@pytest.mark.parametrize("name", ["resnet56", "unet", "convnet"])
def test_boxes_of_a_row_do_not_overlap_and_lie_inside(name: str) -> None:
    root = ElementTree.fromstring(draw_network(*network(name)).svg)
    width = float(root.get("width", ""))
    kinds = {"image", "conv", "pool", "up", "linear"}
    for row in root.findall(f"{SVG}g"):
        boxes = [
            (float(box.get("x", "")), float(box.get("width", "")))
            for box in row.findall(f"{SVG}rect")
            if box.get("class") in kinds and box.get("rx") is None
        ]
        for (x, size), (following, _) in pairwise(boxes):
            assert x + size <= following
        assert all(x >= 0 and x + size <= width for x, size in boxes)


def test_repeated_residual_blocks_are_drawn_once_with_their_number() -> None:
    model, shape = network("resnet110")
    parts = parts_of(model, summarise(model, shape))
    assert parts.repeats == [Repeat(2, 3, 18), Repeat(59, 3, 17), Repeat(113, 3, 17)]
    root = ElementTree.fromstring(draw_network(model, shape).svg)
    assert texts_of(root, "times") == ["×18", "×17", "×17"]
    description = root.find(f"{SVG}desc")
    assert description is not None and "18 times the next 3" in (description.text or "")


def test_an_arc_into_a_repeat_keeps_it_unfolded() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 4, 3, padding=1)
            self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(6))

        def forward(self, x: Tensor) -> Tensor:
            maps = [self.first(x)]
            for conv in self.convs:
                maps.append(conv(maps[-1]))
            return sum(maps[1:-1], maps[-1])  # type: ignore[return-value]

    parts = parts_of(Dense(), summarise(Dense(), (4, 8, 8)))
    assert sum(len(part.arcs) for part in parts.parts) == 5
    assert parts.repeats == []


def test_a_module_of_ones_own_with_functions_a_branch_and_an_idle_layer() -> None:
    model = TwoWays()
    summary = summarise(model, (3, 16, 16))
    parts = parts_of(model, summary)
    kinds = [part.block.kind for part in parts.parts]
    assert kinds == ["image", "conv", "conv", "conv", "join", "pool", "linear"]  # the longest way is the main path
    (arc,) = parts.parts[4].arcs
    assert (arc.source, arc.branch) == (1, ())
    assert [summary.layers[row].name for row in parts.aside] == ["unused"]
    drawing = draw_network(model, (3, 16, 16))
    assert "unused" in drawing.svg
    assert "concatenation" in drawing.svg


def test_the_projection_of_a_shortcut_lies_on_its_arc() -> None:
    model, shape = model_from_words("resnet", ["depth=8", "shortcut=B"])
    arcs = [arc for part in parts_of(model, summarise(model, shape)).parts for arc in part.arcs]
    assert [[block.kernel for block in arc.branch] for arc in arcs] == [[], ["1×1"], ["1×1"]]


def test_a_drawing_is_the_same_each_time_and_shows_in_a_notebook(tmp_path: Path) -> None:
    model = cnnlab.create_model("lenet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawing = cnnlab.draw_network(model, (1, 28, 28))
    assert drawing.svg == cnnlab.draw_network(model.eval(), (1, 28, 28)).svg == drawing._repr_html_()
    assert repr(drawing) == "Drawing(title='LeNet: 1×28×28 → 10')"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert drawing.save(tmp_path / "new" / "lenet.svg").read_text(encoding="utf-8") == drawing.svg


@pytest.mark.parametrize("name", ["", "a.png", "gs://bucket/a.svg", "."])
def test_a_drawing_goes_to_no_other_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        draw_network(nn.Conv2d(3, 4, 3), (3, 8, 8)).save(name)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_does_not_fit_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="does not go through"):
        draw_network(nn.Conv2d(3, 4, 3), (1, 8, 8))


# ---- the command


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["lenet", "--svg"], "lenet.svg"),
        (["lenet", "--svg", "num_classes=5"], "lenet.svg"),
        (["lenet", "num_classes=5", "--svg", "page/net.svg"], "page/net.svg"),
    ],
)
def test_the_command_writes_one_file_and_names_it(
    words: list[str], file: str, command: CommandLine, tmp_path: Path
) -> None:
    result = command("model", *words, cwd=tmp_path)
    assert (result.code, result.out.strip(), result.err) == (0, str(Path(file)), "")
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert f"1×28×28 → {5 if 'num_classes=5' in words else 10}" in text


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["lenet", "--svg", "a.png"], "a.svg"),
        (["lenet", "--svg", "--json"], "--json"),
        (["--list", "--svg"], "--svg"),
        (["lenet", "--svg", "nowhere=3"], "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], named: str, command: CommandLine, tmp_path: Path) -> None:
    result = command("model", *words, cwd=tmp_path)
    assert (result.code, result.out, len(result.error_lines)) == (2, "", 1)
    assert named in result.err
    assert list(tmp_path.iterdir()) == []
