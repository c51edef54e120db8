"""Where the runs of a study are carried out: `study.launcher`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnnlab.study.crew import Crew
from cnnlab.study.definition import Definition
from cnnlab.study.execute import Local


def hire(definition: Definition) -> Callable[[int | None], Crew[Any]]:
    """jobs → who carries out the runs: processes of this machine, or tasks on a Ray cluster."""
    if definition.launcher == "ray":
        from cnnlab.study.cluster import Cluster

        return Cluster(definition.folder, definition.test_on, definition.address or "auto")
    return Local(definition.folder, definition.test_on)
