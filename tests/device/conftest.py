"""Each test here runs in a process that is forked for it.

torch's autograd counts the devices at the first backward pass of a process and never again. In a worker that has run
other tests before, the pretended device would come too late; a forked child counts anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """None: not a test of this folder, and run as usual."""
    if item.path.parent != HERE or not hasattr(os, "fork"):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports_of_child(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports_of_child(item: pytest.Item) -> list[Any]:
    """Of set-up, call and teardown. A child that dies fails the test."""
    hook, config = item.config.hook, item.config
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        reports = runtestprotocol(item, log=False, nextitem=None)  # nothing follows in this process
        plain = [hook.pytest_report_to_serializable(config=config, report=report) for report in reports]
        with os.fdopen(writing, "w", encoding="utf-8") as stream:
            json.dump(plain, stream)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as stream:
        content = stream.read()
    _, status = os.waitpid(pid, 0)
    if not content:
        ended = f"the process of this test ended with {os.waitstatus_to_exitcode(status)} and said nothing"
        return [pytest.TestReport(item.nodeid, item.location, {}, "failed", ended, "call")]
    return [hook.pytest_report_from_serializable(config=config, data=one) for one in json.loads(content)]
