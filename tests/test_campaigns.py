"""The short form of the campaigns of docs/reliability.md: the same commands, fewer inputs, side by side."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FAULTS = {"training": 3, "together": 1, "store": 2, "study": 3, "export": 2, "asked": 1, "power": 12, "clock": 1}
FAULTS |= {"tracker": 1, "deaf": 1, "nan": 1, "reader": 1}
COMMANDS = {
    "faults.py": [f"{row}={count}" for row, count in FAULTS.items()],
    "hostile_server.py": ["30"],
    "hostile.py": ["16"],
}
Rows = Callable[[str], list[list[str]]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    """The cells of the table that a campaign prints; it must end well. All are begun together."""
    place = tmp_path_factory.mktemp("campaigns")
    running = {}
    for name, words in COMMANDS.items():
        with open(place / f"{name}.out", "w") as out, open(place / f"{name}.err", "w") as err:
            running[name] = subprocess.Popen([sys.executable, BENCHMARKS / name, *words], stdout=out, stderr=err)

    def wait(name: str) -> list[list[str]]:
        code = running[name].wait(400)
        table, said = (place / f"{name}.out").read_text(), (place / f"{name}.err").read_text()
        assert code == 0, table + said
        return [re.split(r" \| ", line.strip("| ")) for line in table.splitlines() if line.startswith("| ")][1:]

    yield wait
    for process in running.values():
        process.kill()
        process.wait()


def test_no_file_of_a_stranger_breaks_anything(rows: Rows) -> None:
    table = rows("hostile.py")
    assert len(table) > 25
    for name, inputs, refused, answered, broken, _ in table:
        assert int(inputs) == 16 == int(refused) + int(answered) and broken == "0", name
    assert sum(int(row[2]) for row in table) > 200 and sum(int(row[3]) for row in table) > 50


def test_no_client_breaks_the_demonstration(rows: Rows) -> None:
    table = rows("hostile_server.py")
    assert len(table) > 13
    for what, tried, _, held, _ in table:
        assert int(tried) == int(held) > 0, what


def test_killed_at_any_moment_it_goes_on_as_if_it_had_not_been(rows: Rows) -> None:
    for (fault, tried, _, held, _), count in zip(rows("faults.py"), FAULTS.values(), strict=True):
        assert int(tried) == int(held) == count, fault
