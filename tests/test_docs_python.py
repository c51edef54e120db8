"""The Python of docs/python.md works as it stands, block after block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_blocks_work_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    scope: dict[str, object] = {}
    for block in BLOCKS:
        exec(block, scope)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert scope["run"].test["accuracy"] > 0.7  # type: ignore[attr-defined]


def test_the_first_block_has_at_most_ten_lines() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 10
