"""`cnnlab compare --out page.html`: a row for each run that can be read, a line for each folder that cannot."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnnlab.report.class_table import read_rows, render_class_table, run_folders
from cnnlab.runs.weights import load_run

if TYPE_CHECKING:
    from conftest import CommandLine


@pytest.fixture
def submissions(finished_run: Path, tmp_path: Path) -> Path:
    """Runs of four students; one of them has a folder of runs."""
    for name in ("ada", "ben <b>", "chiara", "dora/first"):
        shutil.copytree(finished_run, tmp_path / "submissions" / name)
    return tmp_path / "submissions"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def cells_of(page: str, name: str) -> list[str]:
    (row,) = re.findall(rf'<tr><th scope="row">{re.escape(name)}</th>(.*?)</tr>', page, re.DOTALL)
    return re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)


def test_a_row_says_what_the_run_folder_says(submissions: Path, finished_run: Path) -> None:
    folders, without = run_folders(str(submissions))
    assert (list(folders), without) == (["ada", "ben <b>", "chiara", "dora/first"], {})
    rows, unread = read_rows(folders)
    assert unread == {}
    test = json.loads((finished_run / "test.json").read_text(encoding="utf-8"))
    model, card = load_run(finished_run)
    row = rows[0]
    assert (row.test, row.interval, row.validation) == (
        test["accuracy"],
        test["accuracy_interval"],
        card["val_accuracy"],
    )
    assert row.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert row.finished and row.epochs == row.planned
    cells = cells_of(render_class_table(rows, unread), "ben &lt;b&gt;")
    assert f"{row.parameters:,}" in cells
    assert "finished" in cells
    assert len(cells) == 9


def test_only_settings_that_the_others_have_differently_are_named(submissions: Path) -> None:
    edit(submissions / "chiara" / "config.yaml", "weight_decay: ", "weight_decay: 1")
    (submissions / "ada" / "report.html").unlink()
    rows, _ = read_rows(run_folders(str(submissions))[0])
    differing = {row.name: row.differing for row in rows}
    assert [setting.partition("=")[0] for setting in differing.pop("chiara")] == ["optimizer.weight_decay"]
    assert set(differing.values()) == {()}
    assert [row.finished for row in rows] == [False, True, True, True]
    assert "no report" in cells_of(render_class_table(rows, {}), "ada")


def test_warnings_are_those_of_the_report(submissions: Path) -> None:
    rows, _ = read_rows(run_folders(str(submissions))[0])
    report = (submissions / "ada" / "report.html").read_text(encoding="utf-8")
    assert all(warning.split(" Try ")[0][:30] in report for warning in rows[0].warnings)
    file = submissions / "ada" / "metrics.jsonl"
    flat = [
        json.loads(line) | {"train_accuracy": 0.1, "val_accuracy": 0.1}
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in flat), encoding="utf-8")
    rows, _ = read_rows({"ada": submissions / "ada"})
    assert rows[0].warnings


BREAK = {
    "missing card": lambda run: (run / "best" / "model.json").unlink(),
    "card of another form": lambda run: (run / "best" / "model.json").write_text("[]"),
    "damaged metrics": lambda run: (run / "metrics.jsonl").write_text("{broken"),
    "no epoch": lambda run: (run / "metrics.jsonl").unlink(),
    "damaged config": lambda run: (run / "config.yaml").write_text(": : :"),
    "foreign config": lambda run: (run / "config.yaml").write_text("a: 1\n"),
    "damaged test": lambda run: (run / "test.json").write_text('{"accuracy": "high"}'),
    "missing split": lambda run: (run / "split.json").unlink(),
    "not a run": lambda run: [shutil.rmtree(run), run.mkdir(), (run / "essay.docx").write_text("x")],
}


@pytest.mark.parametrize("fault", BREAK)
def test_a_folder_that_cannot_be_read_is_one_line_and_the_others_are_shown(
    fault: str, submissions: Path, command: CommandLine
) -> None:
    BREAK[fault](submissions / "ada")
    result = command("compare", "submissions", "nowhere", "--out", "class.html", cwd=submissions.parent)
    assert (result.code, result.err) == (0, "")
    lines = [line for line in result.out.splitlines() if line.startswith("not read")]
    assert [line.split()[2] for line in lines] == ["ada:", "nowhere:"]
    assert "class.html (3 runs)" in result.out
    page = (submissions.parent / "class.html").read_text(encoding="utf-8")
    assert "<b>ada</b>" in page.split("Not read")[1]
    assert cells_of(page, "chiara")


def test_weights_that_are_missing_leave_one_cell_empty(submissions: Path) -> None:
    (submissions / "ada" / "best" / "model.safetensors").write_bytes(b"x")
    rows, unread = read_rows(run_folders(str(submissions))[0])
    assert (rows[0].parameters, unread) == (None, {})


def test_without_one_run_nothing_is_written(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = command("compare", "empty", "--out", "class.html", cwd=tmp_path)
    assert (result.code, len(result.error_lines)) == (2, 1)
    assert "empty" in result.err
    assert not (tmp_path / "class.html").exists()
