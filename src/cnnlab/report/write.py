"""report.html of a run folder."""

from __future__ import annotations

import time

from torch import nn

from cnnlab.data.data import Data
from cnnlab.evaluation.outputs import Outputs
from cnnlab.models.first_layer import first_layer_weights
from cnnlab.report.content import Report
from cnnlab.report.gather import gather
from cnnlab.report.page import render
from cnnlab.runs.files import write_whole
from cnnlab.runs.folder import RunFolder, read_config, read_environment, read_split
from cnnlab.training.diagnose import Setup, diagnose


def write_report(
    folder: RunFolder, data: Data, outputs: Outputs | None, model: nn.Module, by_fit: bool = False
) -> None:
    """report.html of the run and its best model. It comes last: where it is, the run is done.

    Args:
        by_fit: the run is one of `cnnlab.fit`, and hints name its arguments.
    """
    config = read_config(folder)
    history = folder.history()
    split = read_split(folder)
    environment = read_environment(folder) | {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    card = folder.read_card()
    filters = first_layer_weights(model, (data.in_channels, *data.image_size))
    samples, insight = gather(model, data, outputs)
    page = render(
        Report(
            title=folder.path.name,
            classes=data.classes,
            config=config.to_dict(),
            environment=environment,
            split={key: value for key, value in split.items() if key not in ("members", "classes")},
            history=history,
            best_epoch=card["epoch"],
            test=outputs.metrics if outputs else None,
            samples=samples,
            filters=None if filters is None else filters.float().cpu().numpy(),
            insight=insight,
            folds=folder.read_folds(),
            hints=[(hint.text, hint.fix) for hint in diagnose(history, Setup.of(data, config, by_fit))],
        )
    )
    write_whole(folder.report, page)
