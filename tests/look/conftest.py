"""Shared by the tests of the page in which a network computes: small graphs."""

from __future__ import annotations

import pytest
from small_models import SMALL, build
from torch import Tensor, nn

from cnnlab.look.compute import check_graph
from cnnlab.look.graph import Graph, export_graph


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
