"""Addresses outside this machine, and the one line that each failure there costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cnnlab.errors import RemoteError
from cnnlab.files import folder_name, is_remote, without_scheme
from cnnlab.remote import Remote


@pytest.mark.parametrize("address", ["gs://b/x", "s3://b/x", "https://h/x", "memory://x", "GS://b/x"])
def test_an_address_has_a_scheme(address: str) -> None:
    assert is_remote(address)
    assert without_scheme(address) == address


@pytest.mark.parametrize(
    "path",
    ["runs/mine", "/runs/a:b//c", "C:/runs", "C:\\runs", "file:///runs", "wandb:a/b/c:best", "://x", ""],
)
def test_everything_else_is_a_path_here(path: str) -> None:
    assert not is_remote(path)
    assert not is_remote(Path(path))


def test_file_addresses_are_paths() -> None:
    assert without_scheme("file:///runs/mine") == "/runs/mine"
    assert without_scheme("local:///runs") == "/runs"


def test_each_address_has_a_folder_of_its_own_that_people_can_read() -> None:
    addresses = ["gs://a/runs/mine", "gs://b/runs/mine", "s3://a/runs/mine", "gs://a/runs/../mine", "gs://a"]
    assert len({folder_name(address)[0] for address in addresses}) == len(addresses)
    assert folder_name("gs://a/runs/mine/") == folder_name("gs://a/runs/mine")
    assert folder_name("gs://a/runs/mine")[1] == "mine"
    assert folder_name("gs://a/b/my run: #1")[1] == "my-run-1"
    assert folder_name("gs://a/..")[1] not in ("..", "")


WITHOUT = """
import sys
sys.modules[{package!r}] = None
from cnnlab.errors import RemoteError
from cnnlab.remote import Remote
try:
    Remote({address!r})
except RemoteError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("package", "address", "fix"),
    [
        ("gcsfs", "gs://b/x", "pip install 'cnnlab[gcp]'"),
        ("aiohttp", "gs://b/x", "pip install 'cnnlab[gcp]'"),
        ("fsspec", "gs://b/x", "pip install 'cnnlab[gcp]'"),
        ("s3fs", "s3://b/x", "s3fs"),
    ],
)
def test_a_missing_package_is_named_with_the_fix(package: str, address: str, fix: str) -> None:
    code = WITHOUT.format(package=package, address=address)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stderr == ""
    assert len(answer.stdout.splitlines()) == 1
    assert "not installed" in answer.stdout and fix in answer.stdout


class HttpError(Exception):
    code = 401


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("no"), "no access to"),
        (OSError("Forbidden: https://…\nme@p does not have storage.objects.list access"), "gcloud auth"),
        (HttpError("Anonymous caller does not have access"), "no access to"),
        (FileNotFoundError("b/x"), "no such bucket"),
        (ConnectionResetError("reset by peer"), "check the network"),
        (TimeoutError(), "cannot reach gs://b/x (TimeoutError)"),
        (OSError(28, "No space left on device", "/cache/x"), "No space left on device: /cache/x"),
        (RuntimeError("a\nb"), "(a b)"),
    ],
)
def test_each_failure_is_one_line_that_names_the_address(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gcsfs")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")  # else it looks for credentials
    line = str(Remote("gs://b/x").failure(error))
    assert words in line and "gs://b/x" in line and "\n" not in line


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(RemoteError, match="nosuch:// is not a supported kind of address"):
        Remote("nosuch://b/x")
