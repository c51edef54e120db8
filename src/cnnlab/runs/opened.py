"""The one door through which a run comes to this machine, for the top of commands and of public functions.

    with opened_run(address) as folder:

Below it everything takes a folder of this machine and asks the network for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnlab.config import Config
from cnnlab.errors import CnnlabError, ConfigError
from cnnlab.files import is_remote
from cnnlab.runs import download
from cnnlab.runs.addresses import is_artifact
from cnnlab.runs.artifact import fetch_artifact
from cnnlab.runs.folder import RunFolder, holds_run, new_folder, open_folder
from cnnlab.runs.identity import refuse_other_run
from cnnlab.runs.upload import publish_results


@contextmanager
def opened_run(run: str | Path, *, whole: bool = False, writes: bool = False) -> Iterator[Path]:
    """A run as a folder of this machine; one in a bucket or with W&B is copied here first.

    Args:
        run: a folder, gs://… and its like, or wandb:….
        whole: with what a resume needs.
        writes: what is written into the folder within goes up to its bucket at the end, also where a CnnlabError ends
            it: what was done before it is sound. A bucket that takes nothing costs a warning.

    Raises:
        RunError: no run there, with the nearest name. RemoteError: it cannot be reached.
    """
    folder = open_folder(_copied(run, whole)).path
    try:
        yield folder
    except CnnlabError:
        if writes:
            publish_results(folder)
        raise
    if writes:
        publish_results(folder)


def _copied(run: str | Path, whole: bool) -> str | Path:
    if is_remote(run):
        return download.fetch(str(run), whole)
    return fetch_artifact(str(run)) if is_artifact(run) else run


@contextmanager
def opened_source(source: str | None) -> Iterator[str | None]:
    """init.from as `read_source` takes it: a run or a .safetensors file at an address is copied here first."""
    if source is not None and is_remote(source) and source.endswith(".safetensors"):
        yield str(download.fetch_file(source))
    elif is_remote(source) or is_artifact(source):
        with opened_run(str(source)) as folder:
            yield str(folder)
    else:
        yield source


def begin_run(config: Config) -> RunFolder:
    """The folder for a new run, see `new_folder`. For one that will go to a bucket it is a copy's, and empty.

    Raises:
        RunError, RemoteError: the bucket holds a run there already, or other files, or cannot be reached.
    """
    if config.run.dir and is_remote(config.run.dir):
        return RunFolder(download.begin(config.run.dir))
    return new_folder(config)


def has_begun(config: Config) -> bool:
    """Whether run.dir, a folder or an address, holds a run of this config. Raises RunError if it is one of another."""
    if not config.run.dir:
        raise ConfigError("--resume needs run.dir: a run that takes its name from the clock cannot be found again.")
    if not (download.holds_run(config.run.dir) if is_remote(config.run.dir) else holds_run(config.run.dir)):
        return False
    with opened_run(config.run.dir) as folder:
        refuse_other_run(config, folder)
    return True
