"""Shared by the tests of the page in which a network computes: small graphs, and one browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from small_models import SMALL, build
from torch import Tensor, nn

from cnnlab.look.compute import check_graph
from cnnlab.look.graph import Graph, export_graph

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def exported() -> dict[str, tuple[nn.Module, Graph, Tensor]]:
    """Every small model, as a graph that answers as it does, and two images."""
    found = {}
    for name in [*SMALL, "own"]:
        model, images = build(name)
        graph = export_graph(model, images[:1])
        check_graph(graph, model, images)
        found[name] = model, graph, images
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        sandbox = [] if os.name != "posix" or os.geteuid() else ["--no-sandbox"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield opened
        opened.close()
