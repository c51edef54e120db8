"""Every lab with a source: its two editions are what the source makes, and its figures are those of its outputs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sources import FOLDER, LABS, RAN, Lab, edition, read_cells

import cnnlab
from cnnlab.labs import checking

EACH = pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
LARGEST = 1_500_000  # bytes of a notebook with its images


def said(cells: list[Any]) -> list[str]:
    """The texts that code cells show."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [text for o in outputs for text in (o.get("text", ""), o.get("data", {}).get("text/plain", ""))]


def test_every_check_belongs_to_an_exercise() -> None:
    assert [number for lab in LABS for number in lab.checked] == list(checking.CHECKS)


@EACH
def test_every_exercise_has_a_skeleton_a_solution_and_a_check(lab: Lab) -> None:
    assert list(lab.solutions) == list(lab.skeletons) == list(lab.checked)
    assert list(lab.solutions) == [f"{lab.number}.{i}" for i in range(1, len(lab.solutions) + 1)]


@EACH
@pytest.mark.parametrize("name", ["student", "teacher"])
def test_an_edition_is_what_the_source_makes(lab: Lab, name: str) -> None:
    """`uv run --group dev python labs/build.py` makes both again."""

    def content(notebook: Any) -> list[Any]:
        return [
            (cell.id, cell.cell_type, cell.source, dict(cell.metadata)) for cell in notebook.cells if cell.id != RAN
        ]

    assert content(lab.kept(name)) == content(edition(lab.cells, name))


@EACH
def test_the_students_edition_has_skeletons_and_no_solutions(lab: Lab) -> None:
    cells = lab.kept("student").cells
    text = "\n".join(cell.source for cell in cells)
    assert all(skeleton in text for skeleton in lab.skeletons.values())
    assert not [number for number, solution in lab.solutions.items() if solution in text]
    assert "For the teacher" not in text
    assert not [cell for cell in cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)]


@EACH
def test_the_teachers_edition_is_kept_with_all_checks_passed_and_without_a_word_of_the_machine(lab: Lab) -> None:
    notebook = lab.kept("teacher")
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
    count = len(lab.checked)
    passed = [text.splitlines()[1] for text in said(notebook.cells) if re.match(r"[\d.]+ passed\n", text)]
    assert passed == [f"Lab {lab.number}: {i} of {count}" for i in range(1, count + 1)]
    assert "minutes on" in notebook.cells[-1].source
    text = str(notebook)
    assert len(text) < LARGEST
    for word in ("/home/", "/root/", "/tmp/", "Traceback", "Warning"):
        assert word not in text, word


@EACH
@pytest.mark.parametrize("name", ["student", "teacher"])
def test_links_lead_somewhere(lab: Lab, name: str) -> None:
    folder = FOLDER / "teacher" if name == "teacher" else FOLDER
    text = "\n".join(cell.source for cell in lab.kept(name).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text):
        assert (folder / target).exists(), target


@EACH
def test_a_lab_uses_what_is_public_alone(lab: Lab) -> None:
    source = "\n".join(cell.source for cell in lab.cells if not cell.is_text)
    for name in re.findall(r"\bcnnlab\.(\w+)", source):
        assert name in cnnlab.__all__, name
    assert set(re.findall(r"from cnnlab([\w.]*) import", source)) <= {"", ".labs"}


@EACH
def test_figures_in_the_text_are_printed_above_it(lab: Lab) -> None:
    """Numbers with a decimal point or a percent sign, in cells of results."""
    shown = ""
    for cell in lab.kept("teacher").cells:
        if cell.cell_type == "code":
            shown += "\n".join(said([cell]))
        elif cell.metadata.get("results"):
            numbers = re.findall(r"\d+\.\d+|\d+(?= ?%)", cell.source)
            assert numbers, cell.source
            assert not [number for number in numbers if number not in shown], cell.source


@pytest.mark.parametrize(("head", "is_known"), [("# %% TODO 0.1", True), ("# %% TODO: 0.1", False), ("# %%x", False)])
def test_a_head_that_is_none_is_refused(head: str, is_known: bool) -> None:
    if is_known:
        assert read_cells(f"{head}\n1\n")[0].source == "1"
    else:
        with pytest.raises(ValueError, match="no head"):
            read_cells(f"{head}\n1\n")
