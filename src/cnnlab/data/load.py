"""`load_data`: a set by name, or of the user's own, from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cnnlab.config import Config, from_dict, resolve
from cnnlab.data.build import build_data, build_own
from cnnlab.data.data import Data
from cnnlab.data.own import OWN_SET, OwnData, Source, import_dataset
from cnnlab.data.recommend import (
    derived,
    facts_of,
    follows_from_set,
    is_said,
    open_to_look,
    recommend,
    recommended_recipe,
)
from cnnlab.device import choose_device
from cnnlab.errors import DataError, nearest
from cnnlab.imports import names_code


def load_data(
    name: str | Source = "digits",
    *,
    val: Source | None = None,
    test: Source | None = None,
    transform: Callable[[Any], Any] | None = None,
    classes: Sequence[str] | None = None,
    augment: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    trust_code: bool = False,
    **keys: Any,
) -> Data:
    """Load a set of images by name, or from a Dataset or DataLoaders of your own.

    Args:
        name: digits, multi_digits, mnist, fashion_mnist, cifar10, cifar100, caltech101 or folder;
            "package.module:Class" for a Dataset of your own; or the training set itself: a Dataset of (image, label),
            or a DataLoader of (images, labels). A label is a class number, or a 0 or 1 for each class where an image
            may have several.
        val, test: beside a training set of your own, of the same kind. Without them a Dataset is split as a folder is.
        transform: of the images of a Dataset of your own; what it gives is used as it is, in each epoch anew.
        classes: names of the classes of your own set; None takes its `classes`, else numbers.
        augment: none, light, standard or strong; None takes what the set's recipe names, and none for
            objects of your own.
        batch_size: images per batch; None takes 128, or fewer for a small set.
        seed: of the split, the order and the augmentation.
        device: where the batches are given.
        trust_code: let files of the folder conf name code to run; what `name` itself names is run anyway.
        keys: any `data.*` key, such as root="data", val_fraction=0.25, image_size=64 or limit=1000; beside
            "package.module:Class" any argument of its constructor as well. Size, fit and augmentation of a folder's
            images follow from them where they are not given.

    Raises:
        ConfigError, DataError: see `cnnlab.config` and `cnnlab.data.sources`.
    """
    own = None
    if not isinstance(name, str):
        own = OwnData(name, val, test, transform, classes)
    elif not (val is None and test is None and transform is None and classes is None):
        raise DataError(f"val=, test=, transform= and classes= are for a Dataset of your own, and {name!r} is a name.")
    words = [f"data={name}"] if own is None else ["data=any", f"data.name={OWN_SET}"]
    overrides = [*words, f"seed={seed}"]
    overrides += [] if batch_size is None else [f"trainer.batch_size={batch_size}"]
    overrides += [f"augment={augment}"] if augment else ["augment=none"] if own else []

    composed = resolve(overrides, trust_code=trust_code)
    usual = {"trainer.batch_size": (128, "what load_data gives")}
    usual = {key: pair for key, pair in usual.items() if not is_said(composed, key)}

    def with_keys(of_set: dict[str, tuple[Any, str]]) -> Config:
        values = resolve(overrides, derived=usual | of_set, trust_code=trust_code).config.to_dict()
        unknown = sorted(set(keys) - set(values["data"]))
        if unknown and names_code(name):
            values["data"]["args"] = {key: keys[key] for key in unknown}
        elif unknown:
            raise DataError(f"load_data has no argument {unknown[0]!r}.{nearest(unknown[0], values['data'])}")
        known = {key: value for key, value in keys.items() if key not in unknown}
        values["data"].update({key: str(value) if isinstance(value, Path) else value for key, value in known.items()})
        return from_dict(values)

    config = with_keys({})
    import_dataset(config.data.name)  # the user's own word names it, or trust_code allows it
    if own is None and follows_from_set(config):
        given = {f"data.{key}" for key in keys} | {"model", "model.width", "trainer.epochs"}  # or of no use here
        facts = facts_of(open_to_look(config.data), config.data, seed)
        found = recommended_recipe(facts, config)
        found += recommend(facts, with_keys(derived(found)), lambda key: key in given or is_said(composed, key))
        config = with_keys(derived(found))
    place = choose_device(str(device))
    if own is not None:
        return build_own(config, own, place)
    data = build_data(config, place)
    data.option = name if isinstance(name, str) else None
    return data
