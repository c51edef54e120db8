"""Fine-tuning: where the weights begin, what stays frozen and what learns, through the same loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import cnnlab
from cnnlab.config import compose
from cnnlab.errors import CnnlabError, ConfigError
from cnnlab.experiment import resume_experiment, run_experiment
from cnnlab.runs.source import read_source
from cnnlab.training.optim import create_optimizer, set_rate

TINY = ["data.limit=60", "trainer.epochs=3", "trainer.batch_size=20", "logger=none", "augment=none"]
NET = ["model=resnet", "model.depth=8", "model.width=4"]


def train(folder: Path, *overrides: str) -> dict[str, Tensor]:
    run_experiment(compose([*TINY, *NET, f"run.dir={folder}", *overrides]))
    return load_file(folder / "best" / "model.safetensors")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "run"
    train(folder, "seed=5")
    return folder


def first_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "last" / "state.pt", weights_only=True)
    return state


@pytest.mark.parametrize("ema", ["null", "0.9"])
def test_a_frozen_backbone_does_not_move_nor_do_its_statistics(source: Path, tmp_path: Path, ema: str) -> None:
    before = load_file(source / "best" / "model.safetensors")
    after = train(tmp_path / "run", f"init.from={source}", "init.freeze=backbone", f"trainer.ema={ema}")
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved == {"head.weight", "head.bias"}
    assert any("running_mean" in key for key in before)


def test_the_first_stages_alone_are_frozen(source: Path, tmp_path: Path) -> None:
    before = load_file(source / "best" / "model.safetensors")
    after = train(tmp_path / "run", f"init.from={source}", "init.freeze=2", "trainer.ema=null")
    moved = {key.split(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved == {"stage2", "stage3", "head"}


def test_the_biases_of_what_is_frozen_can_learn_all_the_same(source: Path, tmp_path: Path) -> None:
    before = load_file(source / "best" / "model.safetensors")
    words = [f"init.from={source}", "init.freeze=backbone", "init.frozen_biases=false", "trainer.ema=null"]
    after = train(tmp_path / "run", *words)
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    biases = {key for key in before if key.endswith(".bias")}
    assert moved == biases | {"head.weight"}
    assert len(biases) > 5


def test_unfrozen_all_of_it_learns(source: Path, tmp_path: Path) -> None:
    before = load_file(source / "best" / "model.safetensors")
    after = train(tmp_path / "run", f"init.from={source}", "trainer.ema=null")
    still = [key for key, value in after.items() if torch.equal(value, before[key])]
    assert still == []


def test_what_is_frozen_learns_from_the_epoch_named_on(source: Path, tmp_path: Path) -> None:
    before = load_file(source / "best" / "model.safetensors")
    words = [f"init.from={source}", "init.freeze=backbone", "trainer.ema=null", "schedule=constant"]
    until = train(tmp_path / "a", *words, "trainer.epochs=2")
    beyond = train(tmp_path / "b", *words, "init.unfreeze_epoch=2", "trainer.early_stopping=9")
    assert all(torch.equal(until[key], before[key]) for key in before if not key.startswith("head"))
    model = first_state(tmp_path / "b")["model"]
    assert not any(torch.equal(model[key], before[key]) for key in before if key.endswith("conv1.weight"))
    assert beyond.keys() == before.keys()


def test_a_resumed_fine_tuning_ends_as_an_unbroken_one(source: Path, tmp_path: Path) -> None:
    words = [f"init.from={source}", "init.freeze=backbone", "init.unfreeze_epoch=1", "trainer.epochs=3"]
    whole = train(tmp_path / "whole", *words)
    broken = tmp_path / "broken"

    class Stop(Exception):
        pass

    class Stopper:
        def log(self, event: object) -> None:
            if type(event).__name__ == "EpochEnded" and event.row["epoch"] == 2:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

        def close(self) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        run_experiment(compose([*TINY, *NET, f"run.dir={broken}", *words]), [Stopper()])  # type: ignore[list-item]
    resume_experiment(broken)
    again = load_file(broken / "best" / "model.safetensors")
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_a_model_that_was_frozen_can_be_trained_again_as_a_whole(tmp_path: Path) -> None:
    data = cnnlab.load_data("digits", limit=60, batch_size=20)
    model = cnnlab.create_model("resnet", depth=8, width=4, in_channels=1)
    model.stage1.requires_grad_(False)  # type: ignore[union-attr, operator]  # the user's own wish
    quiet = ["logger=none", "trainer.ema=null"]
    cnnlab.fit(model, data, epochs=1, dir=tmp_path / "a", overrides=[*quiet, "init.freeze=backbone"])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cnnlab.fit(model, data, epochs=1, dir=tmp_path / "b", overrides=quiet)
    still = {key.split(".")[0] for key, p in model.named_parameters() if torch.equal(p, before[key])}
    assert still == {"stage1"}


def test_a_file_of_a_run_keeps_its_class_names(source: Path, tmp_path: Path) -> None:
    tensors, classes = read_source(str(source / "best" / "model.safetensors"))
    assert classes == [str(digit) for digit in range(10)]
    save_file(tensors, tmp_path / "plain.safetensors")
    assert read_source(str(tmp_path / "plain.safetensors"))[1] is None


def test_the_run_folder_tells_where_the_weights_began(source: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", f"init.from={source}")
    begun = json.loads((tmp_path / "run" / "init.json").read_text())
    assert begun["source"] == str(source)
    assert len(begun["loaded"]) == len(load_file(source / "best" / "model.safetensors"))
    assert begun["fresh"] == {}
    assert not (source / "init.json").exists()


def test_a_file_of_foreign_names_is_loaded(source: Path, tmp_path: Path) -> None:
    tensors = load_file(source / "best" / "model.safetensors")
    foreign = {f"module.{key.replace('head', 'fc')}": value for key, value in tensors.items()}
    save_file(foreign, tmp_path / "foreign.safetensors")
    words = [f"init.from={tmp_path / 'foreign.safetensors'}", "init.freeze=backbone", "trainer.ema=null"]
    after = train(tmp_path / "run", *words, "init.map={module.fc: head}")
    assert all(torch.equal(value, tensors[key]) for key, value in after.items() if not key.startswith("head"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init.from=nowhere"], "nothing at .*nowhere;"),
        (["init.from=nowhere.safetensors"], "no file .*nowhere.safetensors;"),
        (["init.from=torchvision:resnt18"], "resnet18"),
        (["init.freeze=all"], "none, backbone or a number"),
        (["init.freeze=-1"], "none, backbone or a number"),
        (["init.freeze=9"], "has 4 stages"),
        (["init.unfreeze_epoch=2"], "something frozen"),
        (["init.freeze=backbone", "init.unfreeze_epoch=0"], "at least 1"),
        (["init.freeze=backbone", "init.unfreeze_epoch=3"], "never reached in trainer.epochs=3"),
        (["init.map={fc: head}"], "there is no init.from"),
        (["init.form=x"], "init.from"),
        (["optimizer.backbone_lr_scale=-1"], "backbone_lr_scale"),
        (["optimizer.backbone_lr_scale=half"], "backbone_lr_scale"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CnnlabError, match=message) as caught:
        train(tmp_path / "run", *words)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_truncated_source_is_refused(source: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((source / "best" / "model.safetensors").read_bytes()[:500])
    with pytest.raises(CnnlabError, match="cannot be read as safetensors"):
        train(tmp_path / "run", f"init.from={cut}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon"])
def test_the_backbone_has_a_rate_of_its_own(name: str) -> None:
    model = cnnlab.create_model("resnet", depth=8, width=4)
    settings = {"name": name, "lr": 0.1, "backbone_lr_scale": 0.01}
    optimizer = create_optimizer(settings, model, torch.device("cpu"))
    plain = create_optimizer({"name": name, "lr": 0.1}, model, torch.device("cpu"))
    rates, before = ({id(p): g["highest_lr"] for g in o.param_groups for p in g["params"]} for o in (optimizer, plain))
    assert rates.keys() == before.keys()
    for key, parameter in model.named_parameters():
        scale = 1 if key.startswith("head.") else 0.01
        assert rates[id(parameter)] == pytest.approx(before[id(parameter)] * scale), key


def test_with_everything_frozen_nothing_is_left_to_train() -> None:
    model = cnnlab.create_model("mlp").requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing is left to train"):
        create_optimizer({"name": "SGD", "lr": 0.1}, model, torch.device("cpu"))


def test_a_run_killed_before_its_first_step_still_begins_where_it_was_told(source: Path, tmp_path: Path) -> None:
    words = [f"init.from={source}", "init.freeze=backbone", "trainer.epochs=1"]
    whole = train(tmp_path / "run", *words)

    class Killed(BaseException):
        pass

    class Killer:
        def log(self, event: object) -> None:
            raise Killed

        def close(self) -> None:
            pass

    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        run_experiment(compose([*TINY, *NET, f"run.dir={broken}", *words]), [Killer()])  # type: ignore[list-item]
    assert (broken / "config.yaml").exists()
    resume_experiment(broken)
    again = load_file(broken / "best" / "model.safetensors")
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_a_source_with_other_classes_gives_its_backbone_alone(tmp_path: Path, source: Path) -> None:
    numbers = np.random.default_rng(0)
    for name in "abcdefghij":  # ten classes, as the digits have
        (tmp_path / "letters" / name).mkdir(parents=True)
        for i in range(8):
            image = Image.fromarray(numbers.integers(0, 256, (8, 8), dtype=np.uint8))
            image.save(tmp_path / "letters" / name / f"{i}.png")
    data = ["data=folder", f"data.root={tmp_path / 'letters'}"]
    words = [*TINY, *NET, *data, f"init.from={source}", "init.strict=false", f"run.dir={tmp_path / 'run'}"]
    run_experiment(compose(words))
    begun = json.loads((tmp_path / "run" / "init.json").read_text())
    assert begun["fresh"]["head.weight"] == "other classes"


@pytest.mark.parametrize("scale", [0.1, 0.0])
@pytest.mark.parametrize("name", ["SGD", "Muon"])
def test_the_rate_that_is_told_is_that_of_the_configuration(name: str, scale: float) -> None:
    model = cnnlab.create_model("resnet", depth=8, width=4)
    settings = {"name": name, "lr": 0.02, "backbone_lr_scale": scale}
    optimizer = create_optimizer(settings, model, torch.device("cpu"))
    assert set_rate(optimizer, 0.5) == pytest.approx(0.01)


def test_without_its_state_a_fine_tuning_is_not_begun_from_other_weights(source: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", f"init.from={source}")
    for name in ("last/state.pt", "report.html"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(CnnlabError, match="and with it the weights of this run"):
        resume_experiment(tmp_path / "run")
