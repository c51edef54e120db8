"""The Dockerfile: what it copies is there, its versions are those of the tests, and it starts what docs/gcp.md says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINES = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n", " ", TEXT).splitlines()
    if line.strip() and not line.startswith("#")
]
ARGUMENTS = {name: value for word, rest in LINES if word == "ARG" for name, _, value in [rest.partition("=")]}


def of(word: str) -> list[str]:
    return [rest for name, rest in LINES if name == word]


def test_it_holds_only_instructions_that_exist() -> None:
    known = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in LINES} == known
    assert LINES[0][0] == "ARG" and of("FROM") == ["${BASE} AS build", "${BASE}"]


def test_what_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [name for rest in of("COPY") if "--from" not in rest for name in rest.split()[:-1]]
    assert {"pyproject.toml", "src"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch(name, pattern) for pattern in kept), name
    assert set(kept) == set(copied)  # nothing else, such as data, runs or keys, goes to the builder


def test_what_the_package_is_built_from_is_copied() -> None:
    project = PROJECT["project"]
    assert {project["readme"], *project["license-files"]} <= {name for rest in of("COPY") for name in rest.split()}


def test_the_versions_are_those_the_tests_ran_with() -> None:
    pins = dict(pin.split("==") for pin in PROJECT["tool"]["uv"]["constraint-dependencies"])
    assert ARGUMENTS["TORCH"] == pins["torch"]
    assert ARGUMENTS["TORCHVISION"] == pins["torchvision"]


def test_the_extras_that_are_installed_exist() -> None:
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', TEXT)
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert {"demo", "gcp"} <= set(extras.split(","))


def test_it_runs_as_a_user_and_starts_the_command() -> None:
    assert of("USER") == ["cnnlab"]
    assert [word for word, _ in LINES].index("USER") < [word for word, _ in LINES].index("ENTRYPOINT")
    assert json.loads(of("ENTRYPOINT")[0]) == ["cnnlab"]
    assert "cnnlab" in PROJECT["project"]["scripts"]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_asks_the_demo(status: int, healthy: bool) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    words = json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
    assert words[0] == "python"
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"PORT": str(server.server_address[1])}
        answer = subprocess.run([sys.executable, *words[1:]], env=environment, capture_output=True)
        server.shutdown()
    assert asked == ["/health"]
    assert (answer.returncode == 0) == healthy


def test_its_shell_lines_can_be_read_by_a_shell() -> None:
    for line in of("RUN"):
        assert subprocess.run(["sh", "-n", "-c", line]).returncode == 0, line
        assert shlex.split(line)
