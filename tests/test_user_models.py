"""A class of the user's own, by `package.module:Class`: from the command line to the run folder and back."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import cnnlab
from cnnlab.cli import main
from cnnlab.config import compose
from cnnlab.errors import ConfigError, ModelError
from cnnlab.models.registry import MODELS, create_model, model_spec

SOURCE = """
import cnnlab
from torch import nn

print("the module runs")

class Tiny(cnnlab.Classifier):
    def __init__(self, filters=3, in_channels=1, num_classes=10):
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Conv2d(in_channels, filters, 3, padding=1)
        self.head = nn.Linear(filters, num_classes)

    def forward(self, x):
        return self.head(self.body(x).relu().mean((2, 3)))

number = 3

class Free(Tiny):
    def __init__(self, dropout: float = 0, pad: "str | int" = "same", num_classes=10, **rest):
        super().__init__(num_classes=num_classes)
        self.given = (dropout, pad, rest)

class Required(Tiny):
    def __init__(self, filters, in_channels, num_classes):
        super().__init__(filters, in_channels, num_classes)

class Looks(Tiny):
    def forward(self, x):
        assert x.mean().item() == x.mean().item()
        return super().forward(x)

class Pair(Tiny):
    def forward(self, x):
        return super().forward(x), x

class Own(Tiny):
    def forward(self, x):
        raise ValueError("my own words")

class Extra(Tiny):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass

class Missing(Tiny):
    def forward(self, x):
        return self.nothing(x)

class Refuses(Tiny):
    def __init__(self):
        raise KeyError("a key")

def not_a_model():
    return 3
"""
SHORT = ["data.limit=40", "trainer.epochs=1", "trainer.batch_size=20", "logger=none"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the module in it; what a test imports is forgotten after it."""
    (tmp_path / "mymodels.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    known, path = dict(MODELS), list(sys.path)
    yield tmp_path
    forget()
    MODELS.clear()
    MODELS.update(known)
    sys.path[:] = path


def forget() -> None:
    """As if the process were new."""
    sys.modules.pop("mymodels", None)
    MODELS.pop("mymodels:Tiny", None)


def test_a_class_of_ones_own_trains_tests_and_predicts(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SHORT, "model=mymodels:Tiny", "model.filters=5", "run.dir=run"]) == 0
    forget()
    assert main(["test", "run", "--trust-code"]) == 0
    model, card = cnnlab.load_run("run")  # known by now
    assert card["model"]["name"] == "mymodels:Tiny"
    assert card["model"]["arguments"] == {"filters": 5, "in_channels": 1, "num_classes": 10}
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_state_that_no_file_can_hold_is_refused_before_training(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SHORT, "model=mymodels:Extra", "run.dir=run"]) == 2
    assert "_extra_state" in capfd.readouterr().err.splitlines()[-1]
    assert not (here / "run" / "config.yaml").exists()


def test_a_run_folder_runs_no_code_unless_it_is_trusted(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SHORT, "model=mymodels:Tiny", "run.dir=run"]) == 0
    Image.new("L", (8, 8)).save("x.png")
    (here / "run" / "report.html").unlink()  # so that there is something to resume
    capfd.readouterr()
    for words in (["test", "run"], ["predict", "run", "x.png"], ["resume", "run"]):
        forget()
        assert main(words) == 2
        out = capfd.readouterr()
        assert "--trust-code" in out.err
        assert "the module runs" not in out.out
    for call in (cnnlab.load_run, cnnlab.Predictor.from_run, cnnlab.evaluate):
        with pytest.raises(cnnlab.CnnlabError, match="trust_code=True"):
            call("run")
    assert "mymodels" not in sys.modules
    assert main(["resume", "run", "--trust-code"]) == 0
    forget()
    assert cnnlab.load_run("run", trust_code=True)[1]["classes"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mymodls:Tiny", "No module named 'mymodls'"),
        ("mymodels:Tiy", "Tiy"),
        ("mymodels:number", "class or a function"),
        ("broken:Net", "invalid syntax"),
        ("raises:Net", "went wrong"),
    ],
)
def test_a_class_that_cannot_be_had_is_one_line(
    here: Path, capfd: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    (here / "broken.py").write_text("class Net(:\n")
    (here / "raises.py").write_text("raise RuntimeError('it went wrong')\n")
    assert main(["train", *SHORT, f"model={name}", "run.dir=run"]) == 2
    assert words in capfd.readouterr().err
    assert not (here / "run").exists()


def test_a_constructor_of_ones_own_judges_its_arguments_itself(here: Path) -> None:
    model = create_model("mymodels:Free", trust_code=True, dropout=0.5, pad=2, width=7)
    assert model.given == (0.5, 2, {"width": 7})
    assert "rest" not in model_spec(model)[1]


def test_without_trust_a_dotted_name_is_not_imported(here: Path) -> None:
    with pytest.raises(ModelError, match="trust_code=True"):
        create_model("mymodels:Tiny")
    assert "mymodels" not in sys.modules
    assert create_model("mymodels:Tiny", trust_code=True, filters=2).body.out_channels == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("word", ["model=a.b:", "model=:Net", "model=a b:Net", "model=a/b:Net"])
def test_what_is_no_dotted_name_is_an_unknown_model(word: str) -> None:
    with pytest.raises(ConfigError, match="unknown model"):
        compose([word])


def test_python_m_cnnlab_is_cnnlab() -> None:
    import subprocess

    python = shutil.which(sys.executable) or sys.executable
    result = subprocess.run([python, "-m", "cnnlab", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == cnnlab.__version__


@pytest.mark.parametrize("words", [["model=mymodels:Required", "model.filters=2"], ["model=mymodels:Looks"]])
def test_unusual_classes_train(here: Path, capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["train", *SHORT, *words, "run.dir=run"]) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Pair", "must give one tensor"),
        ("Own", "my own words"),
        ("Missing", "nothing"),
        ("Refuses", "a key"),
        ("not_a_model", "must build an nn.Module"),
        ("Required", "filters"),
    ],
)
def test_a_class_that_fails_says_in_one_line_how(
    here: Path, capfd: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert main(["train", *SHORT, f"model=mymodels:{name}", "run.dir=run"]) == 2
    err = capfd.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert not (here / "run").exists()
