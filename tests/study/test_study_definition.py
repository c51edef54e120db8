"""Words and YAML → the runs of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnlab.errors import ConfigError
from cnnlab.study.definition import AxisValue, define, names
from cnnlab.study.plan import combinations, plan


def labels(*words: str) -> list[str]:
    return [cell.label for cell in combinations(define(words))]


def test_commas_make_an_axis_and_what_has_none_goes_to_every_run() -> None:
    definition = define(["model=resnet", "model.depth=8,14", "trainer.epochs=3"])
    assert dict(definition.axes) == {
        "model.depth": (AxisValue("8", ("model.depth=8",)), AxisValue("14", ("model.depth=14",))),
    }
    assert definition.overrides == ("model=resnet", "trainer.epochs=3")
    assert definition.name == "depth" and definition.folder == Path("studies/depth")


def test_commas_in_brackets_quotes_and_paths_make_none() -> None:
    definition = define(["model=mlp", "model.hidden=[8,4],[16]", "data.root=a,b", "model.note='a,b'"])
    assert [value.label for value in definition.axes["model.hidden"]] == ["[8,4]", "[16]"]
    assert list(definition.axes) == ["model.hidden"]
    assert "data.root=a,b" in definition.overrides


def test_the_grid_is_complete_and_the_last_axis_is_fastest() -> None:
    assert labels("model=resnet", "model.depth=8,14", "model.residual=true,false") == [
        "depth=8, residual=true",
        "depth=8, residual=false",
        "depth=14, residual=true",
        "depth=14, residual=false",
    ]


def test_an_axis_of_a_study_is_replaced_by_label_or_value() -> None:
    definition = define(["residual_depth", "model.depth=8", "model.residual=plain"])
    assert [cell.label for cell in combinations(definition)] == ["plain-8"]
    assert "model.residual=false" in combinations(definition)[0].overrides
    assert define(["residual_depth", "model.residual=false,true"]).axes["model.residual"][0].label == "plain"


def test_what_is_said_last_of_a_key_holds() -> None:
    definition = define(["residual_depth", "optimizer=adamw", "trainer.epochs=2"])
    run = plan(definition)[0]
    assert run.config.optimizer["name"] == "AdamW" and run.config.trainer.epochs == 2


def test_seeds_come_one_after_the_other_over_the_whole_grid() -> None:
    runs = plan(define(["model=resnet", "model.depth=8,14"], seeds=2))
    assert [(run.combination.label, run.seed) for run in runs] == [
        ("depth=8", 0),
        ("depth=14", 0),
        ("depth=8", 1),
        ("depth=14", 1),
    ]
    assert [run.config.seed for run in runs] == [0, 0, 1, 1]


def test_the_hash_is_that_of_what_can_change_a_figure() -> None:
    def first(*words: str) -> str:
        return plan(define(["model=resnet", "model.depth=8,14", *words], seeds=1))[0].hash

    same = first()
    assert first("logger=none") == same
    assert first("study.dir=elsewhere", "study.jobs=2") == same
    assert first("trainer.epochs=3") != same
    assert first("optimizer.lr=0.01") != same


def test_a_run_can_begin_with_another_of_the_same_seed() -> None:
    runs = {(run.combination.label, run.seed): run for run in plan(define(["domain_shift", "data.root=d"], seeds=2))}
    for seed in range(2):
        begun, source = runs["AdaBN", seed], runs["source only", seed]
        assert begun.after == source.folder
        assert begun.config.init.source == str(source.folder)
    moved = plan(define(["domain_shift", "data.root=d", "study.dir=other"], seeds=1))
    assert [run.hash for run in moved] == [run.hash for (_, seed), run in runs.items() if seed == 0]


@pytest.mark.parametrize("name", names())
def test_every_study_that_comes_with_cnnlab_has_runs(name: str) -> None:
    definition = define([name])
    if definition.rates is not None:  # one short training, that of test_rate_range
        assert definition.title and definition.about
        return
    runs = plan(definition)
    assert len(runs) == definition.seeds * len(combinations(definition)) > 1
    assert definition.title and definition.about
    assert len({run.folder for run in runs}) == len(runs)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "nothing to study: name a study ("),
        (["residual_dept"], "Did you mean 'residual_depth'?"),
        (["model.depth=8"], "nothing to study"),
        (["residual_depth", "oops"], "expected key=value, got 'oops'"),
        (["model.depth=8,8"], "the axis model.depth has the same value twice: 8, 8."),
        (["residual_depth", "seed=3"], "give the number of seeds with --seeds"),
        (["residual_depth", "run.dir=x"], "give study.dir"),
        (["residual_depth", "study.job=2"], "Did you mean 'jobs'?"),
        (["residual_depth", "study.jobs=0"], "study.jobs must be a whole number from 1 to 1024, got 0."),
        (["residual_depth", "study.launcher=slurm"], "study.launcher must be one of local, ray"),
        (["mlp_vs_cnn", "pictures=upside"], "pictures has no value 'upside'. Known: natural, permuted, shifted."),
        (["nothing.yaml"], "there is no file nothing.yaml"),
    ],
)
def test_wrong_words_are_named(words: list[str], wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        define(words)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["model.depth=8,14", "trainer.epoch=3"], "unknown key 'trainer.epoch'."),
        (["trainer.epochs=3,x"], "epochs=x"),
        (["trainer.epochs=3,03"], "are the same run"),
        (["logger.tensorboard=true,false"], "are the same run"),
    ],
)
def test_what_no_run_can_have_is_found_before_the_first(words: list[str], wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(define(words))
    assert wanted in str(caught.value)


def test_no_seed_is_no_study() -> None:
    with pytest.raises(ConfigError, match="at least one seed, got 0"):
        define(["residual_depth"], seeds=0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("axes: {model.depth: 8}", "the axis model.depth must be a list"),
        ("axes: {model.depth: []}", "the axis model.depth is empty"),
        ("axis: {}", "Did you mean 'axes'?"),
        ("columns: [acuracy]", "unknown column 'acuracy'"),
        ("axes: [1, 2]", "is no study"),
        ("axes: {model.depth: [8, 14]}\nlabel: true", "label should be a text"),
        ("axes: {model.depth: [8, 14]}\nseeds: .inf", "seeds should be a whole number"),
        ("axes: {model.depth: [8, 14]}\nseeds: 0", "at least one seed, got 0"),
        ("axes: {model.depth: [8, 14]}\nseeds: 50001", "these are 100,002 runs"),
        ("axes: {model.depth: [8, 14]}\ntable: [model.depth, []]", "table[1] should be a text"),
        ("rates: {steps: .inf}", "is no study"),
        ("- 1", "is not a configuration"),
        ("a: [", "cannot be read"),
        ("{axes: {m: {a: [recipe=adabn, init.from=run(b)]}}}", "there is none."),
        ("{axes: {m: {a: [init.from=run(b)], b: [trainer.epochs=2]}}}", "it must come before"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        plan(define([str(tmp_path / "mine.yaml")]))
    assert wanted in str(caught.value)


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    axes = "size: {small: ['model.hidden=[8]'], large: ['model.hidden=[64]']}"
    text = f"title: Mine\noverrides: [model=mlp]\naxes:\n  {axes}\nseeds: 2\n"
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    definition = define([str(tmp_path / "mine.yaml")])
    assert definition.name == "mine" and definition.title == "Mine"
    assert [run.combination.label for run in plan(definition)] == ["small", "large"] * 2


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("overrides: [seed=3]\naxes: {model.width: [8, 16]}", "seed=3"),
        ("overrides: [+run.dir=x]\naxes: {model.width: [8, 16]}", "run.dir=x"),
        ("axes: {seed: [1, 2]}", "seed=1"),
        ("axes: {which: {one: [run.name=a], two: [run.name=b]}}", "run.name=a"),
        ("axes: {which: {one: [~seed=1], two: [seed=2]}}", "~seed=1"),
        ("overrides: ['data.root=${oc.env:HOME}']\naxes: {model.width: [8, 16]}", "data.root"),
        ("axes: {data.root: ['${oc.env:HOME}', b]}", "data.root"),
        ("axes: {model.width: ['${oc.env:HOME}', 8]}", "model.width"),
        ("overrides: [data.root=]\naxes: {model.width: [8, 16]}", "data.root="),
    ],
)
def test_a_file_sets_nothing_that_a_study_decides_or_that_lies_elsewhere(
    tmp_path: Path, content: str, named: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        plan(define([str(file)]))
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_of_a_key_under_its_two_names_the_last_holds(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("overrides: [init.source=a]\naxes: {which: {one: [init.from=b], two: [init.from=c]}}")
    assert [run.config.init.source for run in plan(define([str(file)], seeds=1))] == ["b", "c"]


def test_a_study_below_a_tilde_is_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert define(["model.width=8,16", "study.dir=~/s"]).folder == tmp_path / "s"
