"""The fix that an error names is not itself refused: it is applied, and the command then works."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnlab.cli import main
from cnnlab.config import ALIASES

SETTING = re.compile(r"(?<![\w.])([a-z_]+(?:\.[a-z_]+)*=[\w.:\[\],/-]*\w\]?)")
SHORT = ["data.limit=40", "trainer.epochs=1", "trainer.batch_size=16", "trainer.threads=1", "logger=none"]
OWN = ["model=lenet", "init.from=OWN"]
PUBLISHED = ["model=pretrained", "model.architecture=mobilenet_v3_small"]
ALEXNET = ["model=alexnet", "model.width=4", "model.hidden=[8]"]
WRONG = {
    "published weights for init.from": (["model=lenet", "init.from=torchvision:resnet18"], "init.from=null"),
    "published weights for a model": ([*PUBLISHED, "optimizer=sgd"], "model.weights=null"),
    "a permutation and moves": (["data.rearrange=permute", "augment=light"], "augment=none"),
    "nothing frozen to unfreeze": ([*OWN, "trainer.epochs=2", "init.unfreeze_epoch=1"], "init.freeze=backbone"),
    "compile in processes": (["trainer.compile=true", "trainer.devices=2"], "trainer.devices=1"),
    "an AlexNet for small images": ([*ALEXNET, "model.variant=standard"], "model.variant=small"),
    "more unreadable images than allowed": (["data=folder", "data.root=BAD", "data.max_corrupt=0"], "data.max_corrupt"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run OWN and a set BAD in which one image is damaged; nothing can be downloaded."""

    def refuse(*given: object, **more: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.chdir(tmp_path)
    numbers = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "BAD" / name).mkdir(parents=True)
        for i in range(15):
            pixels = numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "BAD" / name / f"{i}.png")
    (tmp_path / "BAD" / "a" / "0.png").write_bytes(b"damaged")
    return tmp_path


@pytest.mark.parametrize(("words", "fix"), WRONG.values(), ids=WRONG)
def test_the_fix_that_is_named_works(
    words: list[str], fix: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "init.from=OWN" in words:
        assert main(["train", *SHORT, "model=lenet", "run.dir=OWN"]) == 0
    given = ["run.dir=run", *SHORT]
    for word in words:
        given = with_setting(given, word)
    assert main(["train", *given]) == 2
    said = capsys.readouterr().err
    named = [one for one in SETTING.findall(said) if one.startswith(fix)]
    assert named, said
    fixed = with_setting(given, named[-1])
    assert main(["train", *(word for word in fixed if word != "trainer.compile=true")]) == 0, capsys.readouterr().err


def with_setting(words: list[str], setting: str) -> list[str]:
    key = setting.partition("=")[0]
    same = {key, ALIASES.get(key, key)}
    return [*(word for word in words if word.partition("=")[0] not in same), setting]


def test_a_set_without_a_root_names_how_a_folder_is_tested(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SHORT, "model=lenet", "run.dir=OWN"]) == 0
    for number in range(10):
        (place / "out" / "test" / str(number)).mkdir(parents=True)
        Image.new("L", (8, 8), 20 * number).save(place / "out" / "test" / str(number) / "0.png")
    capsys.readouterr()
    assert main(["test", "OWN", "--data-root", "out"]) == 2
    fix = re.search(r"--data folder", capsys.readouterr().err)
    assert fix is not None
    assert main(["test", "OWN", "--data-root", "out", *fix[0].split()]) == 0
    assert "test split, 10 images" in capsys.readouterr().out
