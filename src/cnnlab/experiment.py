"""One run from one config: data → model → fit → test once → report. The same for the command line and for Python."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnnlab.config import Composed, Config, from_dict, options, resolve, with_changes
from cnnlab.data.load import Data, build_data, build_own, target_config
from cnnlab.data.own import OWN_SET, OwnData, Source
from cnnlab.data.recommend import batch_for, epochs_for, follows_from_set, is_said
from cnnlab.device import choose_device
from cnnlab.errors import ConfigError, ModelError, RunError
from cnnlab.evaluation.evaluate import run_test
from cnnlab.evaluation.outputs import Outputs
from cnnlab.models.base import count_parameters
from cnnlab.models.first_layer import first_layer_weights
from cnnlab.models.plain import describe_plain, is_built, is_own
from cnnlab.models.registry import MODELS, OWN_MODULE, default_arguments, model_spec
from cnnlab.remote import is_remote, whole_address
from cnnlab.report.content import Report
from cnnlab.report.gather import gather
from cnnlab.report.page import render
from cnnlab.representation import as_html, as_text
from cnnlab.runs.addresses import check_root, has_root, refuse_root, with_whole_addresses
from cnnlab.runs.artifact import is_artifact
from cnnlab.runs.environment import describe
from cnnlab.runs.files import read_record, write_whole
from cnnlab.runs.folder import (
    RunFolder,
    holds_run,
    new_folder,
    open_folder,
    read_config,
    read_environment,
    read_split,
)
from cnnlab.runs.form import INIT
from cnnlab.runs.remote import address_of, publish, uploading
from cnnlab.runs.weights import load_run
from cnnlab.tasks import task_of
from cnnlab.tasks.losses import LossFunction
from cnnlab.tracking.base import Noted, Tested, Tracker, Trackers
from cnnlab.tracking.console import DecodeBar, percent
from cnnlab.tracking.notebook import curves, progress_tracker
from cnnlab.training.build import build_model, check_fit, classes_of, import_code, initialise
from cnnlab.training.diagnose import Setup, diagnose
from cnnlab.training.distributed import ALONE, Group, device_of, joined, started_together, threads_of
from cnnlab.training.precision import prepare_process, threads_for
from cnnlab.training.trainer import Trainer, train

Progress = Callable[[int, int], None]
DATA_KEYS = ("data", "augment", "seed=", "trainer.batch_size=", "trainer.device=")  # what load_data has settled
SETTLED = ("seed", "trainer.batch_size")  # of these what an experiment may say all the same: the same value


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run: its folder, its history (one row an epoch) and its test figures (None without a test split)."""

    dir: Path
    history: list[dict[str, Any]]
    test: dict[str, Any] | None

    def __repr__(self) -> str:
        return as_text(f"Run {self.dir}", self._facts)

    def _repr_html_(self) -> str:
        return as_html(f"Run {self.dir}", self._facts) + (curves(self.history) if self.history else "")

    @property
    def _facts(self) -> dict[str, str]:
        facts = {"epochs": str(len(self.history))}
        known = [row["val_accuracy"] for row in self.history if row.get("val_accuracy") is not None]
        facts |= {"validation accuracy": f"{percent(max(known))} (best epoch)"} if known else {}
        if self.test is not None:
            low, high = (percent(value) for value in self.test["accuracy_interval"])
            facts["test accuracy"] = f"{percent(self.test['accuracy'])} (95 %: {low} to {high})"
        else:
            facts["test accuracy"] = "not tested"
        return facts | {"report": str(self.dir / "report.html")}


def fit(
    model: nn.Module,
    data: Data | Source,
    *,
    val: Source | None = None,
    test: Source | bool = True,
    transform: Callable[[Any], Any] | None = None,
    classes: Sequence[str] | None = None,
    loss: LossFunction | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    trackers: Sequence[Tracker] = (),
    progress: bool = True,
) -> Run:
    """Train a model on data and test it once at the end: the same loop and the same run folder as `cnnlab train`.

    Args:
        model: of `create_model`, or any `nn.Module` that maps (B, C, H, W) to (B, num_classes).
        data: of `load_data`; or your own training set, a torch Dataset of (image, label) or a DataLoader of (images
            (B, C, H, W), labels (B,)). What a run on your own objects cannot do later is said in a line at its start.
        val, test: beside a training set of your own, of the same kind. Without them a Dataset is split as a folder is
            (data.val_fraction, data.test_fraction), and a DataLoader has none. test=False leaves the test split alone.
        transform: of the images of a Dataset, in each epoch anew; what it gives is used as it is.
        classes: names of the classes of your own set; None takes its `classes`, else numbers.
        loss: (logits (B, K), labels (B,)) → a mean over the batch, or (B,); None takes trainer.loss. test.json gives
            the negative log-likelihood as its loss all the same.
        batch_size: of a Dataset of your own; None takes 128, or fewer for a small set.
        epochs: None takes what the recipe of the data set says, and for a small set of your own more.
        dir: the run folder; None makes runs/<data>-<model>-<time>.
        overrides: any other settings, such as ["optimizer=adamw", "trainer.ema=0.999"], or ["experiment=first"] of the
            folder conf.
        trackers: listeners beside the run folder's own.
        progress: show a bar and the figures of each epoch; in a notebook with a live curve.

    Raises:
        CnnlabError: what the user can mend; `Interrupted` after Ctrl-C, with everything saved.
    """
    listeners = [*([progress_tracker()] if progress else []), *trackers]
    if isinstance(data, Data):
        _refuse_own_parts(val=val, test=None if isinstance(test, bool) else test, transform=transform, classes=classes)
        _refuse_settled(overrides, batch_size)
        _refuse_of_experiment(overrides, data.config)
        if not is_built(model):
            describe_plain(model, next(data.test.epoch() if data.test.count else data.train.epoch()).images[:2].cpu())
        composed = _compose_for(model, _words_of(data), overrides)
        config = dataclasses.replace(
            composed.config,
            data=data.config.data,
            augment=data.config.augment,
            seed=data.config.seed,
            trainer=dataclasses.replace(
                composed.config.trainer, batch_size=data.config.trainer.batch_size, device=str(data.train.device)
            ),
        )
    elif isinstance(data, str):
        raise ConfigError(f"{data!r} is the name of a set; load it first: cnnlab.load_data({data!r}).")
    else:
        own = OwnData(data, val, None if isinstance(test, bool) else test, transform, classes)
        composed, config, data = _load_own(model, own, overrides, batch_size)
    if config.data.folds:
        raise ConfigError("data.folds trains several networks: cnnlab train data.folds=5, or cnnlab.folds.run_folds.")
    if epochs is None and not (is_said(composed, "trainer.epochs") or is_said(composed, "recipe")):
        epochs = _epochs_of(config, data)
    config = _with_model(config, model, loss, epochs, dir)
    if config.trainer.devices > 1 or started_together():
        raise ConfigError(
            "cnnlab.fit trains in one process, as a model and data made in it cannot be in others; for several use the"
            " command line: cnnlab train trainer.devices=2."
        )
    prepare_process(config.trainer)
    check_fit(model, data, task_of(config, data, loss))
    if config.adapt.method != "none" and data.target is None:  # load_data knows nothing of another domain
        target = build_data(target_config(config), data.train.device, preprocess=data.preprocess)
        data = dataclasses.replace(data, target=target)
    if test is False:
        data = data.without_test()
    return _run(config, data, model, new_folder(config), listeners, command=[], own_loss=loss)


def _refuse_own_parts(**given: object) -> None:
    """Raise ConfigError for an argument that is for a Dataset or DataLoader of the user's own."""
    for key, value in given.items():
        if value is not None:
            raise ConfigError(f"{key}= is for a Dataset of your own, and this data came from load_data; give it there.")


def _refuse_settled(overrides: Sequence[str], batch_size: int | None) -> None:
    """Raise ConfigError for what the data or the model has settled before."""
    if batch_size is not None:
        raise ConfigError(f"batch_size={batch_size} comes after the data: give it to cnnlab.load_data instead.")
    for override in overrides:
        if override.lstrip("+").startswith(DATA_KEYS):
            raise ConfigError(f"{override!r} comes after the data: give it to cnnlab.load_data instead.")
        _refuse_model(override)


def _refuse_model(override: str) -> None:
    if override.lstrip("+").startswith("model"):
        raise ConfigError(f"{override!r} comes after the model: give it to cnnlab.create_model instead.")


def _refuse_of_experiment(overrides: Sequence[str], settled: Config | None = None) -> None:
    """Raise ConfigError for what an experiment says of the data and `settled` does not have, as it would be ignored.

    Args:
        settled: the config of data that was loaded; None: objects of the user's own, which keep their seed and batches.
    """
    composed = resolve(overrides, trust_code=True)  # nothing of it is run
    said, loaded = composed.config.to_dict(), settled.to_dict() if settled else None
    for key, source in composed.sources.items():
        section, _, name = key.partition(".")
        origin = composed.chosen[section][1] if source.startswith("option ") else source
        of_data = section == "data" or (loaded is not None and (section == "augment" or key in SETTLED))
        if not origin.startswith("experiment ") or not of_data or key == "augment.name":
            continue
        value, now = (values and (values[section][name] if name else values[section]) for values in (said, loaded))
        if loaded is None:
            raise ConfigError(
                f"{key}={value} of {origin} is for a set with a name; say it in overrides, if it is meant."
            )
        if value != now:
            raise ConfigError(f"{key}={value} of {origin} comes after the data: give it to cnnlab.load_data instead.")


def _words_of(data: Data) -> list[str]:
    """The words that name loaded data, and with it the recipe."""
    name = data.option or data.config.data.name
    return ["data=any", f"data.name={OWN_SET}"] if name == OWN_SET else [f"data={name}"]


def _compose_for(model: nn.Module, data: Sequence[str], overrides: Sequence[str]) -> Composed:
    """What the recipe of the data set says for the model, and the overrides.

    A user's own network may have no batch norm, and the rates of the recipes are for those that have: it gets AdamW.

    Args:
        data: the words that name the set.
    """
    name, _ = model_spec(model)
    known = [f"model={name}"] if name in options("model") else []  # what the recipe found good for it
    words = [*data, *known, *overrides]
    composed = resolve(words, trust_code=True)  # model and data are there: no code is run
    if (name in MODELS and ":" not in name) or is_said(composed, "optimizer.name") or is_said(composed, "recipe"):
        return composed
    return resolve(words, derived={"optimizer": ("adamw", "for a network of your own")}, trust_code=True)


def _epochs_of(config: Config, data: Data) -> int:
    """Epochs that give a small set of the user's own, or one that is cut down, the steps it needs."""
    usual, own = config.trainer.epochs, config.data.name in ("folder", OWN_SET)
    if config.adapt.method != "none" or not (own or follows_from_set(config)):
        return usual
    steps = max(1, len(data.train) // config.trainer.accumulate)
    return epochs_for(data.train.count, steps, usual, tuned_on_many=own)


def _load_own(
    model: nn.Module, own: OwnData, overrides: Sequence[str], batch_size: int | None
) -> tuple[Composed, Config, Data]:
    """The settings, the config and the data of what the user gave as objects; a plain module gets its name."""
    if own.in_batches and batch_size is not None:
        raise ConfigError(f"batch_size={batch_size} is for a Dataset, and a DataLoader has its own; leave it out.")
    for override in overrides:
        _refuse_model(override)
    _refuse_of_experiment(overrides)
    named = ["data=any", f"data.name={OWN_SET}"]
    words = [*([] if batch_size is None else [f"trainer.batch_size={batch_size}"]), *overrides]
    composed = resolve([*named, *words], trust_code=True)
    if not (own.in_batches or is_said(composed, "trainer.batch_size")):
        size = batch_for(len(own.parts["train"]), 128)  # type: ignore[arg-type]  # it is no DataLoader
        derived = {"trainer.batch_size": (size, "the number of images")}
        composed = resolve([*named, *words], derived=derived, trust_code=True)
    with DecodeBar() as bar:
        data = build_own(
            composed.config,
            own,
            choose_device(composed.config.trainer.device),
            bar.update,
            num_classes=lambda images: classes_of(model, images),
        )
    if not is_built(model):
        describe_plain(model, next(data.train.epoch()).images[:2].cpu())
    composed = _compose_for(model, named, words)
    config = composed.config
    trainer = dataclasses.replace(config.trainer, batch_size=data.config.trainer.batch_size)
    config = dataclasses.replace(config, data=data.config.data, augment=data.config.augment, trainer=trainer)
    return composed, config, data


def _with_model(
    config: Config, model: nn.Module, loss: LossFunction | None, epochs: int | None, dir: str | Path | None
) -> Config:
    """The config as the run folder keeps it."""
    name, arguments = model_spec(model)
    values = config.to_dict()
    values["model"] = {"name": name, **arguments}
    values["trainer"] |= {} if epochs is None else {"epochs": epochs}
    values["trainer"] |= {} if loss is None else {"loss": "own"}
    values["run"] |= {} if dir is None else {"dir": str(dir)}
    return with_whole_addresses(from_dict(values))


def run_experiment(
    config: Config,
    trackers: Sequence[Tracker] = (),
    progress: Progress | None = None,
    command: Sequence[str] = (),
    resume: bool = False,
    test: bool = True,
) -> Run:
    """`cnnlab train`: everything from one config. Nothing is written before the config, data and model are sound.

    In one of several processes (`cnnlab.processes`, torchrun) it is this one's part of the run, and only that of the
    first gives test figures.

    Args:
        resume: go on where run.dir holds a run of this config, so that the same command may be given again.
        test: False ends after the training, and a resume would test.
    """
    config = with_whole_addresses(config)
    with joined(config.trainer.device) as group:
        if resume and group.from_first(lambda: has_begun(config)):
            begun = open_folder(str(config.run.dir), whole=True)
            return _resume(begun, trackers, progress, True, group, test, data_root=config.data.root)[0]
        config = group.from_first(lambda: for_group(config, group))
        folder = new_folder(config)
        if group.restarted and group.from_first(folder.config.exists):
            return _resume(folder, trackers, progress, True, group, test)[0]
        if group.first:
            folder.refuse_if_taken()
        prepare_process(config.trainer, threads_of(config.trainer, group))
        device = device_of(config.trainer.device, group)
        import_code(config)  # the user's own word names it, and the model
        data = build_data(config, device, progress or _silent, processes=group.local_size)
        model = build_model(config, data, trust_code=True)  # the user's own word names it
        drawn = config.init.source is None and config.model["name"] != "pretrained" and not config.init.whiten
        if group.first and drawn and config.init.freeze not in ("none", 0):
            Trackers(trackers).log(Noted("what init.freeze keeps are random weights: there is no init.from.", True))
        return _run(config, data, model, folder, trackers, command, group, test)


def _silent(done: int, total: int) -> None:
    """No progress is shown."""


def for_group(config: Config, group: Group) -> Config:
    """The config with as many processes as there are.

    Raises:
        ConfigError: another number was asked for, what several processes cannot do, or a run folder without a name.
    """
    devices = config.trainer.devices
    if group.size > 1 and devices not in (1, group.size):
        raise ConfigError(f"trainer.devices={devices}, and {group.size} processes were started; leave it out.")
    if group.size == 1 and devices > 1:
        raise ConfigError(
            f"trainer.devices={devices} processes are started by the command line alone: cnnlab train"
            f" trainer.devices={devices}."
        )
    if group.size > 1 and not (config.run.dir or config.run.name):
        raise ConfigError("several processes must agree on the run folder; name it: run.dir=runs/mine.")
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, devices=group.size))


def try_experiment(config: Config, progress: Progress, validates: bool = False) -> int:
    """Raise what `run_experiment` would raise before its first step, and decode the pictures; no folder is touched.

    Args:
        validates: raise ConfigError where there is no validation split.

    Returns:
        The number of test images.
    """
    prepare_process(config.trainer)
    import_code(config)
    data = build_data(with_whole_addresses(config), device_of(config.trainer.device, ALONE), progress)
    if validates and not data.val.count:
        raise ConfigError(
            "a search judges by the validation split, and it is empty; raise data.val_fraction (the test split must not"
            " choose)."
        )
    build_model(config, data, trust_code=True)
    return data.test.count


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
                f" another run.dir, or go on with that one by `cnnlab resume {config.run.dir}`."
            )
    return True


def identity(config: Config) -> dict[str, Any]:
    """What makes a run the one it is, wherever its command is given.

    Not in it: what the run is called, the number of its processes, and where its pictures lie, of which split.json
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


def resume_experiment(
    path: str | Path,
    trackers: Sequence[Tracker] = (),
    progress: Progress | None = None,
    trust_code: bool = False,
    test: bool = True,
    overrides: Sequence[str] = (),
    data_root: str | None = None,
    fetch: bool = False,
) -> tuple[Run, bool]:
    """`cnnlab resume`: go on as if the run had never stopped, or with another learning rate.

    Args:
        overrides: such as ["optimizer.lr=0.01"], from here on; config.yaml then says so (see `config.RESUMABLE`).
        trust_code: import the module of a model of the user's own that the run folder names.
        test: see `run_experiment`.
        data_root: where the same pictures are now; the run keeps it. None: where they were.
        fetch: the run came from a bucket, so that its set may have to be downloaded to this machine. In a run folder of
            this machine the pictures must be there.

    Returns:
        The run, and whether anything was left to do.

    Raises:
        RunError: no run there, or pictures that are not those it began with.
    """
    folder = open_folder(path, whole=True)
    config = read_config(folder)
    fetch = fetch or is_remote(path) or is_artifact(path)
    if data_root is not None:
        refuse_root(config.data.name, data_root)
    if not fetch and (data_root is not None or not folder.report.exists()):
        check_root(dataclasses.replace(config.data, root=data_root or config.data.root), folder.path)
    with joined(config.trainer.device) as group:
        return _resume(folder, trackers, progress, trust_code, group, test, overrides, data_root, fetch)


def _resume(
    folder: RunFolder,
    trackers: Sequence[Tracker],
    progress: Progress | None,
    trust_code: bool,
    group: Group,
    test: bool,
    overrides: Sequence[str] = (),
    data_root: str | None = None,
    fetch: bool = True,
) -> tuple[Run, bool]:
    """See `resume_experiment`; without `fetch` nothing is downloaded from a publisher."""
    with _locked(folder, group):
        before = config = group.from_first(lambda: read_config(folder))
        config = with_changes(config, overrides)
        if data_root is not None and has_root(config.data.name):
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=whole_address(data_root)))
        changed = config
        config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, devices=group.size))
        if group.from_first(folder.report.exists):
            if overrides:
                raise finished(folder, overrides)
            if group.first:
                publish(folder.path)
            return Run(folder.path, folder.history(), folder.test_figures()), False
        if group.first and not folder.state.exists():
            raise RunError(
                f"{folder.state} is missing, and with it the weights of this run; restore it from a copy, or start anew"
                " in another folder."
            )
        threads = threads_of(config.trainer, group)
        machine = group.from_first(lambda: read_environment(folder).get("machine") or {})
        if machine.get("processes", 1) == group.size:
            threads = machine.get("threads")
        prepare_process(config.trainer, threads)
        device = device_of(config.trainer.device, group)
        sources = config if fetch or is_remote(config.data.root) else without_download(config)
        if trust_code:
            import_code(config)
        data = build_data(sources, device, progress or _silent, processes=group.local_size)
        if data.manifest["sha256"] != group.from_first(lambda: read_split(folder)["sha256"]):
            raise RunError(
                f"the pictures are not those that {folder.path} began with: some were changed, added or removed."
                " Restore them, or start a new run."
            )
        model = build_model(config, data, trust_code, resumed=True)
        trainer = Trainer(model, data, config, folder, group)
        if group.first and changed != before:
            folder.write_config(changed)
        listeners = [*trackers, *folder_trackers(config, folder)] if group.first else []
        return _train_test_report(trainer, listeners, resumed=True, test=test), True


def finished(folder: RunFolder, overrides: Sequence[str]) -> RunError:
    return RunError(f"{folder.path} is finished; for {' '.join(overrides)} start a new run.")


def without_download(config: Config) -> Config:
    """The config for pictures that must be on this machine already."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, download=False))


@contextmanager
def _locked(folder: RunFolder, group: Group) -> Iterator[None]:
    """The first process keeps all others but those of its group from training in the folder."""
    lock = folder.lock() if group.first else None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _run(
    config: Config,
    data: Data,
    model: nn.Module,
    folder: RunFolder,
    trackers: Sequence[Tracker],
    command: Sequence[str],
    group: Group = ALONE,
    test: bool = True,
    own_loss: LossFunction | None = None,
) -> Run:
    if group.first:
        folder.refuse_if_taken()
        check_space(folder, model)
    begun = initialise(model, config, data)
    trainer = Trainer(model, data, config, folder, group, own_loss)
    listeners = [*trackers, *folder_trackers(config, folder)] if group.first else []
    shape = (data.in_channels, *data.image_size)
    with threads_for(config.trainer, data.train.device, model, shape), _locked(folder, group):
        if group.first:
            folder.refuse_if_taken()
        trainer.save()  # before config.yaml makes it a run: where its weights begin may not be there at a resume
        if group.first:
            run = dataclasses.replace(config.run, dir=config.run.dir and whole_address(config.run.dir))
            folder.start(
                dataclasses.replace(config, run=run), describe(list(command), group.size), data.manifest, begun
            )
        return _train_test_report(trainer, listeners, resumed=False, test=test)


def check_space(folder: RunFolder, model: nn.Module) -> None:
    """Raise RunError early if the disk has no room for the run's files, ModelError if they cannot hold the model."""
    place = folder.path.absolute()
    while not place.exists():
        place = place.parent
    state = model.state_dict()
    if other := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ModelError(
            f"{other[0]} of the model's state is a {type(state[other[0]]).__name__}, and safetensors keeps tensors"
            " alone; let get_extra_state return a tensor."
        )
    weights = sum(t.numel() * t.element_size() for t in state.values())
    need = 8 * weights + 10_000_000  # weights, momenta, average, each with its successor, and the report
    free = shutil.disk_usage(place).free
    if free < need:
        raise RunError(
            f"no space left in {place}: a run of this model needs about {need / 1e6:,.0f} MB and {free / 1e6:,.0f} MB"
            " are free; free some or choose another run.dir."
        )


def _train_test_report(trainer: Trainer, listeners: Sequence[Tracker], resumed: bool, test: bool) -> Run:
    folder, group = trainer.folder, trainer.group
    if not group.first:
        return _tracked(trainer, Trackers([]), resumed, test)
    with uploading(folder.path) as uploader:
        return _tracked(trainer, Trackers([*listeners, *uploader]), resumed, test)


def _tracked(trainer: Trainer, trackers: Trackers, resumed: bool, test: bool) -> Run:
    data, folder, group = trainer.data, trainer.folder, trainer.group
    try:
        if group.restarted:
            trackers.log(Noted("a process was lost; training goes on from the last saved state", True))
        if data.quarantined:
            trackers.log(
                Noted(f"{len(data.quarantined)} pictures cannot be read and are left out; split.json names them", True)
            )
        facts = describe_run(trainer.model, data)
        if address := address_of(folder.path):
            facts["goes to"] = address
        if folder.init.exists():
            begun = read_record(folder.init, INIT)
            facts["weights"] = f"from {begun['source']}: {begun['summary']}"
        history = train(trainer, trackers, facts, resumed)
        group.leave()  # testing and the report are the first one's work
        if not (group.first and test):
            return Run(folder.path, history, None)
        figures = None
        outputs = None
        same = copy.deepcopy(trainer.model) if is_own(trainer.model) else None  # no name builds it
        best, _ = load_run(folder, data.test.device, model=same)
        if data.test.count:
            outputs = run_test(folder, best, data)
            figures = outputs.figures
            trackers.log(Tested({k: v for k, v in figures.items() if isinstance(v, int | float)}, str(folder.weights)))
        write_report(folder, data, outputs, best)
        return Run(folder.path, history, figures)
    finally:
        trackers.close()


def folder_trackers(config: Config, folder: RunFolder) -> list[Tracker]:
    """The listeners that `logger.*` asks for. metrics.jsonl is no listener: the loop itself writes it."""
    chosen: list[Tracker] = []
    if config.logger.tensorboard:
        from cnnlab.tracking.tensorboard import TensorBoardTracker

        chosen.append(TensorBoardTracker(folder.tensorboard))
    if config.logger.wandb:
        from cnnlab.tracking.wandb import WandbTracker

        chosen.append(WandbTracker(folder.path, config.logger.wandb_project, config.logger.wandb_mode))
    return chosen


def describe_run(model: nn.Module, data: Data) -> dict[str, str]:
    name, arguments = model_spec(model)
    target = data.target
    height, width = data.image_size
    of_data = ("in_channels", "num_classes", "image_size")
    defaults = {} if name == OWN_MODULE else default_arguments(name)
    given = ", ".join(f"{k}={v}" for k, v in arguments.items() if k not in of_data and v != defaults.get(k, ...))
    sizes = " / ".join(f"{len(data.split[part]):,}" for part in ("train", "val", "test"))
    return {
        "data": f"{data.config.data.name}: {data.num_classes} classes, {height}×{width}×{data.in_channels},"
        f" {sizes} train / val / test",
        "model": f"{name}{f' ({given})' if given else ''}, {count_parameters(model):,} parameters",
        **(
            {"adapts to": f"{target.config.data.name}: {len(target.split.train):,} pictures, labels unused"}
            if target
            else {}
        ),
        **({"yours": "; ".join(limits)} if (limits := limits_of(model, data)) else {}),
    }


def limits_of(model: nn.Module, data: Data) -> list[str]:
    """What a run on objects of the user's own cannot do, in words."""
    objects = {"data": data.config.data.name == OWN_SET, "network": model_spec(model)[0] == OWN_MODULE}
    given = " and ".join(what for what, is_object in objects.items() if is_object)
    limits = [f"no command opens this {given} again: no resume, test or export later"] if given else []
    if data.in_batches:
        limits.append("batches as they come: no decoded store, no augment.*, and predict needs your transform")
    return limits


def write_report(folder: RunFolder, data: Data, outputs: Outputs | None, model: nn.Module) -> None:
    """report.html of the run and its best model. It comes last: where it is, the run is done."""
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
            test=outputs.figures if outputs else None,
            samples=samples,
            filters=None if filters is None else filters.float().cpu().numpy(),
            insight=insight,
            folds=folder.read_folds(),
            hints=[(hint.text, hint.fix) for hint in diagnose(history, Setup.of(data, config))],
        )
    )
    write_whole(folder.report, page)
