"""A user's own Dataset, DataLoader, nn.Module and loss: from Python, by name, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import cnnlab
from cnnlab.cli import main
from cnnlab.config import compose
from cnnlab.data.batches import BatchLoader, as_tensor
from cnnlab.data.own import DATASETS, DatasetImages, OwnData, as_image, is_source, read_images
from cnnlab.errors import CnnlabError, ConfigError, DataError, Interrupted, ModelError, RunError
from cnnlab.models.plain import describe_plain
from cnnlab.models.registry import MODELS, OWN_MODULE, model_spec
from cnnlab.study.worker import Reporter, RunRequest, execute_request
from cnnlab.tracking.base import EpochEnded
from cnnlab.training.build import resume_command
from cnnlab.training.distributed import Group

QUICK = ["logger=none", "trainer.precision=fp32"]
SIDE, CLASSES = 6, 3


class Squares(Dataset[tuple[Any, int]]):
    """Noise with a bright row that tells the class: learned in a few steps."""

    def __init__(self, count: int = 60, form: Callable[[np.ndarray], Any] = Image.fromarray, first: int = 0) -> None:
        self.count, self.form, self.first, self.reads = count, form, first, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.reads += 1
        label = index % CLASSES
        pixels = np.random.default_rng(self.first + index).integers(0, 60, (SIDE, SIDE), dtype=np.uint8)
        pixels[2 * label] = 250
        return self.form(pixels), label


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels)[None].float() / 255


class Net(nn.Module):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.hidden = hidden
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def known_names() -> Iterator[None]:
    models, sets, path = dict(MODELS), dict(DATASETS), list(sys.path)
    yield
    for known, before in ((MODELS, models), (DATASETS, sets)):
        known.clear()
        known.update(before)  # type: ignore[arg-type]
    sys.path[:] = path
    sys.modules.pop("mydata", None)


def fit(data: Any, folder: Path, model: nn.Module | None = None, **more: Any) -> cnnlab.Run:
    torch.manual_seed(0)
    words = [*QUICK, *more.pop("overrides", [])]
    size = None if isinstance(data, DataLoader) else 10
    given = {"epochs": 1, "batch_size": size, "progress": False} | more
    return cnnlab.fit(model or Net(), data, dir=folder, overrides=words, **given)


def loader(count: int, first: int = 0, **how: Any) -> DataLoader[Any]:
    return DataLoader(Squares(count, to_tensor, first), **{"batch_size": 10} | how)


# ---- what is given


@pytest.mark.parametrize(
    "form",
    [
        Image.fromarray,
        lambda pixels: pixels,
        lambda pixels: pixels[:, :, None],
        lambda pixels: torch.from_numpy(pixels)[None],
        to_tensor,
        lambda pixels: (pixels / 255).astype(np.float32),
    ],
    ids=["pillow", "array", "array with channel", "bytes", "floats", "float array"],
)
def test_a_dataset_of_any_form_is_learned(form: Callable[[np.ndarray], Any], tmp_path: Path) -> None:
    run = fit(Squares(90, form), tmp_path / "run", epochs=12, overrides=["optimizer.lr=0.02"])
    assert run.test is not None
    assert run.test["accuracy"] > 0.9
    assert (run.test["n"], len(run.history)) == (18, 12)
    names = {path.relative_to(run.dir).as_posix() for path in run.dir.rglob("*") if path.is_file()}
    wanted = "config.yaml split.json environment.json metrics.jsonl best/model.safetensors best/model.json test.json"
    assert {*wanted.split(), "predictions.csv", "report.html"} <= names


def test_whole_images_are_read_once_and_a_transform_in_each_epoch(tmp_path: Path) -> None:
    kept, streamed = Squares(60), Squares(60)
    fit(kept, tmp_path / "kept", epochs=4)
    fit(streamed, tmp_path / "streamed", epochs=4, transform=lambda image: image)
    assert kept.reads == 60 + 2 * 8  # and what tells that they repeat themselves
    assert streamed.reads > 4 * 40


def test_a_dataset_that_draws_is_not_kept() -> None:
    class Noise(Squares):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return Image.fromarray(np.random.randint(0, 255, (SIDE, SIDE), dtype=np.uint8)), index % CLASSES

    assert OwnData(Squares()).is_whole_images()
    assert not OwnData(Noise()).is_whole_images()


def test_loaders_train_validate_and_test_with_all_their_images(tmp_path: Path) -> None:
    parts = {"val": loader(25, 100, shuffle=True), "test": loader(34, 200, shuffle=True)}
    run = fit(loader(45, shuffle=True), tmp_path / "run", **parts, classes=["a", "b", "c"])
    assert run.test is not None
    assert run.test["n"] == 34
    assert run.history[0]["step"] == 5  # the last batch is of five
    rows = list(csv.DictReader((run.dir / "predictions.csv").open()))
    assert len(rows) == 34
    assert {row["true"] for row in rows} == {"a", "b", "c"}


def test_the_accuracy_of_an_epoch_counts_images_and_not_batches(tmp_path: Path) -> None:
    still = ["optimizer=sgd", "optimizer.lr=1e-12"]
    run = fit(loader(17), tmp_path / "run", val=loader(17), overrides=still)
    assert run.history[0]["train_accuracy"] == pytest.approx(run.history[0]["val_accuracy"])
    assert run.history[0]["train_loss"] == pytest.approx(run.history[0]["val_loss"], rel=1e-4)


def test_the_samples_of_a_shuffled_test_loader_are_the_images_that_were_tested() -> None:
    batches = BatchLoader(loader(30, shuffle=True), 10, num_classes=CLASSES)
    whole = torch.cat([batch.images for batch in batches.epoch()])
    assert torch.equal(next(batches.picked([4, 21]).epoch()).images, whole[[4, 21]])
    ordered = BatchLoader(loader(30), 10, num_classes=CLASSES)
    assert torch.equal(next(ordered.picked([29]).epoch()).images, torch.cat([b.images for b in ordered.epoch()])[[29]])


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, start: int = 0) -> list[list[int]]:
        batches = BatchLoader(Squares(60, to_tensor), 10, shuffle=True, seed=seed, num_classes=CLASSES)
        return [batch.images.sum((1, 2, 3)).tolist() for batch in batches.epoch(epoch, start)]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1, start=4) == order(0, 1)[4:]
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_two_fits_give_the_same_weights(tmp_path: Path) -> None:
    first, second = (
        fit(Squares(), tmp_path / str(i), transform=lambda image: to_tensor(np.asarray(image))) for i in range(2)
    )
    ours, theirs = (cnnlab.load_run(run.dir, model=Net())[0].state_dict() for run in (first, second))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_images_of_many_sizes_are_brought_to_one_and_augmented(tmp_path: Path) -> None:
    class Varied(Squares):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return image.resize((SIDE + index % 4, SIDE)), label

    assert isinstance(read_images(OwnData(Varied()), lambda done, total: None), DatasetImages)
    words = [f"data.image_size={SIDE}", "augment=light"]
    run = fit(Varied(), tmp_path / "run", nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES)), overrides=words)
    assert "name: light" in (run.dir / "config.yaml").read_text()


def test_val_and_test_that_were_given_are_used(tmp_path: Path) -> None:
    run = fit(Squares(40), tmp_path / "run", val=Squares(12, first=100), test=Squares(15, first=200))
    assert run.test is not None
    assert run.test["n"] == 15
    data = cnnlab.load_data(Squares(40), val=Squares(12), test=Squares(15))
    assert [data.loader(part).count for part in ("train", "val", "test")] == [40, 12, 15]


def test_classes_come_from_the_argument_the_dataset_or_the_labels() -> None:
    named = Squares()
    named.classes = ["x", "y", "z"]  # type: ignore[attr-defined]
    subset = torch.utils.data.Subset(named, range(30))
    assert cnnlab.load_data(subset).classes == ["x", "y", "z"]
    assert cnnlab.load_data(named, classes=["a", "b", "c"]).classes == ["a", "b", "c"]
    assert cnnlab.load_data(Squares()).classes == ["0", "1", "2"]
    assert cnnlab.load_data(loader(30)).classes == ["0", "1", "2"]


# ---- losses


def test_a_loss_of_ones_own_is_what_is_lowered_and_shown(tmp_path: Path) -> None:
    own = fit(Squares(), tmp_path / "own", loss=lambda logits, labels: nn.functional.cross_entropy(logits, labels))
    built_in = fit(Squares(), tmp_path / "built-in")
    for ours, theirs in zip(own.history, built_in.history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"])
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"])
    margin = fit(Squares(), tmp_path / "margin", loss=nn.MultiMarginLoss())
    assert margin.history[0]["val_loss"] != pytest.approx(own.history[0]["val_loss"], rel=0.01)
    assert "loss: own" in (margin.dir / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("loss", "overrides", "words"),
    [
        (lambda logits, labels: 3.0, [], "scalar tensor"),
        (lambda logits, labels: logits, [], "scalar tensor"),
        (nn.CrossEntropyLoss(), ["trainer.class_weights=[1,2,3]"], "reduction='none'"),
        (nn.CrossEntropyLoss(), ["trainer.label_smoothing=0.1"], "label_smoothing"),
        (nn.Bilinear(3, 3, 1), [], "parameters"),
        (None, ["trainer.loss=own"], "cnnlab.fit"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused(loss: Any, overrides: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        fit(Squares(), tmp_path / "run", loss=loss, overrides=overrides)


def test_a_loss_of_each_image_takes_class_weights(tmp_path: Path) -> None:
    fit(
        Squares(),
        tmp_path / "run",
        loss=nn.CrossEntropyLoss(reduction="none"),
        overrides=["trainer.class_weights=balanced"],
    )


# ---- modules


def test_a_module_that_keeps_its_arguments_is_rebuilt_by_name(tmp_path: Path) -> None:
    run = fit(Squares(), tmp_path / "run", Net(hidden=5))
    model, card = cnnlab.load_run(run.dir, trust_code=True)
    assert card["model"] == {"name": f"{__name__}:Net", "arguments": {"hidden": 5}}
    assert isinstance(model, Net)


class Forgets(Net):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__(hidden)
        del self.hidden


class Drops(nn.Module):
    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(rate), nn.Linear(SIDE**2, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def test_a_name_is_kept_only_where_it_builds_the_same_network() -> None:
    images = torch.rand(2, 1, SIDE, SIDE)

    class Local(Net):
        pass

    assert describe_plain(Net(3), images)
    assert describe_plain(Forgets(), images)  # by its default
    for model in (Forgets(5), Drops(0.5), Local(), nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, CLASSES))):
        assert not describe_plain(model, images)
        assert model_spec(model)[0] == OWN_MODULE


def test_weights_of_a_module_that_no_name_builds_are_loaded_into_one(tmp_path: Path) -> None:
    run = fit(Squares(), tmp_path / "run", Forgets(5))
    for trust in (False, True):
        with pytest.raises(CnnlabError, match=r"load_run\(RUN, model=Net\(\)\)"):
            cnnlab.load_run(run.dir, trust_code=trust)
    model, _ = cnnlab.load_run(run.dir, model=Forgets(5))
    assert not model.training
    with pytest.raises(RunError, match="does not fit"):
        cnnlab.load_run(run.dir, model=Forgets(6))
    data = cnnlab.load_data(Squares(), batch_size=10)
    assert cnnlab.evaluate(run.dir, data=data, model=Forgets(5)) == run.test
    answer = cnnlab.Predictor.from_run(run.dir, model=Forgets(5)).predict(Squares()[0][0])
    assert set(answer[0].probabilities) == {"0", "1", "2"}


def test_what_a_run_on_objects_cannot_do_is_said_at_its_start(tmp_path: Path) -> None:
    said: list[str] = []

    class Listener:
        def log(self, event: object) -> None:
            said.extend(getattr(event, "facts", {}).get("note", "").splitlines())

        def close(self) -> None:
            pass

    fit(loader(30), tmp_path / "a", Forgets(5), trackers=[Listener()])
    assert len(said) == 1
    assert "data and network" in said[0]
    assert "no decoded store" in said[0]


def test_commands_on_a_run_of_objects_say_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = fit(loader(30), tmp_path / "run", Forgets(5), test=loader(30))
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "x.png")
    for words in (["test"], ["predict", str(tmp_path / "x.png")], ["export"]):
        assert main([words[0], str(run.dir), *words[1:], "--trust-code"]) == 2
        assert "model=Net()" in capfd.readouterr().err
    predictor = cnnlab.Predictor.from_run(run.dir, model=Forgets(5))
    with pytest.raises(DataError, match=r"Predictor\.probabilities"):
        predictor.predict(tmp_path / "x.png")
    assert predictor.probabilities(next(iter(loader(4)))[0]).shape == (4, CLASSES)


def test_an_interrupt_does_not_promise_a_resume(tmp_path: Path) -> None:
    class Stops:
        def log(self, event: object) -> None:
            if isinstance(event, EpochEnded):
                os.kill(os.getpid(), signal.SIGINT)

        def close(self) -> None:
            pass

    with pytest.raises(Interrupted, match="cannot be resumed"):
        fit(Squares(), tmp_path / "run", Forgets(5), epochs=5, trackers=[Stops()])
    assert cnnlab.load_run(tmp_path / "run", model=Forgets(5))[1]["epoch"] >= 1


def test_fit_without_test_leaves_the_split_alone(tmp_path: Path) -> None:
    run = fit(Squares(), tmp_path / "run", test=False)
    assert run.test is None
    assert (run.dir / "report.html").exists()
    assert not (run.dir / "test.json").exists()
    data = cnnlab.load_data("digits", limit=60, batch_size=20)
    model = cnnlab.create_model("mlp", hidden=[4], image_size=8)
    run = cnnlab.fit(model, data, epochs=1, dir=tmp_path / "named", test=False, overrides=QUICK)
    assert run.test is None
    assert cnnlab.evaluate(run.dir)["n"] == 60


# ---- by name

SOURCE = f"""
import numpy as np
from PIL import Image
from torch.utils.data import Dataset

class Photos(Dataset):
    def __init__(self, root, train=True, side={SIDE}):
        self.count, self.side = (60 if train else 20), side
    def __len__(self):
        return self.count
    def __getitem__(self, i):
        return Image.fromarray(np.full((self.side, self.side), 80 * (i % 3) + i % 40, np.uint8)), i % 3

class Parts(Photos):
    def __init__(self, split="train"):
        if split == "val":
            raise ValueError("no such split")
        super().__init__("", split == "train")

class Floats(Photos):
    def __init__(self):
        super().__init__("")
    def __getitem__(self, i):
        return np.asarray(super().__getitem__(i)[0], np.float32) / 255, i % 3

class Breaks(Photos):
    def __getitem__(self, i):
        return 1 / 0

class Few(Photos):
    def __init__(self, count=20, names=("0", "1", "2")):
        self.count, self.side, self.classes = count, {SIDE}, list(names)
    def __getitem__(self, i):
        return np.asarray(super().__getitem__(i)[0], np.float32) / 255, i % 3
"""
SHORT = ["trainer.epochs=1", "trainer.batch_size=10", "logger=none", "model=mlp", "model.hidden=[4]"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mydata.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "tested"), [("Photos", 20), ("Parts", 20), ("Floats", 12)])
def test_a_dataset_by_name_trains_and_is_tested_where_it_is_trusted(
    here: Path, name: str, tested: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", f"data=mydata:{name}", *SHORT, "run.dir=run"]) == 0
    before = (here / "run" / "test.json").read_text()
    DATASETS.clear()
    assert main(["test", "run"]) == 2
    assert "--trust-code" in capfd.readouterr().err
    assert main(["test", "run", "--trust-code"]) == 0
    assert (here / "run" / "test.json").read_text() == before
    assert f'"n": {tested}' in before


def test_arguments_reach_the_class(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cnnlab.load_data("mydata:Photos", side=9).image_size == (9, 9)
    assert main(["data", "mydata:Photos", "data.args={side: 11}"]) == 0
    assert "11×11 pixels" in capfd.readouterr().out
    assert main(["train", "data=mydata:Photos", "data.args={sid: 9}", *SHORT, "run.dir=run"]) == 2
    assert "data.args" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=mydata:Nothing"], "Nothing"),
        (["data=nowhere:Photos"], "searched in this folder"),
        (["data=mydata:Breaks"], "ZeroDivisionError"),
        (["data=mydata:Floats", "augment=light"], "augment"),
        (["data=mydata:Floats", "trainer.class_weights=balanced"], "count the training labels"),
    ],
)
def test_a_dataset_by_name_that_fails_says_how_in_a_line(
    here: Path, words: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words, *SHORT, "run.dir=run"]) == 2
    err = capfd.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not (here / "run" / "config.yaml").exists()


# ---- another set than the run's


def test_batches_given_to_evaluate_never_replace_the_test_of_the_run(tmp_path: Path) -> None:
    run = fit(loader(30), tmp_path / "run", val=loader(10, 50), test=loader(20, 100))
    before = [(run.dir / name).read_bytes() for name in ("test.json", "predictions.csv")]
    other = cnnlab.load_data(loader(30), val=loader(10, 50), test=loader(20, 900))
    metrics = cnnlab.evaluate(run.dir, data=other, model=Net())
    assert [(run.dir / name).read_bytes() for name in ("test.json", "predictions.csv")] == before
    assert (run.dir / "evaluation-test-other.json").exists()
    assert metrics["own_test"]["accuracy"] == run.test["accuracy"]  # type: ignore[index]
    assert metrics["calibration"]["temperature"] == run.test["calibration"]["temperature"]  # type: ignore[index]


def test_another_set_by_name_is_tested_whole_and_only_with_images_of_the_same_kind(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("Floats", "Parts"):
        assert main(["train", f"data=mydata:{name}", *SHORT, f"run.dir={name}"]) == 0
    assert main(["test", "Floats", "--trust-code", "--data", "mydata:Few"]) == 0
    assert len((here / "Floats" / "predictions-test-mydata.Few.csv").read_text().splitlines()) == 1 + 20
    capfd.readouterr()
    for run, data, said in (
        ("Floats", "mydata:Parts", "code of your own"),
        ("Floats", "digits", "code of your own"),
        ("Parts", "mydata:Few", "made by your own code"),
    ):
        assert main(["test", run, "--trust-code", "--data", data]) == 2
        assert said in capfd.readouterr().err
    with pytest.raises(DataError, match="in its order"):
        cnnlab.evaluate("Floats", data="mydata:Few", trust_code=True, args={"names": ["2", "1", "0"]})


def test_each_process_takes_its_share_of_a_batch_of_ones_own() -> None:
    def labels(rank: int, processes: int) -> list[list[int]]:
        batches = BatchLoader(Squares(47, to_tensor), 9, shuffle=True, num_classes=CLASSES)
        return [batch.targets.tolist() for batch in batches.epoch(1, shard=(rank, processes))]

    halves = [a + b for a, b in zip(labels(0, 2), labels(1, 2), strict=True)]
    assert halves == labels(0, 1)
    data = cnnlab.load_data(Squares(60, to_tensor), batch_size=10)
    shards = [data.evaluation_loader("val").epoch(shard=(rank, 2)) for rank in range(2)]
    assert sum(len(batch.targets) for shard in shards for batch in shard) == data.val.count


def test_several_processes_refuse_a_dataloader() -> None:
    data = cnnlab.load_data(loader(30, shuffle=True))
    with pytest.raises(ConfigError, match="DataLoader cannot be shared by 2 processes"):
        Group(size=2).check_shards(data)
    Group().check_shards(data)


def test_a_rare_class_of_a_dataset_of_tensors_is_counted() -> None:
    for rare in range(12):  # wherever it falls: in an incomplete batch, or in another split
        labels = torch.zeros(12, dtype=torch.int64)
        labels[rare], labels[rare - 1] = 3, 1
        data = cnnlab.load_data(TensorDataset(torch.rand(12, 1, 4, 4), labels), batch_size=5)
        assert data.num_classes == 4


def test_a_check_of_tensors_is_refused_in_a_line(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "mydata:Floats", "--check"]) == 2
    assert "gives tensors" in capfd.readouterr().err
    assert main(["data", "mydata:Photos", "--show"]) == 0
    assert (here / "mydata.Photos-batch.png").exists()


def test_the_target_domain_may_be_a_dataset_of_ones_own(here: Path) -> None:
    words = ["data=mydata:Photos", "adapt.method=dann", "adapt.data=mydata:Parts"]
    network = ["model=resnet", "model.depth=8", "model.width=2"]
    assert main(["train", *words, *SHORT[:3], *network, "run.dir=run"]) == 0
    assert json.loads((here / "run" / "test.json").read_text())["target"]["data"] == "mydata:Parts"


@pytest.mark.parametrize(
    ("words", "trusted"),
    [
        ([], False),
        (["data=any", "data.name=mydata:Photos"], True),
        (["model=any", "model.name=mymodels:Net"], True),
        (["adapt.method=dann", "adapt.data=mydata:Photos"], True),
        (["adapt.data=mydata:Photos"], False),
    ],
)
def test_the_command_that_resumes_a_run_of_ones_own_code_trusts_it(words: list[str], trusted: bool) -> None:
    assert resume_command(Path("runs/x"), compose(words)).endswith(" --trust-code") == trusted


def test_a_study_on_a_dataset_of_ones_own_resumes_and_tests_elsewhere(here: Path) -> None:
    class Silent:
        def send(self, message: object) -> None:
            pass

    config = compose(["data=mydata:Floats", *SHORT]).to_dict()
    request = RunRequest(config, here / "run", threads=1, test_on=("data=mydata:Few",))
    elsewhere = here / "run" / "evaluation-test-mydata.Few.json"
    assert execute_request(request, Reporter(Silent())).status == "done"
    (here / "run" / "report.html").unlink()
    elsewhere.rename(here / "before.json")
    DATASETS.clear()
    assert execute_request(request, Reporter(Silent())).status == "done"
    assert elsewhere.read_bytes() == (here / "before.json").read_bytes()


# ---- what is refused


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from Squares(20, to_tensor)


def bad(give: Callable[[int], Any]) -> Dataset[Any]:
    class Bad(Squares):
        def __getitem__(self, index: int) -> Any:
            return give(index)

    return Bad()


@pytest.mark.parametrize(
    ("data", "more", "words"),
    [
        (3, {}, "must be a torch Dataset"),
        ("digits", {}, r"load_data\('digits'\)"),
        (bad(lambda i: {"image": 1}), {}, r"must be \(image, label\)"),
        (bad(lambda i: (to_tensor(np.zeros((6, 6), np.uint8)), "cat")), {}, "class number"),
        (bad(lambda i: (to_tensor(np.zeros((6, 6), np.uint8)), -1)), {}, "class number"),
        (bad(lambda i: (torch.zeros(5, 6, 6), 1)), {}, "1 or 3"),
        (bad(lambda i: ("a text", 1)), {}, "Pillow image"),
        (DataLoader(Endless(), batch_size=5), {}, "__len__"),
        (loader(20), {"transform": to_tensor}, "transform="),
        (loader(20), {"batch_size": 10}, "batch_size=10"),
        (loader(20), {"val": Squares()}, "all Datasets or all DataLoaders"),
        (DataLoader(TensorDataset(torch.rand(9, 1, SIDE, SIDE), torch.rand(9))), {}, "whole numbers"),
        (DataLoader(TensorDataset(torch.rand(9, 1, SIDE, SIDE), torch.arange(9)), batch_size=9), {}, "a label is"),
        (Squares(), {"classes": ["a", "b"]}, "2 class names"),
        (Squares(), {"classes": "abc\n"}, "classes="),
        (Squares(), {"classes": ["a", "b", "a"]}, "two classes are named 'a'"),
        (Squares(0), {}, "Squares has no image"),
        (Squares(0), {"transform": to_tensor}, "Squares has no image"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused_in_a_line(
    data: Any, more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CnnlabError, match=words) as caught:
        fit(data, tmp_path / "run", **more)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("argument", ["val", "transform", "classes", "batch_size"])
def test_arguments_for_ones_own_set_are_refused_beside_a_loaded_one(argument: str, tmp_path: Path) -> None:
    data = cnnlab.load_data("digits", limit=60)
    with pytest.raises(ConfigError, match=f"{argument}=.*load_data"):
        cnnlab.fit(cnnlab.create_model("mlp", image_size=8), data, dir=tmp_path / "run", **{argument: 3})  # type: ignore[arg-type]


def test_a_module_that_does_not_take_the_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not take the first batch"):
        fit(loader(20), tmp_path / "run", nn.Linear(3, 3))
    with pytest.raises((ConfigError, ModelError)):
        fit(Squares(), tmp_path / "run", nn.Linear(3, 3))


def test_images_of_every_kind_become_what_they_show() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for image in (Image.fromarray(pixels), pixels, torch.from_numpy(pixels).permute(2, 0, 1)):
        read = as_image(image)
        assert read is not None
        assert np.array_equal(np.asarray(read), pixels)
        assert torch.allclose(as_tensor(image), torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    assert as_image(pixels.astype(np.float32)) is None
    assert as_tensor(np.ones((2, 4), np.float32)).shape == (1, 2, 4)


# ---- the public Datasets


def test_a_public_dataset_works_in_a_loader_with_workers() -> None:
    from torchvision.transforms import ToTensor

    train = cnnlab.datasets.Digits(transform=ToTensor(), target_transform=lambda label: label)
    train.target_transform = int
    train = pickle.loads(pickle.dumps(train))
    images, labels = next(iter(DataLoader(train, batch_size=16, num_workers=1)))
    assert images.shape == (16, 1, 8, 8)
    assert labels.tolist() == train.targets[:16]


def test_a_public_dataset_splits_as_load_data_does() -> None:
    data = cnnlab.load_data("digits", val_fraction=0.15, test_fraction=0.2, seed=3)
    for part in ("train", "val", "test"):
        ours = cnnlab.datasets.Digits(split=part, val_fraction=0.15, test_fraction=0.2, seed=3)
        assert np.array_equal(ours.numbers, data.split[part])
    assert len(cnnlab.datasets.Digits(split="all")) == 1797
    with pytest.raises(DataError, match="no val split"):
        cnnlab.datasets.Digits(split="val")
    with pytest.raises(DataError, match="split must be"):
        cnnlab.datasets.Digits(split="tran")
    with pytest.raises(DataError):
        cnnlab.datasets.MNIST("nowhere")


def test_a_public_dataset_of_files_names_what_cannot_be_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (5, 4)).save(tmp_path / name / "1.png")
    (tmp_path / "b" / "2.png").write_bytes(b"no image")
    folder = cnnlab.datasets.Folder(tmp_path, split="all")
    assert folder[0][0].size == (5, 4)
    assert folder.class_to_idx == {"a": 0, "b": 1}
    with pytest.raises(DataError, match=r"b/2\.png"):
        folder[2]


def test_every_public_dataset_is_documented() -> None:
    for name in cnnlab.datasets.__all__:
        assert getattr(cnnlab.datasets, name).__doc__, name


def test_names_in_the_place_of_a_model_or_of_data_are_answered_by_calls_that_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    model = cnnlab.create_model("mlp", image_size=8)
    with pytest.raises(ConfigError, match=r"cnnlab\.load_data\(\"folder\", root='shapes'\)"):
        cnnlab.fit(model, "shapes")
    with pytest.raises(ConfigError, match=r"cnnlab\.load_data\('digits'\)"):
        cnnlab.fit(model, "digits")
    with pytest.raises(ConfigError, match=r"must be an nn\.Module, got 'mlp'; build it first: cnnlab\.create_model"):
        cnnlab.fit("mlp", cnnlab.load_data("digits"))  # type: ignore[arg-type]


def test_a_list_of_pairs_is_a_set_and_a_tuple_of_sets_is_none() -> None:
    pairs = [(Image.fromarray(np.full((8, 8), 20 * label, np.uint8)), label) for label in (0, 1) * 8]
    assert is_source(pairs)
    assert cnnlab.load_data(pairs).num_classes == 2
    sets = TensorDataset(torch.zeros(4, 1, 8, 8), torch.zeros(4)), pairs
    assert not is_source(sets)
    with pytest.raises(DataError, match=r"train must be a torch Dataset.* got a tuple"):
        cnnlab.load_data(sets)
    with pytest.raises(DataError, match=r"train must be a torch Dataset.* got a dict"):
        cnnlab.load_data({"train": pairs})


def test_a_batch_without_an_image_is_one_line(tmp_path: Path) -> None:
    data = TensorDataset(torch.rand(8, 1, SIDE, SIDE), torch.arange(8) % CLASSES)
    empty = DataLoader(data, batch_size=4, collate_fn=lambda _: (torch.rand(0, 1, SIDE, SIDE), torch.zeros(0).long()))
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))
    with pytest.raises(DataError, match="a batch has no image; check the collate_fn"):
        cnnlab.fit(model, empty, epochs=1, dir=tmp_path / "run", overrides=QUICK)
