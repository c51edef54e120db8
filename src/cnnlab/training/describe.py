"""A run in words, as it begins: its data, its model, and what it cannot do later."""

from __future__ import annotations

from torch import nn

from cnnlab.data.data import Data
from cnnlab.data.own import OWN_SET
from cnnlab.models.base import count_parameters
from cnnlab.models.registry import OWN_MODULE, default_arguments, model_spec


def describe_run(model: nn.Module, data: Data) -> dict[str, str]:
    name, arguments = model_spec(model)
    target = data.target_domain
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
            {"adapts to": f"{target.config.data.name}: {len(target.split.train):,} images, labels unused"}
            if target
            else {}
        ),
        **({"note": "; ".join(limits)} if (limits := limits_of(model, data)) else {}),
    }


def limits_of(model: nn.Module, data: Data) -> list[str]:
    """What a run on objects of the user's own cannot do, in words."""
    objects = {"data": data.config.data.name == OWN_SET, "network": model_spec(model)[0] == OWN_MODULE}
    given = " and ".join(what for what, is_object in objects.items() if is_object)
    limits = [f"Python objects cannot be saved ({given}): no resume, test or export later"] if given else []
    if data.in_batches:
        limits.append("batches as given: no decoded store, no augment.*, and predict needs your transform")
    return limits
