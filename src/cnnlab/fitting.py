"""`cnnlab.fit`: a run from objects of Python, a model and data, instead of from names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cnnlab.config import Composed, Config, from_dict, options, resolve
from cnnlab.data.build import build_data, build_own, target_config
from cnnlab.data.data import Data
from cnnlab.data.own import OWN_SET, OwnData, Source
from cnnlab.data.recommend import batch_for, epochs_for, follows_from_set, is_said
from cnnlab.device import choose_device, device_name
from cnnlab.errors import ConfigError
from cnnlab.experiment import Run, Session
from cnnlab.models.plain import describe_plain, is_built
from cnnlab.models.registry import MODELS, model_spec
from cnnlab.runs.addresses import with_whole_addresses
from cnnlab.runs.opened import begin_run
from cnnlab.tasks import task_of
from cnnlab.tasks.losses import LossFunction
from cnnlab.tracking.base import Tracker
from cnnlab.tracking.console import DecodeBar
from cnnlab.tracking.notebook import progress_tracker
from cnnlab.training.build import check_fit, classes_of
from cnnlab.training.distributed import started_together
from cnnlab.training.precision import prepare_process

DATA_KEYS = ("data", "augment", "seed=", "trainer.batch_size=", "trainer.device=")  # what load_data has settled
SETTLED = ("seed", "trainer.batch_size")  # of these what an experiment may say all the same: the same value


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
        loss: (logits (B, K), labels (B,), or (B, K) of 0 and 1) → a mean over the batch, or (B,); None takes
            trainer.loss. test.json gives the negative log-likelihood as its loss all the same.
        batch_size: of a Dataset of your own; None takes 128, or fewer for a small set.
        epochs: None takes what the recipe of the data set says, and for a small set of your own more.
        dir: the run folder; None makes runs/<data>-<model>-<time>.
        overrides: any other settings, such as ["optimizer=adamw", "trainer.ema=0.999"], or ["experiment=first"] of the
            folder conf.
        trackers: listeners beside the run folder's own.
        progress: show a bar and the metrics of each epoch; in a notebook with a live curve.

    Raises:
        CnnlabError: what the user can fix; `Interrupted` after Ctrl-C, with everything saved.
    """
    if not isinstance(model, nn.Module):
        built = f"cnnlab.create_model({model!r}, …)" if isinstance(model, str) else "its constructor, with ()"
        raise ConfigError(f"the model must be an nn.Module, got {model!r}; build it first: {built}.")
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
                composed.config.trainer,
                batch_size=data.config.trainer.batch_size,
                device=device_name(data.train.device),
            ),
        )
    elif isinstance(data, str):
        named = f'"folder", root={data!r}' if Path(data).is_dir() else repr(data)
        raise ConfigError(f"{data!r} names a set; load it first: cnnlab.load_data({named}).")
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
    if config.adapt.method != "none" and data.target_domain is None:  # load_data knows nothing of another domain
        target = build_data(target_config(config), data.train.device, preprocess=data.preprocess)
        data = dataclasses.replace(data, target_domain=target)
    if test is False:
        data = data.without_test()
    return Session(config, begin_run(config), trackers=listeners, own_loss=loss, by_fit=True).begin(data, model)


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
                f"{key}={value} of {origin} is for a set with a name; give it in overrides, if you mean it."
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
