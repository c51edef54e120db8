"""A model as data: the same answers from PyTorch's operations and from those of the page, node by node."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from small_models import SAME_LAYERS, SMALL
from torch import Tensor, nn

from cnnlab.errors import DataError, ModelError
from cnnlab.look import graph as graphs
from cnnlab.look.compute import check_graph, choose_precision, node_values
from cnnlab.look.graph import Graph, export_graph
from cnnlab.look.likes import strongest_places
from cnnlab.models.registry import MODELS, list_models


def test_every_model_of_the_list_has_a_small_setting() -> None:
    assert {*SMALL, *SAME_LAYERS} == {name for name in list_models() if MODELS[name].__module__.startswith("cnnlab.")}


def test_names_are_unique_and_batch_norm_stays_a_layer(exported: dict[str, tuple[nn.Module, Graph, Tensor]]) -> None:
    for _, graph, _ in exported.values():
        names = [node.name for node in graph.nodes]
        assert len(set(names)) == len(names)
    nodes = {node.name: node for node in exported["resnet"][1].nodes}
    assert nodes["stem.1"].op == "batch_norm"
    assert nodes["stage2.0.add"].op == "add"
    assert len(nodes["stage2.0.add"].inputs) == 2
    assert nodes["pool.mean"].attributes["dims"] == [2, 3]  # of the map, not of a rearranged one
    assert nodes["stem.0"].shape == [1, 4, 16, 16]


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
def test_the_interpreter_of_the_page_gives_the_numbers_of_pytorch(
    exported: dict[str, tuple[nn.Module, Graph, Tensor]], tmp_path: Path
) -> None:
    for name, (_, graph, images) in exported.items():
        image = images[:1]
        half = name == "lenet"
        graph = dataclasses.replace(graph, half={i for i, t in enumerate(graph.tensors) if half and t.dim() > 1})
        values = [value.flatten().tolist() for value in node_values(graph, image)]
        content = {
            "graph": graph.to_dict(),
            "block": graph.block(),
            "image": image.flatten().tolist(),
            "values": values,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    tests = sorted(str(file) for file in Path(__file__).parent.glob("*.test.mjs"))
    done = subprocess.run(
        ["node", "--no-warnings", "--test", *tests],
        env=os.environ | {"GOLDEN": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_kernels_are_kept_in_16_bits_only_where_the_answers_stay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)).eval()
    image = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    graph = export_graph(model, image)
    choose_precision(graph, image)
    assert len(graph.half) == 2
    small = len(graph.block())
    with torch.no_grad():
        model[3].weight[:] = torch.tensor([8.0, 8 * (1 + 0.99 * 2**-11), 8.0])[:, None]  # half a step apart
    graph = export_graph(model, image)
    choose_precision(graph, image)
    assert not graph.half
    assert len(graph.block()) > 1.8 * small


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1).mean((2, 3))


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.mean() > 0 else x.amax((2, 3))


class Piece(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y.flatten(1).relu_()
        return y.mean((2, 3))


@pytest.mark.parametrize(
    ("model", "words"), [(Unknown(), r"aten\.cumsum, an operation that the page does not know"), (Branches(), "pixels")]
)
def test_what_has_no_graph_is_named_in_a_line(model: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        export_graph(model, torch.randn(1, 3, 8, 8))


def test_a_graph_that_does_not_answer_as_its_model_is_refused() -> None:
    images = torch.randn(1, 3, 8, 8)
    graph = export_graph(Piece(), images)
    with pytest.raises(ModelError, match="in place"):
        check_graph(graph, Piece(), images)


def test_too_many_weights_for_a_page_are_refused_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_WEIGHTS", 10)
    with pytest.raises(ModelError, match=r"27 weights and a page holds 10 at most"):
        export_graph(nn.Conv2d(3, 1, 3, bias=False).eval(), torch.randn(1, 3, 8, 8))


def test_a_filter_likes_the_places_where_it_is_largest() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0])[:, None, None, None])
    images = torch.zeros(3, 1, 4, 5)
    images[0, 0, 1, 2], images[1, 0, 3, 4], images[2, 0, 0, 1] = 1, 3, 2
    images[2, 0, 2, 3] = -1
    found = strongest_places(export_graph(model, images[:1]), images)
    (places,) = found.values()
    assert places[0].tolist() == [[1, 3, 4], [2, 0, 1], [0, 1, 2]]
    assert places[1, 0].tolist() == [2, 2, 3]


def test_names_that_look_like_places_to_fill_stay_names() -> None:
    from cnnlab.look.page import _filled

    parts = {"card": "{{ weights }} {{ script }}", "weights": "AAAA", "script": "run()"}
    assert _filled("{{ card }}|{{ weights }}|{{ script }}", parts) == "{{ weights }} {{ script }}|AAAA|run()"


def test_an_image_that_cannot_be_read_is_one_line_with_its_name(tmp_path: Path) -> None:
    from cnnlab.data.decode import Layout
    from cnnlab.data.preprocess import Preprocess
    from cnnlab.look.page import _given

    preprocess = Preprocess(Layout(8, 8, "L"), (0.5,), (0.5,))
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(DataError, match=r"notes\.png cannot be read as an image: .*; fix it or leave it out\.$"):
        _given(preprocess, [str(tmp_path / "notes.png")])
