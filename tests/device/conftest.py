"""The tests of a file here run together in a process of their own.

torch's autograd counts the devices at the first backward pass of a process and never again. In a process that has run
other tests before, the pretended device would come too late.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parent
INSIDE = "CNNLAB_TESTS_ON_A_DEVICE"  # set in that process
LONGEST = 900.0  # seconds for a file
_found: dict[Path, dict[str, tuple[str, str, float]]] = {}  # of each file by test: outcome, why, seconds


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """None: not a test of this folder, or in its own process already: it is run as usual."""
    if item.path.parent != HERE or INSIDE in os.environ:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    if item.path not in _found:
        _found[item.path] = _run([one for one in item.session.items if one.path == item.path])
    outcome, why, seconds = _found[item.path].get(item.name, ("failed", "its process ended before it", 0.0))
    details: Any = (str(item.path), item.location[1], f"Skipped: {why}") if outcome == "skipped" else why
    report = pytest.TestReport(item.nodeid, item.location, {}, outcome, details, "call", duration=seconds)  # type: ignore[arg-type]
    item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run(items: list[pytest.Item]) -> dict[str, tuple[str, str, float]]:
    """Outcome, the reason of any but "passed", and seconds of each test by its name."""
    folder = Path(items[0].config._tmp_path_factory.mktemp("device"))  # type: ignore[attr-defined]
    names = [str(one.path) + "::" + one.nodeid.split("::", 1)[1] for one in items]
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"--junitxml={folder / 'report.xml'}", *names]
    said = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, INSIDE: "1"}, timeout=LONGEST, check=False
    )
    if not (folder / "report.xml").exists():
        ended = f"the process ended with {said.returncode}:\n{said.stdout[-2000:]}{said.stderr[-2000:]}"
        return {one.name: ("failed", ended, 0.0) for one in items}
    found = {}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        bad = [part for part in case if part.tag in ("failure", "error", "skipped")]
        outcome = "passed" if not bad else "skipped" if bad[0].tag == "skipped" else "failed"
        why = "" if not bad else bad[0].get("message", "") if outcome == "skipped" else str(bad[0].text)
        found[str(case.get("name"))] = outcome, why, float(case.get("time", 0))
    return found
