"""An export answers as its run does, or it is not written."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits

import cnnlab
from cnnlab.cli import main
from cnnlab.deploy.acceptance import check_accuracy, check_parity, latency, parity
from cnnlab.deploy.convert import PT2_FACTS, from_pt2, to_onnx
from cnnlab.deploy.export import Export, export_run, exported_form
from cnnlab.deploy.exported import OnnxModel
from cnnlab.errors import ConfigError, DeviceError, ExportError, ModelError
from cnnlab.explain import FullyConvolutional
from cnnlab.models.registry import create_model, list_models, model_arguments

SMALL: dict[str, dict[str, Any]] = {
    "alexnet": {"width": 4, "hidden": [16, 16]},
    "convnet": {"width": 8},
    "mlp": {"hidden": [16]},
    "pretrained": {"architecture": "squeezenet1_1", "weights": None},
    "resnet": {"depth": 8},
    "speednet": {"widths": [8, 16, 16]},
    "unet": {"depth": 2, "width": 8},
    **{f"resnet{depth}": {"width": 4} for depth in (18, 34, 50)},
    **{f"vgg{depth}": {"width": 4, "hidden": [16, 16], "batch_norm": True} for depth in (11, 13, 16, 19)},
}


def digit(number: int) -> np.ndarray:
    """(8, 8) uint8, the pixels that the run was trained on."""
    return np.rint(load_digits().images[number] * (255 / 16)).astype(np.uint8)


def facts(channels: int, side: int) -> dict[str, Any]:
    layout = {"height": side, "width": side, "mode": "RGB" if channels == 3 else "L", "fit": "crop"}
    preprocess = {"layout": layout, "mean": [0.5] * channels, "std": [0.25] * channels}
    return {"classes": ["a", "b", "c"], "preprocess": preprocess}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def plain(good_run: Path, out: Path) -> Export:
    return export_run(good_run, out=out / "plain")


@pytest.fixture(scope="module")
def int8(good_run: Path, out: Path, plain: Export) -> Export:
    return export_run(good_run, int8=True, out=out / "plain")


@pytest.fixture(scope="module")
def digit_images() -> list[np.ndarray]:
    return [digit(number) for number in range(40)]


# ---- every model


DEEPER = {"vgg13", "vgg16", "vgg19", "resnet34"}  # the same layers as vgg11 and resnet18, more often


@pytest.mark.parametrize("name", [name for name in list_models() if name not in DEEPER])
def test_logits_of_an_export_are_those_of_the_model_at_any_batch(name: str) -> None:
    torch.manual_seed(0)
    given = {"in_channels": 3, "num_classes": 3, "image_size": [32, 32]}
    model = create_model(name, **model_arguments(name, SMALL.get(name, {}), **given))
    images = torch.randn(8, 3, 32, 32)
    model.train()(images)  # batch norm gets statistics that are not 0 and 1
    model.eval()
    content = to_onnx(exported_form(model, images, False), images[:2].contiguous(), facts(3, 32))
    found = parity(model, OnnxModel(content), images)
    assert list(found["difference"]) == ["1", "3", "8"]
    assert found["largest_logit"] > 0
    check_parity(found)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


def test_every_pixel_is_classified_as_by_the_model_and_no_class_is_made_up_for_the_image(tmp_path: Path) -> None:
    model = create_model("unet", depth=2, width=8, in_channels=1, num_classes=3).eval()
    images = torch.randn(2, 1, 16, 16)
    file = tmp_path / "model.onnx"
    file.write_bytes(to_onnx(model, images, facts(1, 16)))
    predictor = cnnlab.Predictor.from_export(file)
    assert predictor.model(torch.randn(5, 1, 16, 16)).shape == (5, 3, 16, 16)
    with pytest.raises(ModelError, match="every pixel"):
        predictor.predict(np.zeros((16, 16), np.uint8))


# ---- the same answers


def test_an_export_answers_as_its_run(plain: Export, good_run: Path, digit_images: list[np.ndarray]) -> None:
    run, export = cnnlab.Predictor.from_run(good_run), cnnlab.Predictor.from_export(plain.file)
    assert export.classes == run.classes
    assert export.preprocess == run.preprocess
    for expected, answer in zip(run.predict(digit_images), export.predict(digit_images), strict=True):
        assert answer.label == expected.label
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_an_export_takes_every_form_of_an_image(plain: Export, digit_files: list[Path]) -> None:
    predictor = cnnlab.Predictor.from_export(plain.file.parent)
    expected = predictor.predict(digit_files)
    assert predictor.predict([path.read_bytes() for path in digit_files]) == expected
    assert predictor.predict([Image.open(path) for path in digit_files]) == expected
    assert predictor.predict([np.stack([digit(number)] * 3, -1) for number in range(6)]) == expected


def test_int8_answers_nearly_as_its_run(int8: Export, good_run: Path, digit_images: list[np.ndarray]) -> None:
    run, export = cnnlab.Predictor.from_run(good_run), cnnlab.Predictor.from_export(int8.file)
    same = [a.label == b.label for a, b in zip(run.predict(digit_images), export.predict(digit_images), strict=True)]
    assert sum(same) >= 38
    kinds = {node.op_type for node in onnx.load(int8.file).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert "BatchNormalization" not in kinds


def test_int8_weights_cannot_overflow_where_products_are_added_in_16_bits(int8: Export) -> None:
    """As on x86 without VNNI; 2 · 255 · 64 < 2¹⁵."""
    weights = [onnx.numpy_helper.to_array(one) for one in onnx.load(int8.file).graph.initializer]
    kept = [one for one in weights if one.dtype == np.int8 and one.ndim > 1]
    assert kept and all(abs(one.astype(int)).max() <= 64 for one in kept)


def test_int8_is_smaller(plain: Export, int8: Export) -> None:
    assert int8.results["bytes"] < 0.7 * plain.results["bytes"]


def test_pt2_answers_as_its_run(good_run: Path, out: Path, digit_images: list[np.ndarray]) -> None:
    done = export_run(good_run, "pt2", out=out / "pt2")
    run = cnnlab.Predictor.from_run(good_run)
    images = torch.stack([run.preprocess(Image.fromarray(image)) for image in digit_images])
    module = from_pt2(done.file.read_bytes())
    with torch.inference_mode():
        for count in (1, 3, 8):
            assert torch.allclose(module(images[:count]), run.model(images[:count]), atol=1e-4)
    extra = {PT2_FACTS: ""}
    torch.export.load(str(done.file), extra_files=extra)
    assert json.loads(extra[PT2_FACTS])["classes"] == run.classes


def test_a_fully_convolutional_export_answers_at_every_place_of_any_image(good_run: Path, out: Path) -> None:
    done = export_run(good_run, fully_convolutional=True, out=out / "fcn")
    model, _ = cnnlab.load_run(good_run)
    net, export = FullyConvolutional(model, (1, 8, 8)), OnnxModel(done.file.read_bytes())
    for height, width in ((8, 8), (24, 17), (9, 40)):
        images = torch.randn(2, 1, height, width)
        with torch.inference_mode():
            expected = net(images)
        assert export(images).shape == expected.shape
        assert torch.allclose(export(images), expected, atol=1e-4)
    image = digit(4)
    (answer,), (expected,) = (
        one.predict(image) for one in (cnnlab.Predictor.from_export(done.file), cnnlab.Predictor.from_run(good_run))
    )
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


@pytest.mark.parametrize("kind", ["run", "export"])
def test_many_threads_may_ask_one_predictor(
    kind: str, plain: Export, good_run: Path, digit_images: list[np.ndarray]
) -> None:
    made = cnnlab.Predictor.from_run(good_run) if kind == "run" else cnnlab.Predictor.from_export(plain.file)
    expected = [made.predict(image)[0] for image in digit_images]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: made.predict(image)[0], digit_images * 3))
    for answer, one in zip(answers, expected * 3, strict=True):
        assert answer.probabilities == pytest.approx(one.probabilities, abs=1e-6)


# ---- what is written


def test_a_file_says_what_it_is(int8: Export, good_run: Path) -> None:
    card = json.loads((good_run / "best" / "model.json").read_text())
    said = OnnxModel(int8.file.read_bytes()).facts
    assert {key: said[key] for key in ("classes", "preprocess", "model")} == {
        key: card[key] for key in ("classes", "preprocess", "model")
    }
    assert said["int8"] is True


def test_export_json_holds_what_was_measured_of_each_file(plain: Export, int8: Export) -> None:
    kept = json.loads((plain.file.parent / "export.json").read_text())
    assert set(kept) == {"model.onnx", "model-int8.onnx"}
    assert sorted(path.name for path in plain.file.parent.iterdir()) == ["export.json", "model-int8.onnx", "model.onnx"]
    for name, results in kept.items():
        content = (plain.file.parent / name).read_bytes()
        assert results["bytes"] == len(content)
        assert results["sha256"] == hashlib.sha256(content).hexdigest()
        assert set(results["parity"]["difference"]) == {"1", "3", "8"}
        assert results["accuracy"]["n"] > 30
        assert results["accuracy"]["export"] > 0.5
        assert 0 < results["latency_ms"]["export"]["fastest"] <= results["latency_ms"]["export"]["median"]
        assert results["made_with"]["versions"]["onnxruntime"]
    assert kept["model.onnx"]["accuracy"]["model"] == kept["model-int8.onnx"]["accuracy"]["model"]


def test_the_accuracy_of_the_model_is_that_of_its_test(plain: Export, good_run: Path) -> None:
    tested = json.loads((good_run / "test.json").read_text())
    assert plain.results["accuracy"]["n"] == tested["n"]
    assert plain.results["accuracy"]["model"] == pytest.approx(tested["accuracy"], abs=1e-6)


def test_a_busy_machine_is_named_and_does_not_change_the_comparison() -> None:
    calls = itertools.count()

    def disturbed(images: torch.Tensor) -> torch.Tensor:
        time.sleep(0.0 if next(calls) % 8 == 0 else 0.02)
        return images

    found = latency({"model": disturbed, "export": lambda images: images}, torch.zeros(1, 1, 2, 2), rounds=20)
    assert found["busy"]
    assert found["model"]["fastest"] < 5 < found["model"]["median"]
    assert not latency({"model": lambda images: time.sleep(0.01) or images}, torch.zeros(1), rounds=5)["busy"]


# ---- from the command line


def test_export_and_predict_from_the_command_line(
    good_run: Path, digit_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(good_run, tmp_path / "run"))
    assert main(["export", str(run)]) == 0
    shown = capsys.readouterr().out
    assert str(run / "export" / "model.onnx") in shown
    assert "accuracy" in shown
    lines = []
    for place in (run, run / "export", run / "export" / "model.onnx"):
        assert main(["predict", str(place), *map(str, digit_files), "--topk", "1"]) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1] == lines[2]


def one_line(words: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(list(map(str, words))) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_wrong_input_is_one_line_and_writes_nothing(
    good_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, taken = tmp_path / "new", tmp_path / "taken"
    taken.write_text("")
    before = sorted(good_run.rglob("*"))
    assert "--int8" in one_line(["export", good_run, "--format", "pt2", "--int8", "--out", place], capsys)
    assert "--out" in one_line(["export", good_run, "--out", taken], capsys)
    assert "--out" in one_line(["export", good_run, "--out", taken / "deeper"], capsys)
    assert "--out" in one_line(["export", good_run, "--out", "x" * 5000], capsys)
    assert "nowhere" in one_line(["export", tmp_path / "nowhere"], capsys)
    assert not place.exists()
    assert sorted(good_run.rglob("*")) == before


def test_a_model_without_a_feature_map_has_no_fully_convolutional_export(
    tmp_path: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in tiny if not word.startswith("model.")]
    assert main(["train", *words, "model=mlp", f"run.dir={tmp_path / 'run'}"]) == 0
    capsys.readouterr()
    assert "no spatial features" in one_line(["export", tmp_path / "run", "--fully-convolutional"], capsys)
    assert not (tmp_path / "run" / "export").exists()


def test_int8_that_loses_too_much_says_by_how_much_and_leaves_nothing(
    good_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(good_run, tmp_path / "run"))
    spoil_for_8_bits(run / "best" / "model.safetensors")
    before = cnnlab.Predictor.from_run(good_run).predict(digit(3))[0]
    assert cnnlab.Predictor.from_run(run).predict(digit(3))[0].probability == pytest.approx(
        before.probability, abs=1e-3
    )
    line = one_line(["export", run, "--int8"], capsys)
    assert "points lower where 0.5 are allowed" in line
    assert "without --int8" in line
    assert not (run / "export").exists()


def spoil_for_8_bits(file: Path) -> None:
    """One channel after the first batch norm becomes 3,000 times larger, and what is made of it as much smaller: the
    network computes the same, but one scale for all channels no longer fits."""
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    norms = [name.removesuffix("running_mean") for name in tensors if name.endswith("running_mean")]
    channels = len(tensors[f"{norms[0]}weight"])
    following = next(
        name
        for name, value in list(tensors.items())[list(tensors).index(f"{norms[0]}weight") :]
        if value.ndim == 4 and value.shape[1] == channels
    )
    for name in (f"{norms[0]}weight", f"{norms[0]}bias"):
        tensors[name][0] *= 3000
    tensors[following][:, 0] /= 3000
    card = json.loads(metadata["cnnlab"])
    del card["sha256"]  # these are other weights now
    save_file(tensors, file, {"cnnlab": json.dumps(card)})


def test_parity_and_accuracy_refuse_what_is_more_than_rounding() -> None:
    for value in (0.1, float("nan"), float("inf")):
        with pytest.raises(ExportError, match="at 3"):
            check_parity({"difference": {"1": 0.0, "3": value, "8": 0.0}, "largest_logit": 9.0})
    check_parity({"difference": {"1": 2e-5}, "largest_logit": 9.0})
    check_accuracy({"n": 1000, "model": 0.99, "export": 0.985}, int8=True)
    check_accuracy({"n": 1000, "model": 0.90, "export": 0.95}, int8=True)
    for lost, int8 in ((0.006, True), (0.005, False)):
        with pytest.raises(ExportError, match=f"{100 * lost:.2f} points lower"):
            check_accuracy({"n": 1000, "model": 0.99, "export": 0.99 - lost}, int8=int8)


def test_a_model_whose_path_depends_on_the_pixels_is_refused_in_one_line() -> None:
    class Choosy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    with pytest.raises(ExportError, match="Choosy cannot be exported") as caught:
        to_onnx(Choosy().eval(), torch.rand(2, 3, 8, 8), facts(3, 8))
    assert "\n" not in str(caught.value)


# ---- what is read


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a" * 50])
def test_a_damaged_file_is_one_line(
    content: bytes, tmp_path: Path, digit_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert "model.onnx" in one_line(["predict", tmp_path / "model.onnx", digit_files[0]], capsys)


def test_a_truncated_file_is_one_line(
    plain: Export, tmp_path: Path, digit_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_bytes(plain.file.read_bytes()[:-2000])
    assert "model.onnx" in one_line(["predict", tmp_path, digit_files[0]], capsys)


def test_another_program_s_file_is_refused(plain: Export, tmp_path: Path) -> None:
    proto = onnx.load(plain.file)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="classes and its preprocess"):
        cnnlab.Predictor.from_export(tmp_path)


def test_files_that_are_no_export_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.onnx", tmp_path, tmp_path / "model.pt2"):
        with pytest.raises(ExportError):
            cnnlab.Predictor.from_export(path)


def test_an_export_runs_on_the_processor_alone(plain: Export) -> None:
    with pytest.raises(DeviceError):
        cnnlab.Predictor.from_export(plain.file, "cuda")
    assert cnnlab.Predictor.from_export(plain.file, "cpu").device.type == "cpu"


def test_without_the_extra_the_fix_is_named(
    good_run: Path, plain: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for use in (lambda: cnnlab.Predictor.from_export(plain.file), lambda: export_run(good_run, out=tmp_path / "e")):
        with pytest.raises(ExportError, match=r"pip install 'cnnlab\[export\]'"):
            use()
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("format", ["tflite", ""])
def test_another_format_is_refused(format: str, good_run: Path) -> None:
    with pytest.raises(ConfigError, match="onnx, pt2 or web"):
        export_run(good_run, format)
