"""An .onnx file that is well formed and not of the kind that cnnlab exports is refused before it is computed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnlab
from cnnlab.cli import main
from cnnlab.deploy.export import export_run
from cnnlab.deploy.exported import KEY

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
node = onnx.helper.make_node


@pytest.fixture(scope="module")
def exported(good_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(good_run, out=tmp_path_factory.mktemp("export")).file


def end(model: Any, *nodes: Any, output: str = "more") -> None:
    """Put nodes behind the logits; `more` becomes the output."""
    graph = model.graph
    graph.node.extend(nodes)
    graph.output[0].name = output


def weight(model: Any, name: str, values: Any) -> str:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    return name


def scalar(name: str, kind: int) -> Any:
    return onnx.helper.make_tensor_value_info(name, kind, [])


def endless_loop(model: Any) -> None:
    bool_, int_, float_ = onnx.TensorProto.BOOL, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    body = onnx.helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Identity", ["x"], ["y"])],
        "body",
        [scalar("i", int_), scalar("go", bool_), onnx.helper.make_tensor_value_info("x", float_, None)],
        [scalar("on", bool_), onnx.helper.make_tensor_value_info("y", float_, None)],
    )
    end(model, node("Loop", ["", weight(model, "yes", True), "logits"], ["more"], body=body))


def branch(model: Any) -> None:
    of = onnx.helper.make_graph(
        [node("Identity", ["logits"], ["y"])],
        "of",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )
    end(model, node("If", [weight(model, "yes", True)], ["more"], then_branch=of, else_branch=of))


def giant(operator: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        sides = weight(model, "sides", np.array([40_000, 40_000], np.int64))
        first = node(operator, ["logits", sides] if operator != "ConstantOfShape" else [sides], ["large"])
        if operator == "Expand":
            weight(model, "axes", np.array([0, 1], np.int64))
            head = [
                node("ReduceSum", ["logits", "axes"], ["one"], keepdims=1),
                node("Expand", ["one", sides], ["large"]),
            ]
        else:
            head = [first]
        end(model, *head, node("ReduceSum", ["large"], ["sum"], keepdims=0), node("Add", ["logits", "sum"], ["more"]))

    return change


def doubling(model: Any) -> None:
    nodes = [node("Concat", [f"d{i}"] * 2, [f"d{i + 1}"], axis=0) for i in range(40)]
    nodes.insert(0, node("Identity", ["logits"], ["d0"]))
    end(model, *nodes, node("ReduceSum", ["d40"], ["sum"], keepdims=0), node("Add", ["logits", "sum"], ["more"]))


def much_work(model: Any) -> None:
    weight(model, "side", np.array([2000, 2000], np.int64))
    nodes = [node("ConstantOfShape", ["side"], ["m0"])]
    nodes += [node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(50)]
    end(model, *nodes, node("ReduceSum", ["m50"], ["sum"], keepdims=0), node("Add", ["logits", "sum"], ["more"]))


def names(count: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for entry in model.metadata_props:
            if entry.key == KEY:
                facts = json.loads(entry.value)
                facts["classes"] = [str(i) for i in range(count)]
                entry.value = json.dumps(facts)

    return change


def of_input(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: change(model.graph.input[0])


def side(place: int, size: int) -> Callable[[Any], None]:
    return of_input(lambda value: setattr(value.type.tensor_type.shape.dim[place], "dim_value", size))


def further(model: Any) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))


def two_outputs(model: Any) -> None:
    model.graph.node.append(node("Identity", ["logits"], ["more"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["n", 10]))


def outside(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"


def a_function(model: Any) -> None:
    model.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    made = onnx.helper.make_function(
        "mine", "Same", ["x"], ["y"], [node("Identity", ["x"], ["y"])], [onnx.helper.make_opsetid("", 18)]
    )
    model.functions.append(made)
    end(model, node("Same", ["logits"], ["more"], domain="mine"))


def of_pixels(model: Any) -> None:
    end(
        model,
        node("Cast", ["logits"], ["whole"], to=onnx.TensorProto.INT64),
        node("Reshape", ["whole", weight(model, "flat", np.array([-1], np.int64))], ["sides"]),
        node("ConstantOfShape", ["sides"], ["large"]),
        node("ReduceSum", ["large"], ["sum"], keepdims=0),
        node("Add", ["logits", "sum"], ["more"]),
    )


FOREIGN: dict[str, tuple[Callable[[Any], None], str]] = {
    "a loop without an end": (endless_loop, "operator 'Loop'"),
    "a branch": (branch, "operator 'If'"),
    "a function": (a_function, "functions"),
    "a sequence": (lambda m: end(m, node("SequenceConstruct", ["logits"], ["more"])), "SequenceConstruct"),
    "another domain": (lambda m: end(m, node("Gelu", ["logits"], ["more"], domain="com.microsoft")), "operator"),
    "Expand": (giant("Expand"), "keeps more than"),
    "ConstantOfShape": (giant("ConstantOfShape"), "keeps more than"),
    "Tile": (giant("Tile"), "keeps more than"),
    "doubled forty times": (doubling, "keeps more than"),
    "products of matrices": (much_work, "multiply-adds"),
    "sizes from pixels": (of_pixels, "cannot be told before"),
    "more names": (names(12), "10 numbers for 12 classes"),
    "fewer names": (names(3), "10 numbers for 3 classes"),
    "one image at once": (side(0, 1), "any number of float images"),
    "colour": (side(1, 3), "8×8×1"),
    "another size": (side(2, 9), "8×8×1"),
    "no size": (of_input(lambda v: v.type.tensor_type.ClearField("shape")), "8×8×1"),
    "whole numbers": (of_input(lambda v: setattr(v.type.tensor_type, "elem_type", 7)), "float images"),
    "another rank": (of_input(lambda v: v.type.tensor_type.shape.dim.pop()), "8×8×1"),
    "two inputs": (further, "2 inputs"),
    "two outputs": (two_outputs, "2 outputs"),
    "no output": (lambda m: m.graph.ClearField("output"), "0 outputs"),
    "weights elsewhere": (outside, "in another file"),
    "a giant weight": (lambda m: m.graph.initializer[0].dims.append(10**12), "more weights than it has"),
    "a negative side": (lambda m: m.graph.initializer[0].dims.append(-1), "more weights than it has"),
    "very many steps": (
        lambda m: m.graph.node.extend([node("Relu", ["logits"], [f"r{i}"]) for i in range(20_001)]),
        "steps",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_graph_of_another_kind_is_refused_in_one_line(
    name: str, exported: Path, digit_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, why = FOREIGN[name]
    model = onnx.load_from_string(exported.read_bytes())
    change(model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    began = time.monotonic()
    assert main(["predict", str(tmp_path), str(digit_files[0])]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and why in said.err and not said.out, said.err
    assert time.monotonic() - began < 20


def test_what_the_runtime_cannot_compute_is_one_line(
    exported: Path, digit_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load_from_string(exported.read_bytes())
    once = weight(model, "once", np.array([1, 10], np.int64))
    end(model, node("Reshape", ["logits", once], ["more"]))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert main(["predict", str(tmp_path), *map(str, digit_files[:3])]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_every_form_of_an_export_is_taken_back(good_run: Path, tmp_path: Path, digit_files: list[Path]) -> None:
    for whole in (False, True):  # that of 8 bits: test_export.py
        file = export_run(good_run, fully_convolutional=whole, out=tmp_path / str(whole)).file
        assert len(cnnlab.Predictor.from_export(file).predict(digit_files)) == len(digit_files)
