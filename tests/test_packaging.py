"""What is built and installed elsewhere carries everything it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cnnlab"
UV = shutil.which("uv")
pytestmark = pytest.mark.skipif(UV is None, reason="uv is not installed")


def uv(*words: str | Path) -> None:
    answer = subprocess.run([str(UV), *map(str, words)], capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--wheel", "--out-dir", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    uv("pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", folder, wheel)
    return folder


def test_the_wheel_carries_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("cnnlab/")}
    files = {
        (Path("cnnlab") / file.relative_to(SOURCE)).as_posix()
        for file in SOURCE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert files <= packed
    assert sum(name.startswith("cnnlab/conf/") and name.endswith(".yaml") for name in packed) > 30
    assert {"cnnlab/report/page.html.j2", "cnnlab/report/page.css", "cnnlab/report/page.js"} <= packed


def test_the_wheel_carries_its_licence_and_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "cnnlab = cnnlab.cli:command_line" in archive.read(points).decode()
    assert any(name.endswith("LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def run_elsewhere(installed: Path, code: str, tmp_path: Path) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_an_installed_copy_composes_from_its_own_files(installed: Path, tmp_path: Path) -> None:
    code = """
import cnnlab.config as config
import cnnlab.report.page as page
print(config.__file__)
print(page.__file__)
print(*[len(config.options(group)) for group in config.GROUPS])
print(config.compose(["data=cifar10", "optimizer=muon", "run.name=elsewhere"]).optimizer["name"])
"""
    config, page, counts, optimizer = run_elsewhere(installed, code, tmp_path).splitlines()
    assert Path(config).is_relative_to(installed)
    assert Path(page).is_relative_to(installed)
    assert min(map(int, counts.split())) >= 2
    assert optimizer == "Muon"
