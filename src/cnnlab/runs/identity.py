"""What makes a run the one it is: whether a folder holds the run of a config."""

from __future__ import annotations

from typing import Any

from cnnlab.config import Config
from cnnlab.errors import ConfigError, RunError
from cnnlab.runs.addresses import with_whole_addresses
from cnnlab.runs.folder import holds_run, open_folder, read_config


def has_begun(config: Config) -> bool:
    """Whether run.dir holds a run of this config. Raises RunError if it is one of another."""
    if not config.run.dir:
        raise ConfigError("--resume needs run.dir: a run that takes its name from the clock cannot be found again.")
    if not holds_run(config.run.dir):
        return False
    theirs, ours = identity(read_config(open_folder(config.run.dir))), identity(config)
    for part in ours:
        if theirs[part] != ours[part]:
            raise RunError(
                f"{config.run.dir} holds a run with another {part} than this{_difference(part, theirs, ours)}; choose"
                f" another run.dir, or resume that one with `cnnlab resume {config.run.dir}`."
            )
    return True


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
