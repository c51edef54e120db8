"""From MNIST to MNIST-M: the fall is said, and each way to close it does what it says."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

import cnnlab
from cnnlab.cli import main
from small_sets import write_mnist

if TYPE_CHECKING:
    from conftest import CommandLine

SMALL = ["model.width=4", "trainer.batch_size=40", "trainer.epochs=2", "trainer.precision=fp32", "logger=none"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mnist(tmp_path_factory.mktemp("domains"))


@pytest.fixture(scope="module")
def source(command: CommandLine, root: Path) -> Path:
    result = command("train", "recipe=source_only", f"data.root={root}", *SMALL, f"run.dir={root / 'source'}")
    assert result.code == 0, result.err
    return root / "source"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "best" / "model.safetensors")


def test_a_grey_set_in_colour_has_three_equal_channels(source: Path) -> None:
    card = json.loads((source / "best" / "model.json").read_text())
    assert card["preprocess"]["layout"]["mode"] == "RGB"
    assert len(set(card["preprocess"]["mean"])) == 1


def test_the_fall_on_another_set_is_said(source: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", str(source), "--data", "mnist_m"]) == 0
    said = capsys.readouterr().out
    metrics = json.loads((source / "evaluation-test-mnist_m.json").read_text())
    own = json.loads((source / "test.json").read_text())
    assert metrics["n"] == 80
    assert metrics["own_test"]["difference"] == pytest.approx(metrics["accuracy"] - own["accuracy"])
    assert "95 % interval" in said and "points" in said
    assert (source / "predictions-test-mnist_m.csv").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--data", "mnist_n"], "unknown data 'mnist_n'. Did you mean 'mnist"),
        (["--data", "mnist_m", "data.backgrounds=nowhere"], "data.backgrounds='nowhere' is no folder"),
        (["--data", "mnist_m", "data.background=1x"], "background"),
        (["--data", "mnist_m", "trainer.epochs=3"], "only data.* keys"),
        (["data.limit=10"], "name it with --data"),
        (["--data", "cifar10"], "cifar10 is not below"),
    ],
)
def test_a_wrong_other_set_is_one_line(
    source: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["data.download=false"] if "cifar10" in words else []
    assert main(["test", str(source), *words, *more]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1


def test_a_test_never_fetches_a_set(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*given: object, **more: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("cnnlab.data.sources.mnist.torchvision_set", fetch)
    for words in (["--data-root", str(tmp_path)], ["--data", "mnist_m", "--data-root", str(tmp_path)]):
        assert main(["test", str(source), *words]) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_weight_of_the_domains_loss_counts(command: CommandLine, root: Path, tmp_path: Path) -> None:
    found = []
    for weight in ("0", "0", "5"):
        run = tmp_path / f"run{len(found)}"
        words = [f"data.root={root}", *SMALL, "trainer.threads=1", f"adapt.weight={weight}", f"run.dir={run}"]
        assert command("train", "recipe=dann", *words).code == 0
        found.append(weights(run))
    none, again, full = found
    assert all(torch.equal(none[name], again[name]) for name in none)
    assert not torch.equal(none["features.0.0.weight"], full["features.0.0.weight"])


def test_adversarial_training_tests_on_both_domains(command: CommandLine, root: Path, tmp_path: Path) -> None:
    result = command("train", "recipe=dann", f"data.root={root}", *SMALL, f"run.dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "run" / "test.json").read_text())
    assert metrics["target"]["data"] == "mnist_m" and metrics["target"]["n"] == 80
    again = cnnlab.evaluate(tmp_path / "run", data="mnist_m")
    assert metrics["target"]["accuracy"] == again["accuracy"]
    assert metrics["target"]["loss"] == pytest.approx(again["loss"], rel=1e-5)
    assert metrics["target"]["loss"] != metrics["loss"]  # not those of the source again
    some = cnnlab.evaluate(tmp_path / "run", data="mnist_m", limit=20)
    assert some["n"] == 20
    names = set(weights(tmp_path / "run"))
    assert not any("layers" in name for name in names)  # the adversary is not part of the model
    assert main(["test", str(tmp_path / "run")]) == 0


def test_adversarial_training_resumes_bit_for_bit(command: CommandLine, root: Path, tmp_path: Path) -> None:
    words = ["train", "recipe=dann", f"data.root={root}", *SMALL, "trainer.threads=1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert command(*words, "trainer.epochs=3", f"run.dir={whole}").code == 0
    running = command.start(*words, "trainer.epochs=3", f"run.dir={cut}")
    assert running.wait_until(lambda: (cut / "metrics.jsonl").exists())
    running.send(signal.SIGINT)
    assert running.wait().code == 130
    assert command("resume", str(cut)).code == 0
    one, other = weights(whole), weights(cut)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_new_statistics_are_all_that_adabn_changes(
    command: CommandLine, root: Path, source: Path, tmp_path: Path
) -> None:
    words = ["recipe=adabn", f"data.root={root}", f"init.from={source}", "model.width=4", "trainer.batch_size=40"]
    result = command("train", *words, "logger=none", f"run.dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    before, after = weights(source), weights(tmp_path / "run")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "running_" in name or "num_batches" in name}
    assert json.loads((tmp_path / "run" / "test.json").read_text())["target"]["n"] == 80


def test_fine_tuning_takes_a_few_images_a_class(command: CommandLine, root: Path, source: Path, tmp_path: Path) -> None:
    words = ["recipe=finetune", f"data.root={root}", f"init.from={source}", "data.per_class_train=3", *SMALL]
    result = command("train", *words, "trainer.batch_size=10", f"run.dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert split["sizes"]["train"] == 30 and split["data"] == "mnist_m"


def test_a_target_with_other_classes_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "recipe=dann", f"data.root={root}", "adapt.data=fashion_mnist", f"run.dir={tmp_path / 'run'}"]
    (root / "FashionMNIST").mkdir(exist_ok=True)
    if not (root / "FashionMNIST" / "raw").exists():
        (root / "FashionMNIST" / "raw").symlink_to(root / "MNIST" / "raw")
    assert main([*words, *SMALL]) == 2
    said = capsys.readouterr().err
    assert "fashion_mnist has other classes than the source" in said and said.count("\n") == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_recipe_that_goes_on_with_a_run_asks_for_it(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for recipe in ("adabn", "finetune"):
        assert main(["train", f"recipe={recipe}", f"data.root={root}", *SMALL, f"run.dir={tmp_path / 'run'}"]) == 2
        said = capsys.readouterr().err
    assert "there is nothing at" in said and "RUN; init.from takes a run folder" in said
    words = ["adapt.method=batch_norm", "adapt.data=mnist", f"data.root={root}", f"run.dir={tmp_path / 'run'}"]
    assert main(["train", *words]) == 2
    assert "name its run with init.from=RUN" in capsys.readouterr().err


def test_the_masks_of_a_set_can_be_looked_at(root: Path, tmp_path: Path) -> None:
    words = ["data", "mnist_m_seg", f"data.root={root}", "--show", str(tmp_path / "batch.png")]
    assert main(words) == 0
    assert (tmp_path / "batch.png").stat().st_size > 10_000


def test_from_python_the_target_is_loaded_too(root: Path, tmp_path: Path) -> None:
    """`load_data` gives the source alone; without the target, training would quietly be that of the source."""
    data = cnnlab.load_data("mnist", root=root, channels=3, val_fraction=0.0, batch_size=40)
    model = cnnlab.create_model("vgg", width=4, image_size=28)
    quick = ["trainer.precision=fp32", "logger=none", "adapt.data=mnist_m"]
    run = cnnlab.fit(model, data, epochs=2, dir=tmp_path / "dann", overrides=["adapt.method=dann", *quick])
    assert data.target_domain is None  # the caller's data are as they were
    assert run.test is not None
    assert run.test["target"]["data"] == "mnist_m"
    assert run.test["target"]["n"] == 80
    renewed = ["adapt.method=batch_norm", f"init.from={run.dir}", "trainer.ema=null", *quick]
    other = cnnlab.fit(model, data, epochs=1, dir=tmp_path / "adabn", overrides=renewed)
    assert other.test is not None
    assert other.test["target"]["n"] == 80
