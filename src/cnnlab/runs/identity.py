"""What makes a run the one it is: whether a folder holds the run of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnnlab.config import Config
from cnnlab.errors import RunError
from cnnlab.runs.addresses import with_whole_addresses
from cnnlab.runs.folder import RunFolder, read_config


def refuse_other_run(config: Config, folder: Path) -> None:
    """Raise RunError if the run in a folder is not that of the config."""
    theirs, ours = identity(read_config(RunFolder(folder))), identity(config)
    for part in ours:
        if theirs[part] != ours[part]:
            raise RunError(
                f"{config.run.dir} holds a run with another {part} than this{_difference(part, theirs, ours)}; choose"
                f" another run.dir, or resume that one with `cnnlab resume {config.run.dir}`."
            )


def identity(config: Config) -> dict[str, Any]:
    """What makes a run the one it is, wherever its command is given.

    Not in it: what the run is called, the number of its processes, and where its images lie, of which split.json
    tells whether they are the same. (Of those of a second domain nothing does.)
    """
    values = with_whole_addresses(config).to_dict()
    del values["run"], values["trainer"]["devices"]
    if config.adapt.method == "none":
        del values["data"]["root"]
    return values


def _difference(part: str, theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The first key of a part that differs, with both values."""
    if not isinstance(ours[part], dict):
        return f" ({theirs[part]!r}, not {ours[part]!r})"
    for key in [*ours[part], *theirs[part]]:
        before, now = (values[part].get(key) for values in (theirs, ours))
        if before != now:
            return f" ({part}.{key}={before!r}, not {now!r})"
    return ""
