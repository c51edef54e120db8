"""Where the images and the weights of a run lie, written so that the run finds them from any folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from cnnlab.config import Config, DataConfig
from cnnlab.data.catalog import CATALOG, has_root
from cnnlab.errors import ConfigError, DataError
from cnnlab.files import is_remote, local_path, whole_address

LIBRARY = "torchvision:"
PREFIX = "wandb:"


def is_artifact(address: object) -> bool:
    return str(address).startswith(PREFIX)


def whole_artifact(address: str) -> str:
    """The same from any folder: the folder of an offline run by its absolute path, an artifact as it is."""
    name = address.removeprefix(PREFIX)
    return PREFIX + os.path.realpath(name) if os.path.isdir(name) else address


def is_address(run: object) -> bool:
    """Whether a run is named by an address, from which it has to be copied, and not by its folder."""
    return is_remote(run) or is_artifact(run)


def with_whole_addresses(config: Config) -> Config:
    """The config with data.root, data.backgrounds, adapt.root and init.from absolute, or as full addresses.

    Relative ones are below the working directory. What no file can be called stays, and is refused where it is opened.
    """
    data = dataclasses.replace(
        config.data, root=whole_address(config.data.root), backgrounds=_whole(config.data.backgrounds)
    )
    source = config.init.source
    if source is not None and not source.startswith(LIBRARY):
        source = whole_artifact(source) if is_artifact(source) else whole_address(source)
    return dataclasses.replace(
        config,
        data=data,
        adapt=dataclasses.replace(config.adapt, root=_whole(config.adapt.root)),
        init=dataclasses.replace(config.init, source=source),
    )


def _whole(address: str | None) -> str | None:
    return None if address is None else whole_address(address)


def refuse_root(name: str, root: str | Path) -> None:
    """Raise ConfigError for --data-root where the set has none, or for an empty one."""
    if not str(root):
        raise ConfigError("--data-root (data_root=) is empty; give the folder of the images, or leave it out.")
    if not has_root(name):
        raise ConfigError(
            f"{name} comes with cnnlab and lies in no folder; leave out --data-root (data_root=), or name the"
            " set that lies there, such as --data folder (data='folder')."
        )


def check_root(data: DataConfig, run: Path) -> None:
    """Raise DataError, with the way to go on, if the images that a run was made from are not where they were."""
    if is_remote(data.root) or not has_root(data.name) or data.name not in CATALOG:
        return
    root = local_path(data.root)
    below = CATALOG[data.name].folder
    if not os.path.isdir(root / below):
        lost, them = (f"{data.name} is not below {root}", "it") if below else (f"there is no folder {root}", "them")
        raise DataError(
            f"{lost}, where {run} has its images; give the folder that holds {them} now with --data-root (data_root=)."
        )
