"""The short form of the campaigns of docs/reliability.md: the same commands, fewer inputs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def rows(*words: str) -> list[list[str]]:
    """The cells of the table that a campaign prints; it must have ended well."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / words[0]), *words[1:]],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [re.split(r" \| ", line.strip("| ")) for line in done.stdout.splitlines() if line.startswith("| ")][1:]


def test_killed_at_any_moment_it_goes_on_as_if_it_had_not_been() -> None:
    counts = {"training": 4, "together": 1, "store": 2, "study": 3, "export": 2, "power": 12, "clock": 1, "memory": 1}
    counts |= {"tracker": 1, "deaf": 1}
    for (fault, tried, _, held, _), count in zip(
        rows("faults.py", *(f"{name}={count}" for name, count in counts.items())), counts.values(), strict=True
    ):
        assert int(tried) == int(held) == count, fault


def test_no_client_breaks_the_demonstration() -> None:
    table = rows("hostile_server.py", "30")
    assert len(table) > 13
    for what, tried, _, held, _ in table:
        assert int(tried) == int(held) > 0, what


def test_no_file_of_a_stranger_breaks_anything() -> None:
    table = rows("hostile.py", "16")
    assert len(table) > 25
    for name, inputs, refused, answered, broken, _ in table:
        assert int(inputs) == 16 == int(refused) + int(answered) and broken == "0", name
    assert sum(int(row[2]) for row in table) > 200 and sum(int(row[3]) for row in table) > 50
