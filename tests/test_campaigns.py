"""The short form of the campaigns of docs/reliability.md: the same attacks, fewer inputs, side by side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import faults

if TYPE_CHECKING:
    from conftest import CommandLine, Running

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FAULTS = {"training": 2, "store": 2, "export": 2, "power": 12, "clock": 1, "tracker": 1, "deaf": 1, "nan": 1}
# The other rows are tests of their own: asked, and training at any moment (training/test_training_resume.py), together
# (training/test_training_distributed.py), study (study/test_study_runs.py), reader (test_manners.py).
COMMANDS = {"hostile_server.py": ["20"], "hostile.py": ["6"]}
Rows = Callable[[str], list[list[str]]]


def cells(table: str) -> list[list[str]]:
    return [re.split(r" \| ", line.strip("| ")) for line in table.splitlines() if line.startswith("| ")][1:]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    """The cells of the table that a campaign prints; it must end well. All are begun together, and give way to what
    other tests do meanwhile."""
    low = [] if os.name == "nt" else ["nice", "-n", "10"]
    place = tmp_path_factory.mktemp("campaigns")
    running = {}
    for name, words in COMMANDS.items():
        with open(place / f"{name}.out", "w") as out, open(place / f"{name}.err", "w") as err:
            running[name] = subprocess.Popen([*low, sys.executable, BENCHMARKS / name, *words], stdout=out, stderr=err)

    def wait(name: str) -> list[list[str]]:
        code = running[name].wait(900)
        table, said = (place / f"{name}.out").read_text(), (place / f"{name}.err").read_text()
        assert code == 0, table + said
        return cells(table)

    yield wait
    for process in running.values():
        process.kill()
        process.wait()


class Process:
    """A command that starts at once, with what the campaign asks of a `subprocess.Popen`."""

    def __init__(self, running: Running) -> None:
        self.running, self.pid, self.send_signal = running, running.pid, running.send

    def poll(self) -> int | None:
        return self.running.code

    returncode = property(poll)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        result = self.running.wait(timeout)
        return result.out, result.err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and commands that start at once")
def test_killed_at_any_moment_it_goes_on_as_if_it_had_not_been(
    rows: Rows, command: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A start costs more than what is started here, 40 times over; kills fall on the work alone."""

    class Bench(faults.Bench):
        images = 60

        def start(self, *words: str, **more: str) -> Any:
            settings = self.environment | more
            return Process(command.start(*words, cwd=self.work, environment=settings, session=True))

    monkeypatch.setattr(faults, "Bench", Bench)
    monkeypatch.setattr(sys, "argv", ["faults.py", *(f"{row}={count}" for row, count in FAULTS.items())])
    code = faults.main()
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    for (fault, tried, _, held, _), count in zip(cells(said.out), FAULTS.values(), strict=True):
        assert int(tried) == int(held) == count, fault


@pytest.mark.slow
def test_no_file_of_a_stranger_breaks_anything(rows: Rows) -> None:
    table = rows("hostile.py")
    assert len(table) > 25
    for name, inputs, refused, answered, broken, _ in table:
        assert int(inputs) == 6 == int(refused) + int(answered) and broken == "0", name
    assert sum(int(row[2]) for row in table) > 75 and sum(int(row[3]) for row in table) > 19


@pytest.mark.slow
def test_no_client_breaks_the_demonstration(rows: Rows) -> None:
    table = rows("hostile_server.py")
    assert len(table) > 13
    for what, tried, _, held, _ in table:
        assert int(tried) == int(held) > 0, what
