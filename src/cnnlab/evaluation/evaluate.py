"""One split through one run: test.json and predictions.csv."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from cnnlab.config import AdaptConfig, AugmentConfig, Config, DataConfig, TestConfig, from_dict
from cnnlab.data.build import build_data
from cnnlab.data.data import Data
from cnnlab.data.own import import_dataset
from cnnlab.data.preprocess import Preprocess
from cnnlab.data.sources.base import ImageSet
from cnnlab.data.sources.folder import SPLIT_NAMES, subfolders
from cnnlab.device import choose_device
from cnnlab.errors import ConfigError, DataError, RunError, nearest
from cnnlab.evaluation.classification import evaluate_classification
from cnnlab.evaluation.metrics import accuracy_metrics
from cnnlab.evaluation.multilabel import evaluate_multilabel
from cnnlab.evaluation.outputs import PLAIN, Evaluator, Outputs, refuse_views
from cnnlab.evaluation.segmentation import evaluate_segmentation
from cnnlab.files import is_remote, local_path
from cnnlab.proportions import score_interval
from cnnlab.runs.addresses import check_root, refuse_root
from cnnlab.runs.files import write_json, write_whole
from cnnlab.runs.folder import RunFolder, read_config, read_split
from cnnlab.runs.opened import opened_run
from cnnlab.runs.weights import load_model
from cnnlab.tasks import Task, load_code, task_of
from cnnlab.tasks.registry import task_for
from cnnlab.training.forward import forward_all, measure

EVALUATORS: dict[str, Evaluator] = {  # by the task's name; any other task is evaluated by its metrics alone
    "classification": evaluate_classification,
    "multilabel": evaluate_multilabel,
    "segmentation": evaluate_segmentation,
}


def evaluate(
    run: str | Path,
    split: str = "test",
    data_root: str | None = None,
    device: str = "auto",
    trust_code: bool = False,
    views: str | None = None,
    data: str | Data | None = None,
    model: nn.Module | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """Evaluate the best weights of a run, from the run folder and the images alone.

    Args:
        run: the run folder.
        split: train, val or test.
        data_root: where the images are now; another set with the same classes is tested as a whole.
        device: auto, cpu, cuda, cuda:N or mps.
        trust_code: see `load_run`.
        views: none, mirror, shift or mirror_shift, see `test.views`; None takes what the run was configured with.
        data: name of another set with the same classes, such as mnist_m for a run on mnist; or what `load_data` made of
            a Dataset or DataLoaders of your own.
        model: see `load_run`.
        keys: `data.*` keys for it, such as backgrounds="photos".

    Returns:
        The content of test.json. For the run's own test split, test.json and predictions.csv are written too;
        for any other, evaluation-<split>.json and predictions-<split>.csv. Metrics of another set also have own_test,
        see `LabelOutputs.against`.

    Raises:
        RunError, DataError: no weights, or images that are not those of the run.
    """
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split must be train, val or test, got {split!r}.")
    if keys and data is None and data_root is None:
        raise ConfigError("data.* keys are for another set; name it with --data or --data-root (data=, data_root=).")
    with opened_run(run, writes=True) as folder:
        return _evaluate(RunFolder(folder), split, data_root, device, trust_code, views, data, model, keys)


def _evaluate(
    folder: RunFolder,
    split: str,
    data_root: str | None,
    device: str,
    trust_code: bool,
    views: str | None,
    data: str | Data | None,
    model: nn.Module | None,
    keys: Mapping[str, Any],
) -> dict[str, Any]:
    """See `evaluate`."""
    place = choose_device(device)
    net, card = load_model(folder, data.test.device if isinstance(data, Data) else place, trust_code, model)
    if isinstance(data, Data):
        if keys or data_root is not None:
            raise ConfigError("data.* keys and data_root= are for a set by name, and this data is loaded already.")
        images, own = as_in_run(data, folder, card, split)
    else:
        changes = dict(keys) | ({"root": str(data_root)} if data_root is not None else {})
        changes |= {"name": data} if data is not None else {}
        if data is not None or trust_code:
            import_dataset(data if data is not None else read_config(folder).data.name)
        if trust_code:
            load_code(read_config(folder))
        images, own = data_of_run(folder, card, place, split, changes)
    if not own and not len(images.split[split]):
        raise DataError(f"the other set has no {split} split of its own; test on all of it with --split test.")
    suffix = "" if own and split == "test" else f"-{split}" if own else f"-{split}-{file_name(data)}"
    settings = images.config.test if views is None else dataclasses.replace(images.config.test, views=views)
    outputs = evaluate_split(net, images, split, settings, known_of_run(folder, images, own))
    if not own and (before := folder.test_metrics()) is not None:
        outputs.metrics.update(outputs.against(before))
    write_outputs(folder, outputs, suffix)
    return outputs.metrics


def evaluate_split(
    model: nn.Module,
    data: Data,
    split: str,
    settings: TestConfig = PLAIN,
    known: Mapping[str, Any] | None = None,
) -> Outputs:
    """What a model answers to a split, as its task evaluates it.

    Args:
        settings: of further views of each image.
        known: test.json of the run, for what was fitted on its validation split (a temperature, thresholds); None fits
            them on that of the data.

    Raises:
        DataError: a split without images.
    """
    if not data.evaluation_loader(split).count:
        fix = f"raise data.{split}_fraction or choose another split" if split != "train" else "choose another split"
        raise DataError(f"the {split} split is empty; {fix}.")
    task = task_of(data.config, data)
    evaluator: Evaluator = EVALUATORS.get(task.name, evaluate_any)
    return evaluator(task, model, data, split, settings, known)


def evaluate_any(
    task: Task, model: nn.Module, data: Data, split: str, settings: TestConfig, known: Mapping[str, Any] | None
) -> Outputs:
    """What every task has: the metrics of its accumulator, and an interval of the accuracy.

    A mean of numbers from 0 to 1 varies at most as a proportion does, so that Wilson's interval is wide enough.
    """
    refuse_views(settings)
    metrics = measure(model, data.evaluation_loader(split), task.metrics()).compute()
    names = data.names(split)
    bounds = {"accuracy_interval": list(score_interval(float(metrics["accuracy"] or 0), len(names)))}
    return Outputs({"split": split, "task": task.name, **metrics, **bounds, "n": len(names)}, names)


def run_test(folder: RunFolder, model: nn.Module, data: Data) -> Outputs:
    """The test at the end of a run: evaluate the test split and write test.json and predictions.csv.

    Where training adapted to another domain, `target` holds the metrics of that one's test split.
    """
    outputs = evaluate_split(model, data, "test", data.config.test)
    if data.target_domain is not None and data.target_domain.test.count:
        logits, labels = (value.cpu() for value in forward_all(model, data.target_domain.evaluation_loader("test")))
        outputs.metrics["target"] = {
            "data": data.target_domain.config.data.name,
            **accuracy_metrics(logits, labels),
            "n": len(labels),
        }
    write_outputs(folder, outputs)
    return outputs


def file_name(data: str | Data | None) -> str:
    """What a file of metrics on another set is called."""
    return data.replace(":", ".") if isinstance(data, str) else "other"


def as_in_run(data: Data, folder: RunFolder, card: dict[str, Any], split: str) -> tuple[Data, bool]:
    """Loaded data as the run's model takes them, and whether they are the run's own (never, where nothing was hashed).

    Raises:
        DataError: other classes, or images that were brought to another size or made by other code.
    """
    preprocess = Preprocess.from_dict(card["preprocess"])
    if data.classes != card["classes"]:
        raise DataError(
            f"the data have the classes {data.classes[:5]}…, and the run {card['classes'][:5]}…; use the same."
        )
    check_images(data, preprocess)
    check_task(data, card)
    own = not data.in_batches and data.manifest["sha256"][split] == read_split(folder)["sha256"][split]
    return dataclasses.replace(data, preprocess=preprocess), own


def check_task(data: Data, card: dict[str, Any]) -> Data:
    """The same data. Raise DataError where their targets are for another task than that of a model's card."""
    trained, wanted = card.get("task"), task_for(data)
    if data.config.task is None and trained is not None and trained != wanted:
        raise DataError(
            f"the model was trained for {trained}, and the targets of this set are for {wanted}; use a set of the same"
            " kind."
        )
    return data


def check_images(data: Data, preprocess: Preprocess) -> None:
    """Raise DataError where the images have another size than those of `preprocess`, or were made by other code."""
    if data.preprocess.layout == preprocess.layout and data.preprocess.own == preprocess.own:
        return
    raise DataError(
        f"the data give images of {data.image_size[0]}×{data.image_size[1]}×{data.in_channels}, made"
        f" {'by your own code' if data.preprocess.own else 'by cnnlab'}, and the run was trained on"
        f" {preprocess.layout.height}×{preprocess.layout.width}×{preprocess.layout.channels}, made"
        f" {'by your own code' if preprocess.own else 'by cnnlab'}; load them in the same way."
    )


def known_of_run(folder: RunFolder, data: Data, own: bool) -> Mapping[str, Any] | None:
    """The run's test.json where `data` has another validation split than the run; else None.

    What is fitted on images of another set would flatter the metrics of that set.
    """
    same = data.manifest["sha256"]["val"] == read_split(folder)["sha256"]["val"]
    if same and (own or not data.in_batches) and len(data.split.val):
        return None
    return folder.test_metrics() or {}


def write_outputs(folder: RunFolder, outputs: Outputs, suffix: str = "") -> None:
    """predictions.csv first: test.json, which says that the test is done, comes last."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(outputs.table())
    write_whole(folder.path / f"predictions{suffix}.csv", text.getvalue())
    write_json(folder.path / (f"evaluation{suffix}.json" if suffix else "test.json"), outputs.metrics)


def data_of_run(
    folder: RunFolder,
    card: dict[str, Any],
    device: torch.device,
    split: str = "test",
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Data, bool]:
    """The images that a run was made from, with its split and its preprocess.

    Args:
        changes: `data.*` keys that are other than the run's: root for the same images elsewhere or for another set,
            name for another set.

    Returns:
        The data, and whether they are the run's own (its split's hash holds) or, with `changes`, another set.

    Raises:
        DataError: the run's images have changed since, or another set has other classes.
    """
    config = read_config(folder)
    preprocess = Preprocess.from_dict(card["preprocess"])
    settings = changed(config.data, changes)
    if "root" in changes:
        refuse_root(settings.name, settings.root)
    elif "download" not in changes:
        check_root(settings, folder.path)
    if "download" not in changes:  # a test fetches nothing from a publisher: a mistyped root would get a set
        settings = dataclasses.replace(settings, download=settings.download and is_remote(settings.root))
    config = dataclasses.replace(config, data=settings, adapt=AdaptConfig())
    if "name" in changes:
        config = dataclasses.replace(config, augment=AugmentConfig())  # of the run's own images
        return check_task(as_other_set(config, preprocess, card["classes"], device, changes.get("limit")), card), False
    try:
        data = build_data(config, device, preprocess=preprocess)
        same = data.manifest["sha256"][split] == read_split(folder)["sha256"][split]
        if same and not (changes and data.in_batches):  # batches are not hashed
            check_images(data, preprocess)
            return data, True
    except DataError:  # another set can be too small for the run's own way of splitting
        if not changes:
            raise
    if not changes:
        raise RunError(
            f"the images of the {split} split are not those that {folder.path} was made from: some were changed,"
            " added or removed. Restore them, or pass --data-root to test on the new set."
        )
    try:
        return check_task(as_other_set(config, preprocess, card["classes"], device, changes.get("limit")), card), False
    except DataError as error:
        if settings.name == "folder" or not os.path.isdir(settings.root):
            raise
        raise DataError(f"{error} To test on a folder of images, add --data folder (data='folder').") from None


def changed(config: DataConfig, changes: Mapping[str, Any]) -> DataConfig:
    """Raises ConfigError for a key that does not exist, or a value of the wrong type."""
    unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(DataConfig)})
    if unknown:
        raise ConfigError(f"unknown key 'data.{unknown[0]}'.{nearest(unknown[0], dataclasses.asdict(config))}")
    values = {key: str(value) if isinstance(value, Path) else value for key, value in changes.items()}
    return from_dict({"data": dataclasses.asdict(config) | values}).data


def as_other_set(
    config: Config, preprocess: Preprocess, classes: list[str], device: torch.device, limit: int | None = None
) -> Data:
    """Another set with the same classes, or some of them: its own test split, and all of it where it has none."""
    whole = dataclasses.replace(
        config.data,
        root=tested_root(config.data),
        per_class_train=None,
        per_class_test=None,
        limit=limit,
        test_fraction=0.999,
        val_fraction=0.0,
    )
    data = build_data(dataclasses.replace(config, data=whole), device, preprocess=preprocess)
    check_images(data, preprocess)
    if data.in_batches and data.classes != classes[: data.num_classes]:
        raise DataError(
            f"labels of batches are used as they come, so that the classes must be those of the run, in its order; they"
            f" are {data.classes[:5]}…, and the run's {classes[:5]}…."
        )
    if data.classes != classes:
        odd = sorted(set(data.classes) - set(classes))
        if odd or data.pixel_targets or data.multi_label:
            name = (odd or sorted(set(classes) - set(data.classes)) or classes)[0]
            raise DataError(
                f"the other set has other classes than the model, {name!r} among them; use one with the same classes."
            )
        data.images = numbered_as(data.images, classes)
    if data.images.official is None or "test" not in data.images.official:
        if data.in_batches:
            return data.all_to_test()
        everything = data.index.ok.nonzero()[0]
        data.split = dataclasses.replace(data.split, test=everything, train=everything[:0], val=everything[:0])
    return data


def tested_root(data: DataConfig) -> str:
    """data.root, or ROOT/test of a folder that holds nothing to train on, only a `test` folder (else only a `val`)."""
    if data.name != "folder" or is_remote(data.root):
        return data.root
    root = local_path(data.root)
    found = {SPLIT_NAMES[entry.name.lower()]: entry for entry in subfolders(root) if entry.name.lower() in SPLIT_NAMES}
    part = None if "train" in found else found.get("test", found.get("val"))
    return str(part) if part is not None and subfolders(part) else data.root


def numbered_as(images: ImageSet, classes: Sequence[str]) -> ImageSet:
    """The same set, its labels numbered as in `classes`, which has all of its own."""
    numbers = np.array([list(classes).index(name) for name in images.classes])
    other = copy.copy(images)
    other.labels, other.classes = numbers[images.labels], list(classes)
    return other
