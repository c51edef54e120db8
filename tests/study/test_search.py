"""Searches: what may be drawn, what is drawn, pruned, cut off and told, and that the test split has no part in it."""

from __future__ import annotations

import csv
import json
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cnnlab
from cnnlab.config import compose
from cnnlab.errors import ConfigError
from cnnlab.experiment import try_experiment
from cnnlab.study.definition import AxisValue, Definition, define
from cnnlab.study.search_results import objective
from cnnlab.study.space import Range, parse_range
from cnnlab.study.trials import Trials, fingerprint

if TYPE_CHECKING:
    from conftest import CommandLine

optuna = pytest.importorskip("optuna", reason="the extra study is not installed")

TINY = ["model=mlp", "data.limit=60", "trainer.batch_size=20", "logger=none", "trainer.precision=fp32"]
SPACE = ["optimizer.lr=0.0001..2:log", "model.hidden=[4],[16]", "trainer.epochs=3"]
SEARCH = ["study", *TINY, *SPACE, "study.trials=9", "study.dir=s"]


def rows(folder: Path) -> list[dict[str, str]]:
    """Of results.csv, without what the clock says."""
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        del row["seconds"]
    return found


# ---- what may be drawn


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.001..1:log", Range("k", 0.001, 1, log=True)),
        ("1e-4..1e-1:log", Range("k", 1e-4, 0.1, log=True)),
        ("8..32", Range("k", 8, 32, whole=True)),
        ("8..32:8", Range("k", 8, 32, step=8, whole=True)),
        ("1..100:log", Range("k", 1, 100, log=True, whole=True)),
        ("0..1:0.25", Range("k", 0, 1, step=0.25)),
        ("0.0..1", Range("k", 0, 1)),
        ("-1..-0.5", Range("k", -1, -0.5)),
        ("light", None),
        ("a..b", None),
        ("../photos", None),
    ],
)
def test_a_range_is_read(text: str, wanted: Range | None) -> None:
    assert parse_range("k", text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1..0.1", "the range of k must rise, got 1 to 0.1"),
        ("1..1", "must rise"),
        ("0..1:log", "must begin above 0, got 0"),
        ("0..1:lgo", "after the colon stands log or a step, got 'lgo'. Did you mean 'log'?"),
        ("0..1:2", "it must be above 0 and at most 1"),
        ("1..x", "k=1..x is no range"),
        ("1..2..3", "is no range"),
    ],
)
def test_what_is_meant_as_a_range_and_is_none_is_named(text: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_range("k", text)
    assert wanted in str(caught.value)


def test_in_a_search_commas_are_a_choice_and_the_order_is_that_of_the_words() -> None:
    found = define(["augment=none,light", "optimizer.lr=0.01..1:log", "model=mlp", "study.trials=7"])
    assert list(found.search) == ["augment", "optimizer.lr"] and not found.axes
    assert found.search["augment"] == (AxisValue("none", ("augment=none",)), AxisValue("light", ("augment=light",)))
    assert found.trials == 7 and found.name == "search-augment-lr" and found.overrides == ("model=mlp",)


def test_a_grid_becomes_a_search_with_its_labels() -> None:
    found = define(["residual_depth", "optimizer.lr=0.01..1:log"])
    assert list(found.search) == ["model.residual", "model.depth", "optimizer.lr"]
    assert found.search["model.residual"] == (
        AxisValue("ResNet", ("model.residual=true",)),
        AxisValue("plain", ("model.residual=false",)),
    )


SPACES = """
search:
  optimizer.lr: {low: 1e-3, high: 1, log: true}
  model.width: {low: 8, high: 32, step: 8}
  augment: [none, light]
trials: 5
prune: false
"""


def from_file(folder: Path, text: str, *words: str) -> Definition:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return define([str(folder / "mine.yaml"), *words])


def test_a_space_from_yaml(tmp_path: Path) -> None:
    found = from_file(tmp_path, SPACES)
    assert found.search["optimizer.lr"] == Range("optimizer.lr", 0.001, 1, log=True)
    assert found.search["model.width"] == Range("model.width", 8, 32, step=8, whole=True)
    assert [one.label for one in found.search["augment"]] == ["none", "light"]  # type: ignore[union-attr]
    assert (found.trials, found.prune) == (5, False)
    narrowed = from_file(tmp_path, SPACES, "augment=light", "model.width=8..16", "study.trials=3")
    assert list(narrowed.search) == ["optimizer.lr", "model.width"] and "augment=light" in narrowed.overrides
    assert narrowed.search["model.width"] == Range("model.width", 8, 16, whole=True) and narrowed.trials == 3


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("search: {a.b: {low: 1}}", "the range of a.b needs a number for high, got None"),
        ("search: {a.b: {low: 1, high: x}}", "needs a number for high, got 'x'"),
        ("search: {a.b: {low: 1, high: 2, logg: true}}", "has no 'logg'. Did you mean 'log'?"),
        ("search: {a.b: {low: 1, high: 2, log: 3}}", "log must be true or false, got 3"),
        ("search: {a.b: {low: 2, high: 1}}", "must rise"),
        ("search: {a.b: []}", "the axis a.b is empty"),
        ("search: {a.b: [1, 2]}\ntrials: 0", "at least one trial, got 0"),
    ],
)
def test_a_wrong_space_is_named(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_file(tmp_path, text)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["model.depth=8,14", "study.seed=1"], "study.seed is for a search"),
        (["optimizer.lr=0.1..1", "study.trials=0"], "study.trials must be a whole number from 1 to 100000, got 0."),
        (["optimizer.lr=0.1..1", "study.prune=no"], "study.prune must be true or false, got 'no'."),
        (["study.trials=3"], "study.trials is for a search; give a range"),
        (["optimizer.lr=0.1..1", "augment=none,none"], "has the same value twice"),
    ],
)
def test_wrong_words_are_named(words: list[str], wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        define(words)
    assert wanted in str(caught.value)


def test_a_search_has_no_seeds_of_a_grid() -> None:
    with pytest.raises(ConfigError, match="drop --seeds"):
        define(["optimizer.lr=0.1..1:log"], seeds=3)


@pytest.mark.parametrize("value", [0.000123456789, 0.1, 1 / 3, 0.99996])
def test_a_drawn_number_is_one_that_can_be_typed_and_lies_within_the_ends(value: float) -> None:
    text = Range("k", 0.000123456, 0.99997).text(value)
    assert 0.000123456 <= float(text) <= 0.99997 and float(text) == pytest.approx(value, rel=1e-3)
    assert compose([f"optimizer.lr={text}"]).optimizer["lr"] == float(text)


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (["optimizer.lr=0.001..1:log", "augment=none,light", "model.depth=2..8"], "30df9b161fe0"),
        (["augment=none,light", "optimizer.lr=0.1..1"], "333c27315947"),
    ],
)
def test_a_search_db_of_an_earlier_version_goes_on(words: list[str], known: str) -> None:
    """The name of the search inside the file; computed when its classes had other names."""
    assert fingerprint(define(words), "base") == known


def test_pixels_are_judged_by_their_mean_iou() -> None:
    assert objective({"val_accuracy": 0.9, "val_mean_iou": 0.4}) == 0.4
    assert objective({"val_accuracy": 0.9}) == 0.9
    assert objective({"val_accuracy": float("nan")}) == 0.0


# ---- a search


@pytest.fixture(scope="module")
def whole(command: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of nine trials that nothing disturbed."""
    place = tmp_path_factory.mktemp("whole")
    result = command(*SEARCH, cwd=place)
    assert result.code == 0, result.err
    (place / "printed.txt").write_text(result.out, encoding="utf-8")
    return place / "s"


def test_every_trial_is_recorded_and_the_bad_ones_are_pruned(whole: Path) -> None:
    found = rows(whole)
    assert [int(row["trial"]) for row in found] == list(range(9))
    states = [row["state"] for row in found]
    assert set(states) == {"done", "pruned"} and states[:5] == ["done"] * 5  # before that there is no median
    for row in found:
        assert 0.0001 <= float(row["optimizer.lr"]) <= 2 and row["model.hidden"] in ("[4]", "[16]")
        history = (whole / row["folder"] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        metrics = [json.loads(line)["val_accuracy"] for line in history]
        epochs = int(row["epochs"])
        assert (epochs == 3) == (row["state"] == "done")
        assert float(row["val_accuracy"]) == pytest.approx(max(metrics[:epochs]), abs=1e-5)
        assert (whole / row["folder"] / "last" / "state.pt").exists()


def test_the_test_split_is_touched_for_the_best_trial_alone(whole: Path) -> None:
    found = rows(whole)
    done = [row for row in found if row["state"] == "done"]
    best = max(done, key=lambda row: (float(row["val_accuracy"]), -int(row["trial"])))
    tested = [path.parent.name for path in whole.glob("runs/*/test.json")]
    assert tested == [Path(best["folder"]).name]
    assert [path.parent.name for path in whole.glob("runs/*/predictions.csv")] == tested
    assert [path.parent.name for path in whole.glob("runs/*/report.html")] == tested
    metrics = json.loads((whole / best["folder"] / "test.json").read_text(encoding="utf-8"))
    assert [row["test_accuracy"] for row in found if row["test_accuracy"]] == [f"{metrics['accuracy']:.6g}"]


def test_the_page_the_table_and_the_terminal_tell_the_best_and_warn(whole: Path) -> None:
    best = next(row for row in rows(whole) if row["test_accuracy"])
    again = f"optimizer.lr={best['optimizer.lr']}"
    printed = (whole.parent / "printed.txt").read_text(encoding="utf-8")
    page = (whole / "report.html").read_text(encoding="utf-8")
    table = (whole / "table.md").read_text(encoding="utf-8")
    for text in (printed, page, table):
        assert again in text and "of 9 validation results is optimistic" in text
    assert page.count('class="stopped c7"') == 3 * sum(row["state"] == "pruned" for row in rows(whole))
    assert "fANOVA" in page and "fANOVA" in table


def test_the_command_trains_the_best_trial_again(command: CommandLine, whole: Path, tmp_path: Path) -> None:
    line = re.search(r"^again +cnnlab (.*)$", (whole.parent / "printed.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None
    result = command(*shlex.split(line[1]), "run.dir=r", "trainer.threads=1", cwd=tmp_path)
    assert result.code == 0, result.err
    best = next(row for row in rows(whole) if row["test_accuracy"])
    metrics = json.loads((tmp_path / "r" / "test.json").read_text(encoding="utf-8"))
    assert f"{metrics['accuracy']:.6g}" == best["test_accuracy"]


@pytest.mark.slow
def test_killed_and_called_again_it_ends_with_the_same_trials(
    command: CommandLine, whole: Path, tmp_path: Path
) -> None:
    running = command.start(*SEARCH, cwd=tmp_path)
    running.wait_until(lambda: len(list((tmp_path / "s").glob("runs/*/best/model.json"))) >= 3)
    running.send(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    before = len(list((tmp_path / "s").glob("runs/*")))
    assert 3 <= before < 9
    result = command(*SEARCH, cwd=tmp_path)
    assert result.code == 0, result.err
    assert re.search(r"9 trials, [2-8] of them done already", result.out)
    assert rows(tmp_path / "s") == rows(whole)


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_a_trial_killed_while_it_was_chosen_is_chosen_as_it_would_have_been(tmp_path: Path, chosen: int) -> None:
    """Optuna writes each value of a trial by itself."""

    def trials(name: str) -> Trials:
        space = ["optimizer.lr=0.0001..2:log", "trainer.label_smoothing=0.0..0.2"]
        definition = define([*TINY, *space, f"study.dir={tmp_path / name}"])
        definition.folder.mkdir(exist_ok=True)
        return Trials(definition, optuna, "base")

    wanted = trials("whole").next_run([])
    before = trials("cut")
    before.choose(number=0, keys=list(before.definition.search)[:chosen])
    assert len(before.records()) == (chosen == 2)
    after = trials("cut")
    found = after.next_run([])
    assert wanted is not None and found is not None
    assert found.combination == wanted.combination and found.hash == wanted.hash
    assert len(after.study.trials) == 1


def test_what_is_done_is_counted_and_more_trials_are_added(command: CommandLine, whole: Path, tmp_path: Path) -> None:
    listed = command(*SEARCH, "--dry-run", cwd=whole.parent)
    assert listed.out.splitlines()[-1] == "9 trials, 9 of them done"
    assert "0.0001 to 2, logarithmic" in listed.out
    before = rows(whole)
    result = command(*SEARCH, cwd=whole.parent)
    assert result.code == 0 and rows(whole) == before


def test_the_same_settings_are_trained_once_and_what_diverges_is_a_result(command: CommandLine, tmp_path: Path) -> None:
    words = [*TINY, "trainer.loss=mse", "trainer.epochs=2", "optimizer.lr=0.05,999999", "study.trials=6"]
    result = command("study", *words, "study.jobs=2", "study.dir=s", cwd=tmp_path)
    assert result.code == 0, result.err
    found = rows(tmp_path / "s")
    assert len(found) == 6 and len(list((tmp_path / "s").glob("runs/*"))) == 2
    assert {row["optimizer.lr"]: row["state"] for row in found} == {"0.05": "done", "999999": "diverged"}
    assert sum(row["why"].startswith("the same as trial") for row in found) == 4
    assert "Trials ran in parallel" in result.out


def test_a_trial_that_cannot_be_done_is_named_and_the_others_go_on(command: CommandLine, tmp_path: Path) -> None:
    words = ["model=resnet", "model.depth=8..14:3", "model.width=4", *TINY[1:], "trainer.epochs=1", "study.trials=5"]
    result = command("study", *words, "study.dir=s", cwd=tmp_path)
    found = rows(tmp_path / "s")
    assert {row["state"] for row in found} == {"done", "failed"}
    assert result.code == 2 and "of the trials failed" in result.error_lines[-1]
    assert "depth must be 6n+2" in result.error_lines[-1]


def test_without_a_validation_split_nothing_is_searched() -> None:
    config = compose([*TINY, "data.val_fraction=0"])
    try_experiment(config, lambda done, total: None)  # a training needs none
    with pytest.raises(ConfigError, match=r"compares on the validation split, which is empty; raise"):
        try_experiment(config, lambda done, total: None, validates=True)


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'cnnlab[study]'")):
        cnnlab.run_search(*TINY, "optimizer.lr=0.1..1:log")


def test_a_search_is_no_grid_and_a_grid_no_search() -> None:
    with pytest.raises(ConfigError, match=r"cnnlab\.run_search"):
        cnnlab.run_study("optimizer.lr=0.1..1:log")
    with pytest.raises(ConfigError, match="a grid and no search"):
        cnnlab.run_search("optimizer.lr=0.1,1")


def test_the_commands_of_the_docs_are_understood() -> None:
    text = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    commands = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("cnnlab study")]
    assert len(commands) >= 4
    for words in commands:
        assert define([word for word in words[2:] if word != "--dry-run"])
