"""A run that W&B keeps: `wandb:ENTITY/PROJECT/ARTIFACT:ALIAS`, or the folder of an offline run."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from filelock import FileLock

from cnnlab.errors import RunError
from cnnlab.files import folder_name, is_path
from cnnlab.runs.addresses import PREFIX
from cnnlab.runs.files import read_json, write_json

RECORD = ".artifact.json"


def fetch_artifact(address: str) -> Path:
    """The run folder for an address of W&B; an artifact is copied to this machine, anew where its alias has moved on.

    Raises:
        RunError: no such artifact, no run in it, or W&B cannot be reached.
    """
    name = address.removeprefix(PREFIX)
    if is_path(Path(name)) and Path(name).is_dir():
        return _around_offline(Path(name))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+/[\w.-]+:[\w.-]+", name):
        raise RunError(
            f"{address} is no artifact; give wandb:ENTITY/PROJECT/ARTIFACT:ALIAS, such as …/model-mine:best."
        )
    from cnnlab.data.store import cache_folder

    own, word = folder_name(address)
    place = cache_folder() / "artifacts" / own
    folder, record, arriving = place / word, place / RECORD, place / "arriving"
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "lock"):
        known = read_json(record)["digest"] if record.exists() and folder.exists() else None
        shutil.rmtree(arriving, ignore_errors=True)
        try:
            digest = download(name, arriving, known)
        except ImportError:
            raise RunError(f"{address} needs the package wandb; install it with: pip install 'cnnlab[wandb]'") from None
        except Exception as error:  # W&B raises its own, those of requests, and ValueError
            reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise RunError(
                f"cannot fetch {address} ({reason}); check the name, the network and `wandb login`."
            ) from None
        if digest != known:
            if not (arriving / "config.yaml").exists():
                raise RunError(f"{address} holds no run: no config.yaml; give an artifact that logger.wandb=true made.")
            shutil.rmtree(folder, ignore_errors=True)
            arriving.rename(folder)
            write_json(record, {"digest": digest})
    return folder


def download(name: str, folder: Path, known: str | None) -> str:
    """Bring the files of an artifact into a folder, unless its digest is `known`; return the digest.

    The one place that asks W&B's servers for anything.
    """
    import wandb

    artifact = wandb.Api().artifact(name)
    if artifact.digest != known:
        artifact.download(root=str(folder))
    return str(artifact.digest)


def _around_offline(path: Path) -> Path:
    """RUN/wandb/offline-run-… lies in the run folder that it tells of, with all that its artifact holds."""
    folder = Path(os.path.abspath(path)).parent.parent  # where the user says it lies, wherever a link in there leads
    if not (folder / "config.yaml").exists():
        raise RunError(
            f"{path} lies in no run folder. What its artifact holds is on the machine that trained: give that run"
            " folder, or upload it with `wandb sync` and give wandb:ENTITY/PROJECT/ARTIFACT:ALIAS."
        )
    return folder
